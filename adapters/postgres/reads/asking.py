"""What every read is given beside its query."""

from collections.abc import Awaitable, Callable
from datetime import date
from typing import NamedTuple

from sqlalchemy import ColumnElement, Table, bindparam
from sqlalchemy.ext.asyncio import AsyncConnection

# A short-lived link to an object by its key, or None. Computed, not asked for: it is called inside a transaction.
Presign = Callable[[str], Awaitable[str | None]]


class Asking(NamedTuple):
    """A read-only transaction of one tenant, and what day it is there (its time zone).

    `presign` is None where the process has no object store.
    """

    connection: AsyncConnection
    tenant_id: str
    today: date
    presign: Presign | None = None

    @property
    def parameters(self) -> dict[str, str]:
        return {"tenant": self.tenant_id}


def owned(table: Table) -> ColumnElement[bool]:
    """Rows of the asking tenant.

    Row-level security says the same. Said here too, a connection that is exempt from it (a superuser's, by mistake)
    still answers for one tenant only, and a database distributed by tenant routes the statement to one node.
    """
    return table.c.tenant_id == bindparam("tenant")
