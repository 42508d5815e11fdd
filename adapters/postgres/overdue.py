"""Which invoices are past their due date and not marked."""

from datetime import date
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.tables import invoice

_OVERDUE = (
    select(invoice.c.id)
    .where(
        invoice.c.tenant_id == bindparam("tenant"),
        invoice.c.status == "issued",
        invoice.c.due_on < bindparam("as_of"),
        invoice.c.overdue_on.is_(None),
        invoice.c.id > bindparam("after"),
    )
    .order_by(invoice.c.id)
    .limit(bindparam("limit"))
)


async def overdue(connection: AsyncConnection, tenant_id: str, as_of: date, after: UUID, limit: int) -> list[UUID]:
    """The next such invoices in order of id."""
    parameters = {"tenant": tenant_id, "as_of": as_of, "after": after, "limit": limit}
    return list((await connection.execute(_OVERDUE, parameters)).scalars())
