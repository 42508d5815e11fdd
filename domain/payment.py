"""Payments: money already received, its allocation to invoices, refunds and reversals.

Payments and invoices are many to many through immutable allocations (DOMAIN rule 6). What is not allocated is unapplied
credit of the payment, held in 2100 for the billing account; refunds are paid from it.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from domain.chart import METHOD_ACCOUNT, ROUNDING, UNAPPLIED_CREDIT
from domain.common import needs_period, period_refusal, receivable, restated
from domain.decision import Accepted, Capability, Command, Decision, Event, LedgerKey, Posting, Rejected, rejected
from domain.entities import Account, Allocation, Entity, Invoice, Payment
from domain.gateway_entities import Hold
from domain.invoice import invoice_event, not_open
from domain.lookups import ACCOUNT, HOLD, INVOICE, PAYMENT
from domain.snapshot import Needs, Snapshot
from schemas.allocation import AllocationChange, AllocationItem
from schemas.base import MAX_AMOUNT_MINOR
from schemas.codes import Code
from schemas.hold import ChargePayment
from schemas.payment import AllocatePayment, PaymentEvent, PaymentResult, RecordPayment


class Allocated(NamedTuple):
    """The effect of allocating part of a payment to some invoices, or of taking it back (negative amounts)."""

    invoices: tuple[Invoice, ...]
    allocations: tuple[Allocation, ...]
    events: tuple[Event, ...]


def unapplied(payment: Payment) -> LedgerKey:
    return LedgerKey(UNAPPLIED_CREDIT, payment.currency, payment.account_id)


def money(payment: Payment) -> LedgerKey:
    """Where the money of a payment lies."""
    return LedgerKey(METHOD_ACCOUNT[payment.method], payment.currency)


def payment_result(payment: Payment) -> PaymentResult:
    return PaymentResult(**_stated(payment))


def _stated(payment: Payment) -> dict[str, Any]:
    """What results and events both say of a payment. A dict: reading it back from a model would cost as much as all of it."""
    return {
        "payment_id": payment.id,
        "status": payment.status,
        "currency": payment.currency,
        "amount_minor": payment.amount_minor,
        "allocated_minor": payment.allocated_minor,
        "refunded_minor": payment.refunded_minor,
        "refunding_minor": payment.refunding_minor,
        "charged_back_minor": payment.charged_back_minor,
        "unapplied_minor": payment.unapplied_minor,
    }


def payment_event(
    name: str, payment: Payment, allocations: Iterable[Allocation] = (), refund_id: UUID | None = None
) -> Event:
    data = PaymentEvent(
        **_stated(payment),
        account_id=payment.account_id,
        method=payment.method,
        received_on=payment.received_on,
        party_id=payment.party_id,
        cash_rounding_minor=payment.cash_rounding_minor,
        allocations=tuple(
            AllocationChange(invoice_id=allocation.invoice_id, amount_minor=allocation.amount_minor)
            for allocation in allocations
        ),
        refund_id=refund_id,
    )
    return Event(name, str(payment.id), data)


def allocate(
    command: Command[Any], payment: Payment, parts: Sequence[tuple[Invoice, int]], effective_on: date
) -> Allocated:
    """New allocation rows and restated invoices; an invoice that becomes settled, or open again, has an event of its own."""
    invoices, allocations, events = [], [], []
    for index, (invoice, amount_minor) in enumerate(parts):
        after = restated(invoice._replace(paid_minor=invoice.paid_minor + amount_minor))
        if after.status != invoice.status:
            events.append(invoice_event("invoice.settled" if after.status == "settled" else "invoice.reopened", after))
        invoices.append(after)
        allocations.append(
            Allocation(
                id=command.derive("allocation", str(payment.id), str(index)),
                payment_id=payment.id,
                invoice_id=invoice.id,
                amount_minor=amount_minor,
                cause=command.name,
                effective_on=effective_on,
                recorded_at=command.recorded_at,
            )
        )
    return Allocated(tuple(invoices), tuple(allocations), tuple(events))


def needs_new(payment_id: UUID | None) -> Needs:
    """What has to be absent: a payment and a charge share their ids."""
    return [(PAYMENT, payment_id), (HOLD, payment_id)] if payment_id else []


def for_whom(
    snapshot: Snapshot, body: RecordPayment | ChargePayment
) -> tuple[Account, list[tuple[Invoice, int]]] | Rejected:
    """The account that pays and the invoices it pays, or what stands in the way, amounts apart."""
    if refusal := duplicates(body.allocations):
        return refusal
    account = snapshot.get(Account, body.account_id)
    if account is None:
        return rejected(Code.ACCOUNT_NOT_FOUND, account_id=str(body.account_id))
    if body.payment_id and (snapshot.get(Payment, body.payment_id) or snapshot.get(Hold, body.payment_id)):
        return rejected(Code.ALREADY_EXISTS, payment_id=str(body.payment_id))
    if body.party_id and all(party.party_id != body.party_id for party in account.parties):
        return rejected(Code.PARTY_NOT_FOUND, party_id=body.party_id)
    parts = invoices_of(snapshot, body.allocations)
    if isinstance(parts, Rejected):
        return parts
    if account.status == "closed":
        return rejected(Code.ACCOUNT_CLOSED, account_id=str(account.id))
    return state_refusal(account.id, parts) or (account, parts)


# --- record -----------------------------------------------------------------------------------------------------------


def needs_record(command: Command[RecordPayment]) -> Needs:
    body = command.body
    return [
        (ACCOUNT, body.account_id),
        *((INVOICE, item.invoice_id) for item in body.allocations),
        *needs_new(body.payment_id),
        needs_period(command, body.received_on or command.today),
    ]


def decide_record(snapshot: Snapshot, command: Command[RecordPayment]) -> Decision:
    body = command.body
    found = for_whom(snapshot, body)
    if isinstance(found, Rejected):
        return found
    account, parts = found
    received_on = body.received_on or command.today
    if refusal := period_refusal(snapshot, command, received_on):
        return refusal
    if body.amount.currency != account.currency:
        return rejected(Code.CURRENCY_MISMATCH, expected=account.currency, given=body.amount.currency)
    payment = _payment(command, account, received_on, sum(item.amount_minor for item in body.allocations))
    if not 0 < payment.value_minor <= MAX_AMOUNT_MINOR:
        return rejected(Code.AMOUNT_OUT_OF_RANGE, cash_rounding_minor=payment.cash_rounding_minor)
    if refusal := amounts_refusal(parts, payment.value_minor):
        return refusal
    allocated = allocate(command, payment, parts, received_on)
    events = (payment_event("payment.recorded", payment, allocated.allocations), *allocated.events)
    writes: tuple[Entity, ...] = (payment, *allocated.invoices, *allocated.allocations)
    return Accepted(payment_result(payment), events, writes, receipt(payment, parts))


def _payment(command: Command[RecordPayment], account: Account, received_on: date, allocated_minor: int) -> Payment:
    body = command.body
    return Payment(
        id=body.payment_id or command.derive("payment"),
        account_id=account.id,
        party_id=body.party_id,
        method=body.method,
        status="recorded",
        reference=body.reference,
        received_on=received_on,
        currency=account.currency,
        amount_minor=body.amount.amount_minor,
        cash_rounding_minor=body.cash_rounding_minor,
        allocated_minor=allocated_minor,
        refunded_minor=0,
        recorded_at=command.recorded_at,
    )


def receipt(payment: Payment, parts: Sequence[tuple[Invoice, int]]) -> tuple[Posting, ...]:
    """Money against each receivable, the rest against unapplied credit; a rounding difference against 5900."""
    credits = [(receivable(invoice), amount) for invoice, amount in parts]
    credits.append((unapplied(payment), payment.unapplied_minor))
    postings = [
        Posting(money(payment), key, amount, "payment", payment.id, payment.received_on)
        for key, amount in credits
        if amount
    ]
    rounding, difference = LedgerKey(ROUNDING, payment.currency), payment.cash_rounding_minor
    if difference:
        debit, credit = (rounding, money(payment)) if difference > 0 else (money(payment), rounding)
        postings.append(Posting(debit, credit, abs(difference), "cash_rounding", payment.id, payment.received_on))
    return tuple(postings)


# --- allocate ---------------------------------------------------------------------------------------------------------


def needs_allocate(command: Command[AllocatePayment]) -> Needs:
    invoices = ((INVOICE, item.invoice_id) for item in command.body.allocations)
    return [(PAYMENT, command.body.payment_id), *invoices, needs_period(command, command.today)]


def decide_allocate(snapshot: Snapshot, command: Command[AllocatePayment]) -> Decision:
    body = command.body
    if refusal := duplicates(body.allocations):
        return refusal
    payment = snapshot.get(Payment, body.payment_id)
    if payment is None:
        return rejected(Code.PAYMENT_NOT_FOUND, payment_id=str(body.payment_id))
    parts = invoices_of(snapshot, body.allocations)
    if isinstance(parts, Rejected):
        return parts
    if payment.status == "reversed":
        return rejected(Code.PAYMENT_REVERSED, payment_id=str(payment.id))
    refusal = (
        state_refusal(payment.account_id, parts)
        or period_refusal(snapshot, command, command.today)
        or amounts_refusal(parts, payment.unapplied_minor)
    )
    if refusal:
        return refusal
    allocated = allocate(command, payment, parts, command.today)
    after = payment._replace(allocated_minor=payment.allocated_minor + sum(amount for _, amount in parts))
    postings = tuple(
        Posting(unapplied(payment), receivable(invoice), amount, "allocation", payment.id, command.today)
        for invoice, amount in parts
    )
    events = (payment_event("payment.allocated", after, allocated.allocations), *allocated.events)
    return Accepted(payment_result(after), events, (after, *allocated.invoices, *allocated.allocations), postings)


# --- checks, in order of precedence -----------------------------------------------------------------------------------


def duplicates(items: Sequence[AllocationItem]) -> Rejected | None:
    if len({item.invoice_id for item in items}) == len(items):
        return None
    return rejected(Code.DUPLICATE_REFERENCE, field="allocations")


def invoices_of(snapshot: Snapshot, items: Sequence[AllocationItem]) -> list[tuple[Invoice, int]] | Rejected:
    parts = []
    for item in items:
        invoice = snapshot.get(Invoice, item.invoice_id)
        if invoice is None:
            return rejected(Code.INVOICE_NOT_FOUND, invoice_id=str(item.invoice_id))
        parts.append((invoice, item.amount_minor))
    return parts


def state_refusal(account_id: UUID, parts: Sequence[tuple[Invoice, int]]) -> Rejected | None:
    for invoice, _ in parts:
        if invoice.account_id != account_id:
            return rejected(Code.INVOICE_OF_OTHER_ACCOUNT, invoice_id=str(invoice.id))
        if invoice.status != "issued":
            return not_open(invoice)
    return None


def amounts_refusal(parts: Sequence[tuple[Invoice, int]], available_minor: int) -> Rejected | None:
    for invoice, amount in parts:
        if amount > invoice.open_minor:
            return rejected(
                Code.ALLOCATION_EXCEEDS_OPEN_AMOUNT, invoice_id=str(invoice.id), open_minor=invoice.open_minor
            )
    if sum(amount for _, amount in parts) > available_minor:
        return rejected(Code.ALLOCATION_EXCEEDS_PAYMENT, available_minor=available_minor)
    return None


CAPABILITIES = {
    "payment.record": Capability(needs_record, decide_record),
    "payment.allocate": Capability(needs_allocate, decide_allocate),
}
