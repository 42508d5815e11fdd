"""Look-ups that must not happen inside a transaction: once per batch, for everything in it."""

from collections.abc import Mapping, Sequence

from adapters.neighbours.ports import CodedItem, TenantDirectory, Terminology
from domain.admission import admission, opted_in
from domain.decision import Command
from handlers.inbound import Inbound
from handlers.waits import Waits
from schemas.base import CommandBody
from schemas.charge import CaptureCharge
from schemas.outcome import Problem
from schemas.tenant import TenantProfile


class Preparation:
    """`region` and `country_profile` are the deployment's (domain.admission)."""

    def __init__(
        self, directory: TenantDirectory, terminology: Terminology, region: str, country_profile: str | None = None
    ) -> None:
        self._directory = directory
        self._terminology = terminology
        self._region, self._country_profile = region, country_profile

    async def commands(self, tenant_id: str, share: Sequence[Inbound], waits: Waits) -> list[Command[CommandBody]]:
        """The commands of one tenant with everything they need to be decided, refusals already known included.

        `waits` says which of them may still wait for what they name.
        """
        profile = await self._directory.profile(tenant_id)
        refusal = admission(profile, self._region, self._country_profile)
        known = profile if isinstance(profile, TenantProfile) else _unknown(tenant_id)
        crossing = opted_in(profile, self._region, self._country_profile)
        items = {item for inbound in share if (item := coded_item(inbound.body))} if refusal is None else set()
        validity = await self._terminology.validate(items) if items else {}
        return [
            _command(
                inbound, known, refusal or _code_refusal(inbound, validity), waits.may_wait(inbound.delivery), crossing
            )
            for inbound in share
        ]


def coded_item(body: CommandBody) -> CodedItem | None:
    """The charge code that the terminology service has to know."""
    return CodedItem(body.code_system, body.code) if isinstance(body, CaptureCharge) else None


def _code_refusal(inbound: Inbound, validity: Mapping[CodedItem, Problem | None]) -> Problem | None:
    item = coded_item(inbound.body)
    return validity[item] if item else None


def _command(
    inbound: Inbound, profile: TenantProfile, refusal: Problem | None, may_wait: bool, crossing: bool
) -> Command[CommandBody]:
    return Command(
        tenant=profile,
        name=inbound.name,
        command_id=inbound.command_id,
        body=inbound.body,
        payload_hash=inbound.payload_hash,
        recorded_at=inbound.origin.recorded_at,
        stream_sequence=inbound.origin.stream_sequence,
        actor=inbound.actor,
        correlation_id=inbound.correlation_id,
        traceparent=inbound.traceparent,
        may_wait=may_wait,
        refusal=refusal,
        opted_in=crossing,
    )


def _unknown(tenant_id: str) -> TenantProfile:
    """Stands in where there is no profile; every command it goes with carries a refusal."""
    return TenantProfile(tenant_id=tenant_id, name="unknown", entitled=False, region="unknown", country_profile="ZZZ")
