"""What a FHIR push reads: a document with what it refers to, and how far the tenant's events were when it was so."""

from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Table, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.reads.asking import owned
from adapters.postgres.tables import account, allocation, charge, invoice, invoice_line, payment, tenant_book
from domain.entities import Account, Charge, Invoice, InvoiceLine, Payment

_SEQUENCE = select(tenant_book.c.event_sequence).where(owned(tenant_book))
_LINES = (
    select(invoice_line)
    .where(owned(invoice_line), invoice_line.c.invoice_id == bindparam("id"))
    .order_by(invoice_line.c.line_number)
)
_CHARGES = select(charge).where(owned(charge), charge.c.id == func.any(bindparam("ids")))
_ALLOCATED = (
    select(allocation.c.invoice_id)
    .where(owned(allocation), allocation.c.payment_id == bindparam("id"))
    .group_by(allocation.c.invoice_id)
    .having(func.sum(allocation.c.amount_minor) != 0)
    .order_by(allocation.c.invoice_id)
)


class InvoiceRows(NamedTuple):
    invoice: Invoice
    lines: list[InvoiceLine]
    charges: list[Charge]


class PaymentRows(NamedTuple):
    """`invoices` are those it is allocated to now."""

    payment: Payment
    invoices: list[UUID]


class Reading:
    """Inside one read-only transaction (Database.reading) of `tenant_id`: all of it is of one moment."""

    def __init__(self, connection: AsyncConnection, tenant_id: str) -> None:
        self._connection, self._tenant_id = connection, tenant_id

    async def sequence(self) -> int:
        """Of the tenant's last event whose effect this moment shows; 0 for a tenant without books."""
        found = await self._connection.scalar(_SEQUENCE, {"tenant": self._tenant_id})
        return int(found or 0)

    async def account(self, key: UUID) -> Account | None:
        found: Account | None = await self._one(account, Account, key)
        return found

    async def charge(self, key: UUID) -> Charge | None:
        found: Charge | None = await self._one(charge, Charge, key)
        return found

    async def invoice(self, key: UUID) -> InvoiceRows | None:
        found = await self._one(invoice, Invoice, key)
        if found is None:
            return None
        lines = [InvoiceLine._make(row[1:]) for row in await self._all(_LINES, id=key)]
        ids = [line.charge_id for line in lines if line.charge_id is not None]
        charges = [Charge._make(row[1:]) for row in await self._all(_CHARGES, ids=ids)] if ids else []
        return InvoiceRows(found, lines, charges)

    async def payment(self, key: UUID) -> PaymentRows | None:
        found = await self._one(payment, Payment, key)
        if found is None:
            return None
        return PaymentRows(found, [row.invoice_id for row in await self._all(_ALLOCATED, id=key)])

    async def _one(self, table: Table, entity: Any, key: UUID) -> Any:
        statement = select(table).where(owned(table), table.c.id == bindparam("id"))
        rows = await self._all(statement, id=key)
        return entity._make(rows[0][1:]) if rows else None  # the tenant is the first column

    async def _all(self, statement: Any, **parameters: Any) -> list[Any]:
        return list((await self._connection.execute(statement, {"tenant": self._tenant_id, **parameters})).all())
