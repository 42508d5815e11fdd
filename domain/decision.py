"""What a command is, and what deciding it can come to. Refusals are values; an exception in a `decide` is a bug."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from domain.calendar import business_date
from domain.entities import Entity
from domain.ids import derived_id
from domain.snapshot import Needs, Snapshot
from schemas.base import CommandBody, WireModel
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.tenant import TenantProfile

P = TypeVar("P", bound=CommandBody)

# Refused because something is not there; it may be on its way behind this command (a pipelined invoice.issue that overtook
# its invoice.create), so the pipeline waits a little before the refusal becomes final.
AWAITABLE = frozenset(
    {
        Code.ACCOUNT_NOT_FOUND,
        Code.CHARGE_NOT_FOUND,
        Code.INVOICE_NOT_FOUND,
        Code.PAYMENT_NOT_FOUND,
        Code.PRICE_NOT_FOUND,
    }
)


class Command(NamedTuple, Generic[P]):
    """A decoded command with everything that was looked up for it before the transaction.

    `refusal` is a refusal already known (entitlement, residency, a neighbour that is away); `tenant` is then not to be relied on.
    `recorded_at` is the message's JetStream timestamp and the only clock there is. `may_wait`: see AWAITABLE. `opted_in`: its
    tenant is of another region or country, and admitted because it opted in.
    """

    tenant: TenantProfile
    name: str
    command_id: UUID
    body: P
    payload_hash: bytes
    recorded_at: datetime
    stream_sequence: int
    actor: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    may_wait: bool = False
    refusal: Problem | None = None
    opted_in: bool = False

    @property
    def today(self) -> date:
        """The tenant's business date when the command was recorded."""
        return business_date(self.tenant, self.recorded_at)

    def derive(self, *parts: str) -> UUID:
        """An id the client left out."""
        return derived_id(self.tenant.tenant_id, self.command_id, self.recorded_at, *parts)


class LedgerKey(NamedTuple):
    """Identifies a ledger account of the tenant; sub-ledgers name the billing account, receivables the party too."""

    code: str
    currency: str
    account_id: UUID | None = None
    party_id: str | None = None


class Posting(NamedTuple):
    """Debit and credit one amount (> 0, minor units of the keys' currency)."""

    debit: LedgerKey
    credit: LedgerKey
    amount_minor: int
    kind: str
    document_id: UUID
    effective_on: date
    reverses_document_id: UUID | None = None


class Event(NamedTuple):
    name: str
    subject_id: str
    data: WireModel


class JobMessage(NamedTuple):
    """Work for the workers, on its way with the commit: `billing.v1.job.<tenant>.<kind>`."""

    kind: str
    body: WireModel


class Accepted(NamedTuple):
    """`writes` are new rows and new states of loaded ones, `events` has at least one, the first of which covers the postings."""

    result: WireModel
    events: tuple[Event, ...]
    writes: tuple[Entity, ...] = ()
    postings: tuple[Posting, ...] = ()
    jobs: tuple[JobMessage, ...] = ()


class Rejected(NamedTuple):
    """`awaits`: the refusal may resolve itself as earlier commands catch up."""

    problem: Problem
    awaits: bool


Decision = Accepted | Rejected


def rejected(code: Code, /, *, awaits: bool | None = None, **details: Any) -> Rejected:
    return Rejected(problem(code, None, **details), code in AWAITABLE if awaits is None else awaits)


class Capability(NamedTuple):
    """The domain half of a command. Neither function has side effects; `decide` reads only what `needs` asked for."""

    needs: Callable[[Any], Needs]
    decide: Callable[[Snapshot, Any], Decision]
