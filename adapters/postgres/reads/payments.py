"""Queries about payments."""

from typing import Any

from sqlalchemy import Row, bindparam, func, select

from adapters.postgres.reads import holds
from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import allocation, payment
from domain.entities import Payment
from schemas.allocation import AllocationChange
from schemas.codes import Code
from schemas.hold import HoldItem
from schemas.outcome import Problem, problem
from schemas.payment import GetPayment, ListPayments, PaymentPage, PaymentSummary, PaymentView

_PAYMENTS = select(payment).where(owned(payment))
_PAYMENT = _PAYMENTS.where(payment.c.id == bindparam("payment_id"))
_ALLOCATED = func.sum(allocation.c.amount_minor)
# What stands on each invoice now: an allocation and the row that took it back cancel out.
_ALLOCATIONS = (
    select(allocation.c.invoice_id, _ALLOCATED.label("amount_minor"))
    .where(owned(allocation), allocation.c.payment_id == bindparam("payment_id"))
    .group_by(allocation.c.invoice_id)
    .having(_ALLOCATED != 0)
    .order_by(func.min(allocation.c.recorded_at), allocation.c.invoice_id)
)
_NEWEST_FIRST = Keyset.by_time(payment.c.recorded_at, payment.c.id)


async def get(asking: Asking, query: GetPayment) -> PaymentView | Problem:
    parameters = {**asking.parameters, "payment_id": query.payment_id}
    row = (await asking.connection.execute(_PAYMENT, parameters)).one_or_none()
    hold = await holds.item(asking, query.payment_id) if row is None or row.method == "gateway" else None
    if row is None:
        return _uncaptured(hold) if hold else problem(Code.PAYMENT_NOT_FOUND)
    allocations = (await asking.connection.execute(_ALLOCATIONS, parameters)).all()
    changes = tuple(
        AllocationChange(invoice_id=made.invoice_id, amount_minor=int(made.amount_minor)) for made in allocations
    )
    return PaymentView(**_summary(row), allocations=changes, hold=hold)


def _uncaptured(hold: HoldItem) -> PaymentView:
    """A charge whose money is not in the books: nothing of it is allocated, refunded or credit."""
    return PaymentView(
        payment_id=hold.payment_id,
        status=hold.status,
        currency=hold.currency,
        amount_minor=hold.amount_minor,
        allocated_minor=0,
        refunded_minor=0,
        unapplied_minor=0,
        account_id=hold.account_id,
        method="gateway",
        received_on=None,
        reference=None,
        party_id=hold.party_id,
        cash_rounding_minor=0,
        recorded_at=hold.recorded_at,
        allocations=(),
        hold=hold,
    )


async def listed(asking: Asking, query: ListPayments) -> PaymentPage | Problem:
    statement, parameters = _PAYMENTS, dict[str, Any](asking.parameters)
    if query.account_id is not None:
        statement = statement.where(payment.c.account_id == bindparam("account_id"))
        parameters["account_id"] = query.account_id
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    return PaymentPage(
        items=tuple(PaymentSummary(**_summary(row)) for row in found.rows), next_cursor=found.next_cursor
    )


def _summary(row: Row[Any]) -> dict[str, Any]:
    found = Payment._make(row[1:])
    return {
        "payment_id": found.id,
        "status": found.status,
        "currency": found.currency,
        "amount_minor": found.amount_minor,
        "allocated_minor": found.allocated_minor,
        "refunded_minor": found.refunded_minor,
        "refunding_minor": found.refunding_minor,
        "charged_back_minor": found.charged_back_minor,
        "unapplied_minor": found.unapplied_minor,
        "account_id": found.account_id,
        "method": found.method,
        "received_on": found.received_on,
        "reference": found.reference,
        "party_id": found.party_id,
        "cash_rounding_minor": found.cash_rounding_minor,
        "recorded_at": found.recorded_at,
    }
