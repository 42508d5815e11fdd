"""What takes a payment's effects back: un-allocation, refund, reversal. Each is a new fact; nothing is erased."""

from collections.abc import Iterable
from uuid import UUID

from domain.account import account_event
from domain.chart import METHOD_ACCOUNT, ROUNDING
from domain.common import needs_period, period_refusal, receivable
from domain.decision import Accepted, Capability, Command, Decision, Event, JobMessage, LedgerKey, Posting, rejected
from domain.entities import Account, Allocation, Entity, Invoice, Payment, Refund
from domain.gateway_entities import GatewayRefund
from domain.hold import JOB_KIND
from domain.lookups import (
    ACCOUNT_OF_PAYMENT,
    ALLOCATIONS_OF_PAYMENT,
    GATEWAY_REFUND,
    INVOICE,
    INVOICES_OF_PAYMENT,
    PAYMENT,
    REFUND,
)
from domain.payment import allocate, money, payment_event, payment_result, unapplied
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.hold import GatewayJob, RefundChanged
from schemas.payment import RefundPayment, RefundResult, ReversePayment, UnallocatePayment


def net_by_invoice(allocations: Iterable[Allocation]) -> dict[UUID, int]:
    """What is allocated to each invoice after taking back what was taken back, in an order that does not depend on the one
    the rows were loaded in: ledger entries and derived ids follow it."""
    net: dict[UUID, int] = {}
    for allocation in sorted(allocations, key=lambda allocation: allocation.invoice_id):
        net[allocation.invoice_id] = net.get(allocation.invoice_id, 0) + allocation.amount_minor
    return {invoice_id: amount for invoice_id, amount in net.items() if amount}


# --- unallocate -------------------------------------------------------------------------------------------------------


def needs_unallocate(command: Command[UnallocatePayment]) -> Needs:
    body = command.body
    return [
        (PAYMENT, body.payment_id),
        (INVOICE, body.invoice_id),
        (ALLOCATIONS_OF_PAYMENT, body.payment_id),
        (ACCOUNT_OF_PAYMENT, body.payment_id),
        needs_period(command, command.today),
    ]


def decide_unallocate(snapshot: Snapshot, command: Command[UnallocatePayment]) -> Decision:
    body = command.body
    payment, invoice = snapshot.get(Payment, body.payment_id), snapshot.get(Invoice, body.invoice_id)
    if payment is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(body.payment_id))
    if invoice is None:
        return rejected(Code.INVOICE_NOT_FOUND, invoice_id=str(body.invoice_id))
    if payment.status == "reversed":
        return rejected(Code.PAYMENT_REVERSED, payment_id=str(payment.id))
    if _is_closed(snapshot, payment):
        return rejected(Code.ACCOUNT_CLOSED, account_id=str(payment.account_id))
    if refusal := period_refusal(snapshot, command, command.today):
        return refusal
    allocated_minor = net_by_invoice(snapshot.find(ALLOCATIONS_OF_PAYMENT, payment.id)).get(invoice.id, 0)
    amount = body.amount_minor or allocated_minor
    if amount > allocated_minor or not amount:
        return rejected(Code.ALLOCATION_EXCEEDS_PAYMENT, allocated_minor=allocated_minor)
    taken_back = allocate(command, payment, [(invoice, -amount)], command.today)
    after = payment._replace(allocated_minor=payment.allocated_minor - amount)
    posting = Posting(receivable(invoice), unapplied(payment), amount, "unallocation", payment.id, command.today)
    events = (payment_event("payment.unallocated", after, taken_back.allocations), *taken_back.events)
    writes: tuple[Entity, ...] = (after, *taken_back.invoices, *taken_back.allocations)
    return Accepted(payment_result(after), events, writes, (posting,))


def _is_closed(snapshot: Snapshot, payment: Payment) -> bool:
    account = snapshot.get(Account, payment.account_id, via=(ACCOUNT_OF_PAYMENT, payment.id))
    return account is not None and account.status == "closed"


# --- refund -----------------------------------------------------------------------------------------------------------


def refund_result(payment: Payment, refund: Refund | GatewayRefund) -> RefundResult:
    status = refund.status if isinstance(refund, GatewayRefund) else "done"
    return RefundResult(**payment_result(payment).model_dump(), refund_id=refund.id, refund_status=status)


def refund_event(name: str, payment: Payment, refund: GatewayRefund) -> Event:
    data = RefundChanged(
        refund_id=refund.id,
        payment_id=payment.id,
        status=refund.status,
        currency=payment.currency,
        amount_minor=refund.amount_minor,
        decline_code=refund.decline_code,
    )
    return Event(name, str(refund.id), data)


def refund_message(refund: GatewayRefund) -> JobMessage:
    job = GatewayJob(payment_id=refund.payment_id, refund_id=refund.id, revision=refund.revision)
    return JobMessage(JOB_KIND, job)


def refund_posting(payment: Payment, refund: Refund) -> Posting:
    paid_from = LedgerKey(METHOD_ACCOUNT[refund.method], payment.currency)
    return Posting(
        unapplied(payment), paid_from, refund.amount_minor, "refund", refund.id, refund.refunded_on, payment.id
    )


def needs_refund(command: Command[RefundPayment]) -> Needs:
    """The payment id is looked up among refunds too: a refund cannot be refunded (DOMAIN rule 7)."""
    body = command.body
    refund_ids = [body.payment_id, *([body.refund_id] if body.refund_id else [])]
    return [
        (PAYMENT, body.payment_id),
        *((lookup, refund_id) for lookup in (REFUND, GATEWAY_REFUND) for refund_id in refund_ids),
        needs_period(command, body.refunded_on or command.today),
    ]


def decide_refund(snapshot: Snapshot, command: Command[RefundPayment]) -> Decision:
    body = command.body
    if body.refund_id and _is_refund(snapshot, body.refund_id):
        return rejected(Code.ALREADY_EXISTS, refund_id=str(body.refund_id))
    payment = snapshot.get(Payment, body.payment_id)
    if payment is None and _is_refund(snapshot, body.payment_id):
        return rejected(Code.REFUND_NOT_REFUNDABLE, refund_id=str(body.payment_id))
    if payment is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(body.payment_id))
    if payment.status == "reversed":
        return rejected(Code.PAYMENT_REVERSED, payment_id=str(payment.id))
    refunded_on = body.refunded_on or command.today
    if refusal := period_refusal(snapshot, command, refunded_on):
        return refusal
    if body.amount_minor > payment.unapplied_minor:
        return rejected(Code.REFUND_EXCEEDS_CREDIT, unapplied_minor=payment.unapplied_minor)
    refund = Refund(
        id=body.refund_id or command.derive("refund"),
        payment_id=payment.id,
        amount_minor=body.amount_minor,
        method=body.method or payment.method,
        refunded_on=refunded_on,
        reason=body.reason,
        recorded_at=command.recorded_at,
    )
    if refund.method == "gateway":
        return _requested(command, payment, refund)
    after = payment._replace(refunded_minor=payment.refunded_minor + refund.amount_minor)
    event = payment_event("payment.refunded", after, refund_id=refund.id)
    return Accepted(refund_result(after, refund), (event,), (after, refund), (refund_posting(after, refund),))


def _is_refund(snapshot: Snapshot, refund_id: UUID) -> bool:
    return bool(snapshot.get(Refund, refund_id) or snapshot.get(GatewayRefund, refund_id))


def _requested(command: Command[RefundPayment], payment: Payment, refund: Refund) -> Accepted:
    """Reserves the credit; the refund is posted when the gateway has made it (domain/gateway_facts.py)."""
    pending = GatewayRefund(
        id=refund.id,
        payment_id=payment.id,
        status="pending",
        revision=1,
        amount_minor=refund.amount_minor,
        reason=refund.reason,
        reference=None,
        decline_code=None,
        recorded_at=command.recorded_at,
        changed_at=command.recorded_at,
    )
    after = payment._replace(refunding_minor=payment.refunding_minor + refund.amount_minor)
    event = refund_event("payment.refund_requested", after, pending)
    return Accepted(refund_result(after, pending), (event,), (after, pending), jobs=(refund_message(pending),))


# --- reverse ----------------------------------------------------------------------------------------------------------


def needs_reverse(command: Command[ReversePayment]) -> Needs:
    body = command.body
    lookups = (PAYMENT, ALLOCATIONS_OF_PAYMENT, INVOICES_OF_PAYMENT, ACCOUNT_OF_PAYMENT)
    return [
        *((lookup, body.payment_id) for lookup in lookups),
        needs_period(command, body.effective_on or command.today),
    ]


def decide_reverse(snapshot: Snapshot, command: Command[ReversePayment]) -> Decision:
    """Mirrors what the payment still does: its allocations, its unapplied credit, its rounding. Money that never came leaves
    debts behind, so a closed account is open again."""
    body = command.body
    payment = snapshot.get(Payment, body.payment_id)
    if payment is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(body.payment_id))
    if payment.status == "reversed":
        return rejected(Code.PAYMENT_REVERSED, payment_id=str(payment.id))
    if payment.given_back_minor or payment.refunding_minor:
        return rejected(Code.PAYMENT_REFUNDED, payment_id=str(payment.id))
    effective_on = body.effective_on or command.today
    if refusal := period_refusal(snapshot, command, effective_on):
        return refusal
    net = net_by_invoice(snapshot.find(ALLOCATIONS_OF_PAYMENT, payment.id))
    parts = [
        (invoice, -amount)
        for invoice_id, amount in net.items()
        if (invoice := snapshot.get(Invoice, invoice_id, via=(INVOICES_OF_PAYMENT, payment.id)))
    ]
    taken_back = allocate(command, payment, parts, effective_on)
    after = payment._replace(status="reversed", allocated_minor=0)
    reopened = _reopened(snapshot, payment)
    mirrored = [(receivable(invoice), -amount) for invoice, amount in parts]
    mirrored.append((unapplied(payment), payment.unapplied_minor))
    postings = [
        Posting(key, money(payment), amount, "payment_reversal", payment.id, effective_on, payment.id)
        for key, amount in mirrored
        if amount
    ]
    if payment.cash_rounding_minor:
        rounding, difference = LedgerKey(ROUNDING, payment.currency), payment.cash_rounding_minor
        debit, credit = (money(payment), rounding) if difference > 0 else (rounding, money(payment))
        postings.append(
            Posting(debit, credit, abs(difference), "cash_rounding_reversal", payment.id, effective_on, payment.id)
        )
    account_events = tuple(account_event("account.updated", account) for account in reopened)
    events: tuple[Event, ...] = (
        payment_event("payment.reversed", after, taken_back.allocations),
        *taken_back.events,
        *account_events,
    )
    writes: tuple[Entity, ...] = (after, *taken_back.invoices, *taken_back.allocations, *reopened)
    return Accepted(payment_result(after), events, writes, tuple(postings))


def _reopened(snapshot: Snapshot, payment: Payment) -> list[Account]:
    account = snapshot.get(Account, payment.account_id, via=(ACCOUNT_OF_PAYMENT, payment.id))
    return [account._replace(status="open")] if account and account.status == "closed" else []


CAPABILITIES = {
    "payment.unallocate": Capability(needs_unallocate, decide_unallocate),
    "payment.refund": Capability(needs_refund, decide_refund),
    "payment.reverse": Capability(needs_reverse, decide_reverse),
}
