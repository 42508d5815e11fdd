"""Charges through a payment gateway: asked for, captured, cancelled, expired (docs/payment-gateway.md has the states).

Nothing here moves money: a decision stores what is wanted and gives the gateway job a message. What the gateway then has is told
by `payment.settle` (domain/settlement.py). One request per hold is under way at a time: what is asked while the gateway has
not decided a charge waits for that decision.
"""

from datetime import timedelta
from typing import Any

from domain.common import needs_open_day
from domain.decision import Accepted, Capability, Command, Decision, Event, JobMessage, Rejected, rejected
from domain.gateway_entities import ENDED, Circuit, Hold, HoldAllocation
from domain.lookups import ACCOUNT, CIRCUIT, HOLD, INVOICE
from domain.payment import amounts_refusal, for_whom, needs_new
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.hold import (
    CancelPayment,
    CapturePayment,
    ChargePayment,
    ExpirePayment,
    GatewayJob,
    HoldIntent,
    HoldResult,
    HoldStatus,
    HoldView,
)

JOB_KIND = "gateway"


def hold_view(hold: Hold) -> HoldView:
    return HoldView(
        payment_id=hold.id,
        status=hold.status,
        currency=hold.currency,
        amount_minor=hold.amount_minor,
        captured_minor=hold.captured_minor,
        account_id=hold.account_id,
        party_id=hold.party_id,
        adapter=hold.adapter,
        capture=hold.capture,
        intent=hold.intent,
        requested_minor=hold.requested_minor,
        authorised_minor=hold.authorised_minor,
        refunded_minor=hold.refunded_minor,
        fee_minor=hold.fee_minor,
        gateway_currency=hold.gateway_currency,
        reference=hold.reference,
        decline_code=hold.decline_code,
        fault=hold.fault,
        dispute=hold.dispute,
        expires_at=hold.expires_at,
        recorded_at=hold.recorded_at,
        changed_at=hold.changed_at,
    )


def hold_result(hold: Hold) -> HoldResult:
    return HoldResult(
        payment_id=hold.id,
        status=hold.status,
        currency=hold.currency,
        amount_minor=hold.amount_minor,
        captured_minor=hold.captured_minor,
    )


def hold_event(hold: Hold, name: str | None = None) -> Event:
    """The event of the state a hold is in, or another about it."""
    state = "mismatched" if hold.status == "mismatch" else hold.status
    return Event(name or f"payment.{state}", str(hold.id), hold_view(hold))


def asked(hold: Hold) -> tuple[Hold, JobMessage]:
    """The hold with one more request for the gateway job, and the message that says so."""
    after = hold._replace(revision=hold.revision + 1)
    return after, JobMessage(JOB_KIND, GatewayJob(payment_id=after.id, revision=after.revision))


# --- charge -----------------------------------------------------------------------------------------------------------


def needs_charge(command: Command[ChargePayment]) -> Needs:
    """The open days are for a settlement that may follow in the same batch."""
    body, gateway = command.body, command.tenant.gateway
    return [
        (ACCOUNT, body.account_id),
        *((INVOICE, item.invoice_id) for item in body.allocations),
        *needs_new(body.payment_id),
        *([(CIRCUIT, gateway.adapter)] if gateway else []),
        *needs_open_day(command),
    ]


def decide_charge(snapshot: Snapshot, command: Command[ChargePayment]) -> Decision:
    body, gateway = command.body, command.tenant.gateway
    found = for_whom(snapshot, body)
    if isinstance(found, Rejected):
        return found
    account, parts = found
    if gateway is None:
        return rejected(Code.GATEWAY_NOT_CONFIGURED)
    if refusal := _circuit_refusal(snapshot, command, gateway.adapter):
        return refusal
    if body.amount.currency != account.currency:
        return rejected(Code.CURRENCY_MISMATCH, expected=account.currency, given=body.amount.currency)
    if gateway.currencies and account.currency not in gateway.currencies:
        return rejected(Code.GATEWAY_CURRENCY_UNSUPPORTED, currency=account.currency)
    if refusal := amounts_refusal(parts, body.amount.amount_minor):
        return refusal
    capture = body.capture or gateway.capture
    hold = Hold(
        id=body.payment_id or command.derive("payment"),
        account_id=account.id,
        party_id=body.party_id,
        adapter=gateway.adapter,
        status="pending",
        intent="charge",
        revision=0,
        currency=account.currency,
        amount_minor=body.amount.amount_minor,
        capture=capture,
        source=body.source,
        requested_minor=body.amount.amount_minor if capture == "automatic" else None,
        authorised_minor=0,
        captured_minor=0,
        refunded_minor=0,
        fee_minor=0,
        gateway_currency=None,
        reference=None,
        decline_code=None,
        fault=None,
        dispute=None,
        expires_at=command.recorded_at + timedelta(hours=gateway.hold_hours),
        recorded_at=command.recorded_at,
        changed_at=command.recorded_at,
    )
    hold, message = asked(hold)
    meant = tuple(
        HoldAllocation(hold.id, invoice.id, position, amount) for position, (invoice, amount) in enumerate(parts)
    )
    return Accepted(hold_result(hold), (hold_event(hold),), (hold, *meant), jobs=(message,))


def _circuit_refusal(snapshot: Snapshot, command: Command[Any], adapter: str) -> Rejected | None:
    circuit = snapshot.get(Circuit, adapter)
    if circuit is None or circuit.state == "closed" or circuit.open_until is None:
        return None
    if command.recorded_at >= circuit.open_until:
        return None
    return rejected(Code.CIRCUIT_OPEN, adapter=adapter, open_until=circuit.open_until.isoformat())


# --- capture ----------------------------------------------------------------------------------------------------------


def needs_hold(command: Command[CapturePayment] | Command[CancelPayment] | Command[ExpirePayment]) -> Needs:
    return [(HOLD, command.body.payment_id)]


def decide_capture(snapshot: Snapshot, command: Command[CapturePayment]) -> Decision:
    hold = snapshot.get(Hold, command.body.payment_id)
    if hold is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(command.body.payment_id))
    if hold.status in ENDED:
        return rejected(Code.HOLD_ENDED, payment_id=str(hold.id), status=hold.status)
    if hold.status != "authorised" or hold.expires_at <= command.recorded_at:
        status = "expired" if hold.status == "authorised" else hold.status
        return rejected(Code.HOLD_NOT_AUTHORISED, payment_id=str(hold.id), status=status)
    amount_minor = command.body.amount_minor or hold.authorised_minor
    if amount_minor > hold.authorised_minor:
        return rejected(Code.CAPTURE_EXCEEDS_HOLD, held_minor=hold.authorised_minor)
    wanted = hold._replace(requested_minor=amount_minor, fault=None)
    return _wanted(command, wanted, "capturing", "capture", ask=True)


# --- cancel, expire ---------------------------------------------------------------------------------------------------


def decide_cancel(snapshot: Snapshot, command: Command[CancelPayment]) -> Decision:
    hold = snapshot.get(Hold, command.body.payment_id)
    if hold is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(command.body.payment_id))
    if hold.status in ENDED or hold.captured_minor:
        return rejected(Code.HOLD_ENDED, payment_id=str(hold.id), status=hold.status)
    if hold.intent == "capture":
        return rejected(Code.HOLD_NOT_AUTHORISED, payment_id=str(hold.id), status=hold.status)
    if hold.status == "cancelling" and hold.intent == "cancel":
        return Accepted(hold_result(hold), ())
    return _released(command, hold, "cancel")


def decide_expire(snapshot: Snapshot, command: Command[ExpirePayment]) -> Decision:
    """Looks again at what the schedule has seen: a hold that ended meanwhile, or is about to, is left alone."""
    hold = snapshot.get(Hold, command.body.payment_id)
    if hold is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(command.body.payment_id))
    due = hold.status in ("pending", "authorised", "unknown") and hold.expires_at <= command.recorded_at
    return _released(command, hold, "expire") if due and hold.intent == "charge" else Accepted(hold_result(hold), ())


def _released(command: Command[Any], hold: Hold, intent: HoldIntent) -> Accepted:
    """A charge that is on its way to the gateway is not overtaken: whoever has its message will see what is wanted now."""
    on_its_way = hold.status in ("pending", "cancelling") and hold.reference is None
    return _wanted(command, hold._replace(fault=None), "cancelling", intent, ask=not on_its_way)


def _wanted(command: Command[Any], hold: Hold, status: HoldStatus, intent: HoldIntent, *, ask: bool) -> Accepted:
    after, jobs = hold._replace(status=status, intent=intent, changed_at=command.recorded_at), tuple[JobMessage, ...]()
    if ask:
        after, message = asked(after)
        jobs = (message,)
    return Accepted(hold_result(after), (hold_event(after),), (after,), jobs=jobs)


CAPABILITIES = {
    "payment.charge": Capability(needs_charge, decide_charge),
    "payment.capture": Capability(needs_hold, decide_capture),
    "payment.cancel": Capability(needs_hold, decide_cancel),
    "payment.expire": Capability(needs_hold, decide_expire),
}
