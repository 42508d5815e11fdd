"""Queries about invoices."""

from typing import Any

from sqlalchemy import Row, bindparam, select

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import invoice, invoice_line
from domain.entities import Invoice
from schemas.codes import Code
from schemas.invoice import GetInvoice, InvoiceLineView, InvoicePage, InvoiceSummary, InvoiceView, ListInvoices
from schemas.outcome import Problem, problem

_INVOICES = select(invoice).where(owned(invoice))
_INVOICE = _INVOICES.where(invoice.c.id == bindparam("invoice_id"))
_LINES = (
    select(invoice_line)
    .where(owned(invoice_line), invoice_line.c.invoice_id == bindparam("invoice_id"))
    .order_by(invoice_line.c.line_number)
)
_NEWEST_FIRST = Keyset.by_time(invoice.c.recorded_at, invoice.c.id)


async def get(asking: Asking, query: GetInvoice) -> InvoiceView | Problem:
    parameters = {**asking.parameters, "invoice_id": query.invoice_id}
    row = (await asking.connection.execute(_INVOICE, parameters)).one_or_none()
    if row is None:
        return problem(Code.INVOICE_NOT_FOUND)
    lines = (await asking.connection.execute(_LINES, parameters)).all()
    return InvoiceView(**_summary(row), lines=tuple(_line(line) for line in lines))


async def listed(asking: Asking, query: ListInvoices) -> InvoicePage | Problem:
    statement, parameters = _INVOICES, dict[str, Any](asking.parameters)
    if query.account_id is not None:
        statement = statement.where(invoice.c.account_id == bindparam("account_id"))
        parameters["account_id"] = query.account_id
    if query.status is not None:
        statement = statement.where(invoice.c.status == bindparam("status"))
        parameters["status"] = query.status
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    items = tuple(InvoiceSummary(**_summary(row)) for row in found.rows)
    return InvoicePage(items=items, next_cursor=found.next_cursor)


def _summary(row: Row[Any]) -> dict[str, Any]:
    found = Invoice._make(row[1:])
    return {
        "invoice_id": found.id,
        "party_id": found.party_id,
        "status": found.status,
        "number": found.number,
        "currency": found.currency,
        "net_minor": found.net_minor,
        "tax_minor": found.tax_minor,
        "total_minor": found.total_minor,
        "open_minor": found.open_minor,
        "invoice_group_id": found.invoice_group_id,
        "account_id": found.account_id,
        "invoice_date": found.invoice_date,
        "due_on": found.due_on,
        "paid_minor": found.paid_minor,
        "credited_minor": found.credited_minor,
        "written_off_minor": found.written_off_minor,
        "recorded_at": found.recorded_at,
    }


def _line(row: Row[Any]) -> InvoiceLineView:
    return InvoiceLineView(
        line_number=row.line_number,
        charge_id=row.charge_id,
        description=row.description,
        quantity=row.quantity,
        net_minor=row.net_minor,
        tax_category=row.tax_category,
        tax_rate_basis_points=row.tax_rate_basis_points,
        tax_minor=row.tax_minor,
        revenue_code=row.revenue_code,
        credited_net_minor=row.credited_net_minor,
        credited_tax_minor=row.credited_tax_minor,
    )
