"""What else gateways tell: what became of refunds, disputes, payouts, and whether a gateway answers at all."""

from datetime import date
from typing import Any

from domain.account import account_event
from domain.chart import BANK, GATEWAY_CLEARING
from domain.common import needs_open_day, open_day, receivable
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
from domain.gateway_entities import Circuit, GatewayRefund, Hold, Payout
from domain.hold import hold_event
from domain.lookups import (
    ACCOUNT_OF_PAYMENT,
    ALLOCATIONS_OF_PAYMENT,
    CIRCUIT,
    GATEWAY_REFUND,
    HOLD,
    HOLD_OF_REFUND,
    INVOICES_OF_PAYMENT,
    PAYMENT,
    PAYMENT_OF_REFUND,
    PAYOUT,
    REFUND,
)
from domain.payment import allocate, money, payment_event, payment_result, unapplied
from domain.payment_undo import net_by_invoice, refund_event, refund_message, refund_posting, refund_result
from domain.settlement import fee
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.hold import (
    CircuitResult,
    DisputePayment,
    PayoutResult,
    ReportCircuit,
    SettlePayout,
    SettleRefund,
)

# --- refunds ----------------------------------------------------------------------------------------------------------


def needs_settle_refund(command: Command[SettleRefund]) -> Needs:
    refund_id = command.body.refund_id
    lookups = (GATEWAY_REFUND, REFUND, PAYMENT_OF_REFUND, HOLD_OF_REFUND)
    return [*((lookup, refund_id) for lookup in lookups), *needs_open_day(command)]


def decide_settle_refund(snapshot: Snapshot, command: Command[SettleRefund]) -> Decision:
    """Repeats and late answers change nothing. A refund made after it was said to have failed takes the credit again, or is
    flagged where that was used meanwhile."""
    body, refund = command.body, snapshot.get(GatewayRefund, command.body.refund_id)
    if refund is None and snapshot.get(Refund, body.refund_id):
        return rejected(Code.NOT_A_GATEWAY_PAYMENT, refund_id=str(body.refund_id))
    if refund is None:
        return rejected(Code.REFUND_NOT_FOUND, refund_id=str(body.refund_id))
    payment = snapshot.get(Payment, refund.payment_id, via=(PAYMENT_OF_REFUND, refund.id))
    if payment is None:
        raise LookupError(f"refund {refund.id} has no payment")
    told = refund._replace(reference=refund.reference or body.reference)
    if body.state == "refunded" and refund.status != "done":
        return _made(snapshot, command, payment, told)
    if refund.status not in ("pending", "unknown"):
        return Accepted(refund_result(payment, refund), ())
    if body.state == "declined":
        released = payment._replace(refunding_minor=payment.refunding_minor - refund.amount_minor)
        return _changed(command, released, told._replace(status="failed", decline_code=body.decline_code), payment)
    if body.state == "absent":
        again = told._replace(status="pending", revision=refund.revision + 1)
        return _changed(command, payment, again, payment, jobs=(refund_message(again),))
    after = told._replace(status="unknown" if body.state == "unknown" else "pending")
    if after == refund:
        return Accepted(refund_result(payment, refund), ())
    return _changed(command, payment, after, payment)


def _changed(
    command: Command[Any], payment: Payment, refund: GatewayRefund, before: Payment, jobs: tuple[JobMessage, ...] = ()
) -> Accepted:
    after = refund._replace(changed_at=command.recorded_at)
    writes: tuple[Entity, ...] = (after, payment) if payment != before else (after,)
    event = refund_event("payment.refund_changed", payment, after)
    return Accepted(refund_result(payment, after), (event,), writes, jobs=jobs)


def _made(snapshot: Snapshot, command: Command[Any], payment: Payment, asked: GatewayRefund) -> Decision:
    day = open_day(snapshot, command)
    if isinstance(day, Rejected):
        return day
    hold = snapshot.get(Hold, payment.id, via=(HOLD_OF_REFUND, asked.id))
    if hold is None:
        raise LookupError(f"payment {payment.id} has no hold")
    reserved = 0 if asked.status == "failed" else asked.amount_minor
    if asked.amount_minor > payment.unapplied_minor + reserved:
        return _used_meanwhile(command, payment, hold, asked)
    refund = Refund(asked.id, payment.id, asked.amount_minor, "gateway", day, asked.reason, command.recorded_at)
    done = asked._replace(status="done", decline_code=None, changed_at=command.recorded_at)
    after = payment._replace(
        refunding_minor=payment.refunding_minor - reserved, refunded_minor=payment.refunded_minor + asked.amount_minor
    )
    told = hold._replace(refunded_minor=hold.refunded_minor + asked.amount_minor, changed_at=command.recorded_at)
    event = payment_event("payment.refunded", after, refund_id=refund.id)
    posting = refund_posting(after, refund)
    return Accepted(refund_result(after, done), (event,), (after, refund, done, told), (posting,))


def _used_meanwhile(command: Command[Any], payment: Payment, hold: Hold, asked: GatewayRefund) -> Accepted:
    if hold.fault == "refund_mismatch":
        return Accepted(refund_result(payment, asked), ())
    flagged = hold._replace(status="mismatch", fault="refund_mismatch", changed_at=command.recorded_at)
    return Accepted(refund_result(payment, asked), (hold_event(flagged),), (flagged,))


# --- disputes ---------------------------------------------------------------------------------------------------------


def needs_dispute(command: Command[DisputePayment]) -> Needs:
    payment_id = command.body.payment_id
    lookups = (PAYMENT, HOLD, ALLOCATIONS_OF_PAYMENT, INVOICES_OF_PAYMENT, ACCOUNT_OF_PAYMENT)
    return [*((lookup, payment_id) for lookup in lookups), *needs_open_day(command)]


def decide_dispute(snapshot: Snapshot, command: Command[DisputePayment]) -> Decision:
    """In any order and repeated: a dispute that was lost stays lost, one that was won is not open again."""
    body, payment = command.body, snapshot.get(Payment, command.body.payment_id)
    hold = snapshot.get(Hold, command.body.payment_id)
    if payment is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(body.payment_id))
    if hold is None:
        return rejected(Code.NOT_A_GATEWAY_PAYMENT, payment_id=str(payment.id))
    if hold.dispute in ("lost", body.stage) or (hold.dispute == "won" and body.stage == "opened"):
        return Accepted(payment_result(payment), ())
    told = hold._replace(dispute=body.stage, changed_at=command.recorded_at)
    if body.stage != "lost":
        return Accepted(payment_result(payment), (hold_event(told, "payment.disputed"),), (told,))
    if payment.status == "reversed":
        return rejected(Code.PAYMENT_REVERSED, payment_id=str(payment.id))
    if payment.refunding_minor:
        return rejected(Code.REFUND_PENDING, payment_id=str(payment.id))
    left_minor = payment.value_minor - payment.given_back_minor
    amount_minor = left_minor if body.amount_minor is None else body.amount_minor
    day = open_day(snapshot, command)
    if isinstance(day, Rejected):
        return day
    if amount_minor > left_minor:
        return rejected(Code.DISPUTE_EXCEEDS_PAYMENT, left_minor=left_minor)
    return _charged_back(snapshot, command, payment, told, amount_minor, day)


def _charged_back(
    snapshot: Snapshot, command: Command[DisputePayment], payment: Payment, hold: Hold, amount_minor: int, day: date
) -> Accepted:
    """Taken from unapplied credit first, then off invoices, which are open again for what is missing. A payment of which nothing
    is left is reversed, and leaves a debt behind: a closed account is open again."""
    from_credit = min(amount_minor, payment.unapplied_minor)
    parts = _taken_off(snapshot, payment, amount_minor - from_credit)
    all_of_it = amount_minor == payment.value_minor - payment.given_back_minor
    after = payment._replace(
        status="reversed" if all_of_it else payment.status,
        allocated_minor=payment.allocated_minor - sum(amount for _, amount in parts),
        charged_back_minor=payment.charged_back_minor + amount_minor,
    )
    taken_back = allocate(command, payment, [(invoice, -amount) for invoice, amount in parts], day)
    account = snapshot.get(Account, payment.account_id, via=(ACCOUNT_OF_PAYMENT, payment.id))
    reopened = [account._replace(status="open")] if parts and account and account.status == "closed" else []
    keys = [*((receivable(invoice), amount) for invoice, amount in parts), (unapplied(payment), from_credit)]
    postings = [
        Posting(key, money(payment), amount, "payment_reversal", payment.id, day, payment.id)
        for key, amount in keys
        if amount
    ]
    if command.body.fee_minor:
        postings.append(fee(payment.currency, command.body.fee_minor, payment.id, day))
    events = (
        payment_event("payment.charged_back", after, taken_back.allocations),
        *taken_back.events,
        *(account_event("account.updated", each) for each in reopened),
    )
    writes: tuple[Entity, ...] = (after, hold, *taken_back.invoices, *taken_back.allocations, *reopened)
    return Accepted(payment_result(after), events, writes, tuple(postings))


def _taken_off(snapshot: Snapshot, payment: Payment, amount_minor: int) -> list[tuple[Invoice, int]]:
    parts, left = [], amount_minor
    for invoice_id, allocated_minor in net_by_invoice(snapshot.find(ALLOCATIONS_OF_PAYMENT, payment.id)).items():
        invoice = snapshot.get(Invoice, invoice_id, via=(INVOICES_OF_PAYMENT, payment.id))
        amount = min(allocated_minor, left)
        if invoice and amount > 0:
            parts.append((invoice, amount))
            left -= amount
    return parts


# --- payouts ----------------------------------------------------------------------------------------------------------


def needs_payout(command: Command[SettlePayout]) -> Needs:
    body = command.body
    return [(PAYOUT, (body.adapter, body.payout_id)), *needs_open_day(command, body.paid_on)]


def decide_payout(snapshot: Snapshot, command: Command[SettlePayout]) -> Decision:
    body = command.body
    stored = snapshot.get(Payout, (body.adapter, body.payout_id))
    day = open_day(snapshot, command, body.paid_on)
    if isinstance(day, Rejected):
        return day
    given = (body.amount.currency, body.amount.amount_minor, body.fee_minor)
    if stored and (stored.currency, stored.amount_minor, stored.fee_minor) != given:
        return rejected(Code.ALREADY_EXISTS, payout_id=body.payout_id)
    payout = stored or Payout(body.adapter, body.payout_id, *given, body.paid_on or command.today, command.recorded_at)
    result = PayoutResult(
        payout_id=payout.id,
        adapter=payout.adapter,
        currency=payout.currency,
        amount_minor=payout.amount_minor,
        fee_minor=payout.fee_minor,
        paid_on=payout.paid_on,
    )
    if stored:
        return Accepted(result, ())
    document_id = command.derive("payout")
    bank, clearing = LedgerKey(BANK, payout.currency), LedgerKey(GATEWAY_CLEARING, payout.currency)
    postings = [Posting(bank, clearing, payout.amount_minor, "payout", document_id, day)]
    if payout.fee_minor:
        postings.append(fee(payout.currency, payout.fee_minor, document_id, day))
    return Accepted(result, (Event("payment.paid_out", payout.id, result),), (payout,), tuple(postings))


# --- circuits ---------------------------------------------------------------------------------------------------------


def needs_circuit(command: Command[ReportCircuit]) -> Needs:
    return [(CIRCUIT, command.body.adapter)]


def decide_circuit(snapshot: Snapshot, command: Command[ReportCircuit]) -> Decision:
    body, stored = command.body, snapshot.get(Circuit, command.body.adapter)
    open_until = body.open_until if body.state == "open" else None
    circuit = Circuit(body.adapter, body.state, open_until, stored.recorded_at if stored else command.recorded_at)
    result = CircuitResult(adapter=circuit.adapter, state=circuit.state, open_until=circuit.open_until)
    if circuit == stored:
        return Accepted(result, ())
    return Accepted(result, (Event("payment.circuit_changed", circuit.adapter, result),), (circuit,))


CAPABILITIES = {
    "payment.settle_refund": Capability(needs_settle_refund, decide_settle_refund),
    "payment.dispute": Capability(needs_dispute, decide_dispute),
    "payment.settle_payout": Capability(needs_payout, decide_payout),
    "payment.report_circuit": Capability(needs_circuit, decide_circuit),
}
