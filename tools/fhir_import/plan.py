"""The plan of an import: commands in order, patient by patient, with ids that depend on the tenant and the resource alone."""

import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from tools.fhir_import.remarks import Remark

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:billing-mesh:fhir-import")

# What one patient's commands wait for: a stage begins when the one before has been answered.
STAGES = ("account.open", "charge.capture", "invoice.create", "invoice.issue", "payment.record")


def derived(tenant_id: str, resource: str, purpose: str) -> UUID:
    """The id of what `resource` (`Type/id`) becomes in a tenant's books, or of the command that makes it so."""
    return uuid.uuid5(NAMESPACE, "\x1f".join((tenant_id, resource, purpose)))


class Share(NamedTuple):
    """A part of a payment meant for the documents of an `invoice.create` step."""

    invoice: str
    amount_minor: int


@dataclass(frozen=True)
class Step:
    """One command to be. `key` is unique in the plan; `needs` are keys of steps without whose effect it must not be sent.

    An `invoice.issue` stands for one command per document of the step it needs, a `payment.record` gets its allocations from
    `shares`: both are known only when `invoice.create` has been answered.
    """

    key: str
    command: str
    command_id: UUID
    body: dict[str, Any]
    resource: str
    needs: tuple[str, ...] = ()
    shares: tuple[Share, ...] = ()


@dataclass
class Money:
    """Sums in minor units of the account's currency."""

    billed_minor: int = 0
    paid_minor: int = 0


@dataclass
class Lane:
    """One billing account: a patient in one currency. `declared` are the bundles' own totals, mapped or not."""

    patient: str
    currency: str
    account_id: UUID
    steps: list[Step] = field(default_factory=list)
    declared: Money = field(default_factory=Money)

    def stage(self, command: str) -> list[Step]:
        return [step for step in self.steps if step.command == command]


@dataclass
class Plan:
    """`seen` counts the bundles' resources by type; `unmapped` those whose mapping ended without a command of their own."""

    tenant_id: str
    lanes: list[Lane]
    remarks: list[Remark]
    seen: dict[str, int]
    files: int

    @property
    def steps(self) -> list[Step]:
        return [step for lane in self.lanes for step in lane.steps]

    @property
    def unmapped(self) -> list[Remark]:
        return [remark for remark in self.remarks if remark.severity == "unmapped"]
