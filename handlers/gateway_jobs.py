"""The gateway queue: asks a tenant's payment gateway for what a hold or a refund wants, and tells what the gateway has.

A message only says "look at this row now"; the row is the truth. So a message may come twice, late or never: keys make a request
one effect, a row that has moved on needs nothing, and what no message is left for is found by the recovery
(handlers/gateway_recovery.py). Nothing here decides; what was learnt is told by internal commands (docs/decisions/0031).
"""

from collections.abc import Awaitable
from hashlib import sha256
from typing import Protocol
from uuid import UUID

import structlog
from pydantic import ValidationError

from adapters.gateways.facts import Fact, settle, settle_refund
from adapters.gateways.ports import Answer, Charge, Gateway, Refused, Unknown
from adapters.neighbours.ports import TenantDirectory
from adapters.postgres.hold_sweep import hold_of, refund_of
from adapters.postgres.ledger_stream import ReadDatabase
from domain.gateway_entities import ENDED, GatewayRefund, Hold
from domain.ids import derived_id
from handlers import gateway_metrics as metrics
from handlers.job_outcomes import JobFailure
from handlers.jobs import JobWork, RetryPolicy
from handlers.reporting import Reporter
from schemas.gateway import GatewayAdapter
from schemas.hold import GatewayJob, SettlePayment, SettleRefund
from schemas.tenant import TenantProfile

log = structlog.get_logger()

# Deliveries are also what a busy tenant's messages wait for their turn with, about one a second: an hour of that, and then the
# recovery has it.
GATEWAY_RETRY = RetryPolicy(deliveries=4_000, first_seconds=1.0, longest_seconds=30.0)
NOT_THERE = "hold_not_there"  # the replica is behind, or the book was restored from before the message
NO_GATEWAY = "gateway_not_configured"


class GatewaysOf(Protocol):
    """adapters.gateways.provider.Gateways."""

    def of(self, profile: TenantProfile) -> Gateway | None: ...


class Answers:
    """What a gateway said, told as commands. The same finding about the same state of a row is one command, however often and by
    whomever it is told."""

    def __init__(self, reporter: Reporter, tenant_id: str) -> None:
        self._reporter, self._tenant_id = reporter, tenant_id

    async def tell(self, about: Hold | GatewayRefund, fact: Fact) -> None:
        """Raises JobFailure where the command is refused, and what an outage of the command groups raises."""
        digest = sha256(fact.payload()).hexdigest()
        state = (str(about.revision), about.status, about.changed_at.isoformat())
        command_id = derived_id(self._tenant_id, about.id, about.changed_at, fact.command, *state, digest)
        outcome = await self._reporter.report(self._tenant_id, fact.command, command_id, fact.body)
        if outcome.error is not None:
            log.error("gateway_fact_refused", tenant_id=self._tenant_id, command=fact.command, code=outcome.error.code)
            raise JobFailure(outcome.error.code, "what the gateway has was refused", retryable=False)


class GatewayJobs:
    """Handles the messages of the queue; `database` is the primary, or a replica that has what the message saw or says so."""

    def __init__(
        self, database: ReadDatabase, directory: TenantDirectory, gateways: GatewaysOf, reporter: Reporter
    ) -> None:
        self._database, self._directory, self._gateways, self._reporter = database, directory, gateways, reporter

    async def handle(self, work: JobWork) -> None:
        """Raises JobFailure, and what an outage of PostgreSQL or of the command groups raises."""
        job = GatewayJob.model_validate_json(work.data)
        async with self._database.reading(work.tenant_id) as connection:
            hold = await hold_of(connection, work.tenant_id, job.payment_id)
            refund = await refund_of(connection, work.tenant_id, job.refund_id) if job.refund_id else None
        row = refund if job.refund_id else hold
        if hold is None or row is None or row.revision < job.revision:
            raise JobFailure(NOT_THERE, "the row is not there yet", retryable=True)
        if row.revision > job.revision:
            return  # asked for something else since; that has a message of its own
        answers = Answers(self._reporter, work.tenant_id)
        gateway = await gateway_of(self._directory, self._gateways, work.tenant_id, hold.adapter)
        if isinstance(row, GatewayRefund):
            await refund_at(gateway, hold, row, answers)
        else:
            await ask(gateway, row, answers)

    async def leave(self, work: JobWork, failure: JobFailure) -> None:
        """Lets a message go whose request cannot be made now: the recovery looks at the row again."""
        metrics.LEFT.labels(failure.code).inc()
        log.warning("gateway_job_left", tenant_id=work.tenant_id, run_id=str(work.run_id), code=failure.code)


async def gateway_of(
    directory: TenantDirectory, gateways: GatewaysOf, tenant_id: str, adapter: GatewayAdapter
) -> Gateway:
    """The tenant's gateway, as long as it is still the kind that was asked. Raises JobFailure, retryable."""
    profile = await directory.profile(tenant_id)
    if not isinstance(profile, TenantProfile):
        raise JobFailure(profile.code, "the tenant's profile cannot be had", retryable=True)
    gateway = gateways.of(profile) if profile.gateway and profile.gateway.adapter == adapter else None
    if gateway is None:
        raise JobFailure(NO_GATEWAY, f"the tenant has no {adapter} gateway", retryable=True)
    return gateway


# --- a hold -----------------------------------------------------------------------------------------------------------


async def ask(gateway: Gateway, hold: Hold, answers: Answers) -> None:
    """Asks for what the hold wants now; nothing where somebody has told already what became of it."""
    if hold.intent == "charge" and hold.status == "pending":
        wanted = Charge(hold.id, hold.amount_minor, hold.currency, hold.source, hold.requested_minor is not None)
        await _told(gateway, hold, answers, gateway.charge(wanted))
    elif hold.intent == "capture" and hold.status == "capturing":
        amount_minor = hold.requested_minor or hold.authorised_minor
        await _told(gateway, hold, answers, gateway.capture(hold.id, hold.reference or "", amount_minor))
    elif hold.intent in ("cancel", "expire") and (hold.status == "cancelling" or hold.status in ENDED):
        # Without a reference the charge may not have been sent, or its answer was lost: first see what there is to cancel.
        if hold.reference is None:
            await look(gateway, hold, answers)
        else:
            await _told(gateway, hold, answers, gateway.cancel(hold.id, hold.reference))


async def look(gateway: Gateway, hold: Hold, answers: Answers, refusal: str | None = None) -> bool:
    """Tells what the gateway has for a hold; whether it said. `refusal`: it has just said no to what the hold wants."""
    try:
        answer = await gateway.find(hold.id)
        fact = _absent(hold.id) if answer is None else _refused(settle(hold.id, answer), refusal)
    except (Unknown, ValidationError):
        await answers.tell(hold, unknown(hold.id))
        return False
    await answers.tell(hold, fact)
    return True


async def _told(gateway: Gateway, hold: Hold, answers: Answers, asking: Awaitable[Answer | Refused]) -> None:
    try:
        answer = await asking
        fact = None if isinstance(answer, Refused) else settle(hold.id, answer)
    except (Unknown, ValidationError) as error:  # an answer that makes no sense says nothing about what was done
        log.warning("gateway_unknown", payment_id=str(hold.id), intent=hold.intent, error=type(error).__name__)
        return await answers.tell(hold, unknown(hold.id))
    if isinstance(answer, Refused):
        return await _not_done(gateway, hold, answers, answer)
    if fact is not None:
        await answers.tell(hold, fact)


async def _not_done(gateway: Gateway, hold: Hold, answers: Answers, refused: Refused) -> None:
    if refused.retryable:
        raise JobFailure(refused.code, refused.detail, retryable=True)
    if hold.intent == "charge":
        body = SettlePayment(payment_id=hold.id, state="declined", decline_code=_decline_code(refused))
        return await answers.tell(hold, Fact("payment.settle", body))
    await look(gateway, hold, answers, refusal=_decline_code(refused))


def unknown(payment_id: UUID) -> Fact:
    return Fact("payment.settle", SettlePayment(payment_id=payment_id, state="unknown"))


def _absent(payment_id: UUID) -> Fact:
    return Fact("payment.settle", SettlePayment(payment_id=payment_id, state="absent"))


def _refused(fact: Fact, refusal: str | None) -> Fact:
    return fact._replace(body=fact.body.model_copy(update={"refusal": refusal})) if refusal else fact


def _decline_code(refused: Refused) -> str:
    """The gateway's own code where it is fit to be one."""
    try:
        body = SettlePayment(payment_id=UUID(int=0), state="declined", decline_code=refused.detail or refused.code)
    except ValidationError:
        return refused.code
    return body.decline_code or refused.code


# --- a refund ---------------------------------------------------------------------------------------------------------


async def refund_at(gateway: Gateway, hold: Hold, refund: GatewayRefund, answers: Answers) -> None:
    if refund.status != "pending":
        return
    try:
        answer = await gateway.refund(hold.id, hold.reference or "", refund.id, refund.amount_minor)
    except Unknown as error:
        log.warning("gateway_unknown", refund_id=str(refund.id), intent="refund", error=type(error).__name__)
        return await answers.tell(refund, _refund_fact(refund, "unknown"))
    if isinstance(answer, Refused):
        if answer.retryable:
            raise JobFailure(answer.code, answer.detail, retryable=True)
        body = SettleRefund(refund_id=refund.id, state="declined", decline_code=_decline_code(answer))
        return await answers.tell(refund, Fact("payment.settle_refund", body))
    await answers.tell(refund, settle_refund(refund.id, answer))


async def look_at_refund(gateway: Gateway, refund: GatewayRefund, answers: Answers) -> bool:
    """Tells what became of a refund at the gateway; whether it said."""
    try:
        answer = await gateway.find_refund(refund.payment_id, refund.id)
    except Unknown:
        return False
    fact = _refund_fact(refund, "absent") if answer is None else settle_refund(refund.id, answer)
    await answers.tell(refund, fact)
    return True


def _refund_fact(refund: GatewayRefund, state: str) -> Fact:
    return Fact("payment.settle_refund", SettleRefund.model_validate({"refund_id": refund.id, "state": state}))
