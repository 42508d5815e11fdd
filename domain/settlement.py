"""What a gateway has for a payment, folded into the books as far as it is news: repeated, late and in any order.

Money that moved is always booked as the gateway says it moved: what is in 1030 is what the gateway has to pay out. Where that
is not what was asked, the payment is booked all the same and the hold stays in `mismatch` for a person to look at. One thing
cannot be booked: another currency than the account's, which has no unapplied credit in it.
"""

from typing import Any, NamedTuple
from uuid import UUID

from domain.account import account_event
from domain.chart import GATEWAY_CLEARING, GATEWAY_FEES
from domain.common import needs_open_day, open_day
from domain.decision import (
    Accepted,
    Capability,
    Command,
    Decision,
    Event,
    JobMessage,
    LedgerKey,
    Posting,
    Rejected,
    rejected,
)
from domain.entities import Account, Entity, Invoice, Payment, Refund
from domain.gateway_entities import ENDED, LIVE, Hold, HoldAllocation
from domain.hold import asked, hold_event, hold_result
from domain.lookups import ACCOUNT_OF_HOLD, HOLD, HOLD_ALLOCATIONS, INVOICES_OF_HOLD, PAYMENT
from domain.payment import allocate, payment_event, receipt
from domain.payment_undo import refund_posting
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.hold import HoldFault, SettlePayment

_REFUNDED_OUTSIDE = "made at the gateway"


class Effects(NamedTuple):
    """What follows beside the hold itself. The first event covers the postings."""

    events: tuple[Event, ...] = ()
    writes: tuple[Entity, ...] = ()
    postings: tuple[Posting, ...] = ()


NOTHING = Effects()


def needs_settle(command: Command[SettlePayment]) -> Needs:
    payment_id = command.body.payment_id
    lookups = (HOLD, HOLD_ALLOCATIONS, PAYMENT, ACCOUNT_OF_HOLD, INVOICES_OF_HOLD)
    return [*((lookup, payment_id) for lookup in lookups), *needs_open_day(command)]


def decide_settle(snapshot: Snapshot, command: Command[SettlePayment]) -> Decision:
    body, hold = command.body, snapshot.get(Hold, command.body.payment_id)
    if hold is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(body.payment_id))
    told = hold._replace(reference=hold.reference or body.reference)
    jobs: tuple[JobMessage, ...] = ()
    effects = NOTHING
    if body.state in ("captured", "refunded"):
        booked = _captured(snapshot, command, told)
        if isinstance(booked, Rejected):
            return booked
        after, effects = booked
    else:
        after, ask = _stated(hold, told, body)
        if ask:
            after, message = asked(after)
            jobs = (message,)
    if after == hold and effects == NOTHING:
        return Accepted(hold_result(hold), ())
    after = after._replace(changed_at=command.recorded_at)
    changed = (after.status, after.fault) != (hold.status, hold.fault)
    events = (*effects.events, *((hold_event(after),) if changed else ()))
    if effects.postings and not events:
        events = (hold_event(after, "payment.fee_charged"),)
    return Accepted(hold_result(after), events, (after, *effects.writes), effects.postings, jobs)


# --- no money moved ---------------------------------------------------------------------------------------------------


def _stated(before: Hold, hold: Hold, body: SettlePayment) -> tuple[Hold, bool]:
    """The hold after what was told, and whether the gateway has to be asked for something now."""
    if body.state == "unknown":
        return _unknown(hold), False
    if body.state == "absent":
        return _absent(hold)
    if body.state == "pending":
        return _undecided(before, hold)
    if body.state == "authorised":
        return _authorised(before, hold, body)
    return _over(hold, body), False


def _unknown(hold: Hold) -> Hold:
    """A late one changes nothing: what is known by then is known from the gateway."""
    return hold._replace(status="unknown") if hold.status in ("pending", "capturing", "cancelling") else hold


def _absent(hold: Hold) -> tuple[Hold, bool]:
    """Never heard of: the same request may go again under the same key, or nothing was ever held (DOMAIN rule 9)."""
    if hold.intent == "charge" and hold.status in ("pending", "unknown"):
        return hold._replace(status="pending"), True
    if hold.intent in ("cancel", "expire") and hold.status in ("cancelling", "unknown"):
        return _ended(hold), False
    if hold.status in LIVE:
        return hold._replace(status="mismatch", fault="absent"), False
    return hold, False


def _undecided(before: Hold, hold: Hold) -> tuple[Hold, bool]:
    """The gateway is at it (a payer confirms, a wallet is slow). A cancellation that waited for its reference goes now."""
    first_heard_of = before.reference is None or before.status == "unknown"
    if hold.intent in ("cancel", "expire") and hold.status in ("cancelling", "unknown"):
        return hold._replace(status="cancelling"), first_heard_of
    if hold.status == "unknown":
        return hold._replace(status="capturing" if hold.intent == "capture" else "pending"), False
    return hold, False


def _authorised(before: Hold, hold: Hold, body: SettlePayment) -> tuple[Hold, bool]:
    if hold.status in ENDED and not hold.captured_minor:
        # It had ended here; whatever the gateway holds has to be let go of.
        return hold._replace(intent="cancel"), True
    if hold.status not in LIVE:
        return hold, False
    hold = hold._replace(authorised_minor=body.authorised_minor)
    if body.expires_at is not None:
        hold = hold._replace(expires_at=min(hold.expires_at, body.expires_at))
    if hold.intent in ("cancel", "expire"):
        if body.refusal:
            return hold._replace(status="authorised", intent="charge", fault="cancel_refused"), False
        first_heard_of = before.reference is None or before.status == "unknown"
        return hold._replace(status="cancelling"), first_heard_of
    if fault := _authorised_fault(hold, body):
        currency = body.currency if body.currency != hold.currency else None
        return hold._replace(status="mismatch", fault=fault, gateway_currency=currency), False
    if hold.intent == "capture":
        if body.refusal:
            refused = hold._replace(requested_minor=None, decline_code=body.refusal, fault="capture_refused")
            return refused._replace(status="authorised", intent="charge"), False
        return hold._replace(status="capturing"), before.status == "unknown"
    if hold.requested_minor is None:
        return hold._replace(status="authorised"), False
    return hold._replace(status="capturing", intent="capture"), True


def _authorised_fault(hold: Hold, body: SettlePayment) -> HoldFault | None:
    if body.currency != hold.currency:
        return "currency_mismatch"
    return "amount_mismatch" if body.authorised_minor != hold.amount_minor else None


def _over(hold: Hold, body: SettlePayment) -> Hold:
    """Declined, cancelled or expired at the gateway: nothing is held there."""
    if hold.captured_minor or hold.status not in (*LIVE, "mismatch"):
        return hold
    if hold.intent in ("cancel", "expire"):
        return _ended(hold)
    if body.state == "declined":
        return hold._replace(status="declined", decline_code=body.decline_code or body.refusal)
    return hold._replace(status="expired" if body.state == "expired" else "cancelled")


def _ended(hold: Hold) -> Hold:
    return hold._replace(status="expired" if hold.intent == "expire" else "cancelled")


# --- money moved ------------------------------------------------------------------------------------------------------


def _captured(snapshot: Snapshot, command: Command[SettlePayment], hold: Hold) -> tuple[Hold, Effects] | Rejected:
    """Books what the gateway captured, refunded by itself, and charged for it, each as far as it is not booked."""
    body = command.body
    if body.currency != hold.currency:
        return _foreign(hold, body), NOTHING
    payment = snapshot.get(Payment, hold.id)
    day = open_day(snapshot, command)
    if isinstance(day, Rejected):
        return day
    events: list[Event] = []
    writes: list[Entity] = []
    postings: list[Posting] = []
    if payment is None:
        hold, made, payment = _booked(snapshot, command, hold, day)
        events += made.events
        writes += made.writes
        postings += made.postings
    elif body.captured_minor > hold.captured_minor:
        hold = hold._replace(status="mismatch", fault="amount_mismatch", captured_minor=body.captured_minor)
    outside = body.refunded_minor - hold.refunded_minor - payment.refunding_minor
    if outside > 0:
        hold, refunded = _refunded_outside(command, hold, payment, outside, day)
        events += refunded.events
        writes = [each for each in writes if not isinstance(each, Payment) or not refunded.writes]
        writes += refunded.writes
        postings += refunded.postings
    if body.fee_minor is not None and body.fee_minor != hold.fee_minor:
        postings.append(fee(hold.currency, body.fee_minor - hold.fee_minor, hold.id, day))
        hold = hold._replace(fee_minor=body.fee_minor)
    return hold, Effects(tuple(events), tuple(writes), tuple(postings))


def _foreign(hold: Hold, body: SettlePayment) -> Hold:
    return hold._replace(
        status="mismatch",
        fault="currency_mismatch",
        gateway_currency=body.currency,
        captured_minor=max(hold.captured_minor, body.captured_minor),
    )


def _booked(snapshot: Snapshot, command: Command[SettlePayment], hold: Hold, day: Any) -> tuple[Hold, Effects, Payment]:
    """The payment of a hold. Invoices that were paid by somebody else meanwhile leave unapplied credit; so does money that came
    in after the hold had been given up, which also opens a closed account again."""
    captured_minor = command.body.captured_minor
    late = hold.status in ENDED or hold.intent in ("cancel", "expire")
    off = captured_minor > hold.amount_minor or hold.requested_minor not in (None, captured_minor)
    parts = [] if late else _parts(snapshot, hold, captured_minor)
    payment = Payment(
        id=hold.id,
        account_id=hold.account_id,
        party_id=hold.party_id,
        method="gateway",
        status="recorded",
        reference=None,
        received_on=day,
        currency=hold.currency,
        amount_minor=captured_minor,
        cash_rounding_minor=0,
        allocated_minor=sum(amount for _, amount in parts),
        refunded_minor=0,
        recorded_at=command.recorded_at,
    )
    fault: HoldFault | None = "captured_late" if late else "amount_mismatch" if off else None
    after = hold._replace(
        status="mismatch" if fault == "amount_mismatch" else "captured",
        fault=fault,
        authorised_minor=max(hold.authorised_minor, command.body.authorised_minor),
        captured_minor=captured_minor,
    )
    allocated = allocate(command, payment, parts, day)
    account = snapshot.get(Account, hold.account_id, via=(ACCOUNT_OF_HOLD, hold.id))
    reopened = [account._replace(status="open")] if account and account.status == "closed" else []
    events = (
        payment_event("payment.recorded", payment, allocated.allocations),
        *allocated.events,
        *(account_event("account.updated", each) for each in reopened),
    )
    writes: tuple[Entity, ...] = (payment, *allocated.invoices, *allocated.allocations, *reopened)
    return after, Effects(events, writes, receipt(payment, parts)), payment


def _parts(snapshot: Snapshot, hold: Hold, captured_minor: int) -> list[tuple[Invoice, int]]:
    """What was meant, as far as it is still open and there is money for it."""
    meant: list[HoldAllocation] = snapshot.find(HOLD_ALLOCATIONS, hold.id)
    parts, left = [], captured_minor
    for item in sorted(meant, key=lambda item: item.position):
        invoice = snapshot.get(Invoice, item.invoice_id, via=(INVOICES_OF_HOLD, hold.id))
        amount = min(item.amount_minor, invoice.open_minor, left) if invoice and invoice.status == "issued" else 0
        if invoice and amount > 0:
            parts.append((invoice, amount))
            left -= amount
    return parts


def _refunded_outside(
    command: Command[SettlePayment], hold: Hold, payment: Payment, amount_minor: int, day: Any
) -> tuple[Hold, Effects]:
    """Somebody gave money back at the gateway itself. Out of unapplied credit it is a refund like any other; money that is on
    invoices is for a person to take off them, and booked when the gateway says it the next time."""
    if amount_minor > payment.unapplied_minor:
        return hold._replace(status="mismatch", fault="refund_mismatch"), NOTHING
    refund = Refund(
        id=command.derive("refund"),
        payment_id=payment.id,
        amount_minor=amount_minor,
        method="gateway",
        refunded_on=day,
        reason=_REFUNDED_OUTSIDE,
        recorded_at=command.recorded_at,
    )
    after = payment._replace(refunded_minor=payment.refunded_minor + amount_minor)
    events = (payment_event("payment.refunded", after, refund_id=refund.id),)
    hold = hold._replace(refunded_minor=hold.refunded_minor + amount_minor)
    if hold.fault == "refund_mismatch":
        hold = hold._replace(status="captured", fault=None)
    return hold, Effects(events, (after, refund), (refund_posting(after, refund),))


def fee(currency: str, amount_minor: int, document_id: UUID, day: Any) -> Posting:
    """What a gateway keeps; negative: what it kept too much of."""
    fees, clearing = LedgerKey(GATEWAY_FEES, currency), LedgerKey(GATEWAY_CLEARING, currency)
    debit, credit = (fees, clearing) if amount_minor > 0 else (clearing, fees)
    return Posting(debit, credit, abs(amount_minor), "gateway_fee", document_id, day)


CAPABILITIES = {"payment.settle": Capability(needs_settle, decide_settle)}
