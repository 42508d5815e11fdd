"""The ledger in order of sequence, page by page, each page a short transaction.

Not one cursor over one long transaction: a million rows and their upload take minutes, during which a snapshot would hold
back vacuum everywhere, and a pause of the object store would run into idle_in_transaction_session_timeout. Ledger rows never
change and the caller recomputes the hash chain over each, so pages of different moments are one ledger or are found not to be.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import date
from typing import NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.tables import gl_account, ledger_account, ledger_transfer, tenant_book
from domain.entities import Transfer

# Some 10 MB as rows, entries and lines. More a page saves few round trips: 5,000 took 30 MB for no time gained.
PAGE_ROWS = 2_000

_DEBIT, _CREDIT = ledger_account.alias("debit"), ledger_account.alias("credit")
_SIDES = tuple(side.c[name] for side in (_DEBIT, _CREDIT) for name in ("code", "account_id", "party_id"))
_PAGE = (
    select(*(ledger_transfer.c[field] for field in Transfer._fields), *_SIDES)
    # Outer joins: an entry whose account is gone has to be seen, and named.
    .outerjoin(
        _DEBIT,
        and_(_DEBIT.c.tenant_id == ledger_transfer.c.tenant_id, _DEBIT.c.id == ledger_transfer.c.debit_account_id),
    )
    .outerjoin(
        _CREDIT,
        and_(_CREDIT.c.tenant_id == ledger_transfer.c.tenant_id, _CREDIT.c.id == ledger_transfer.c.credit_account_id),
    )
    .where(
        ledger_transfer.c.tenant_id == bindparam("tenant"),
        ledger_transfer.c.sequence > bindparam("after"),
        ledger_transfer.c.sequence <= bindparam("upto"),
    )
    .order_by(ledger_transfer.c.sequence)
    .limit(PAGE_ROWS)
)
_EXTENT = select(
    func.count().label("transfers"),
    func.coalesce(func.min(ledger_transfer.c.sequence), 0).label("first"),
    func.coalesce(func.max(ledger_transfer.c.sequence), 0).label("last"),
).where(
    ledger_transfer.c.tenant_id == bindparam("tenant"),
    ledger_transfer.c.sequence.between(bindparam("first"), bindparam("last")),
)
_EXTENT_OF_DAYS = _EXTENT.where(ledger_transfer.c.effective_on.between(bindparam("starts_on"), bindparam("ends_on")))
_BOOK = select(tenant_book.c.ledger_sequence).where(tenant_book.c.tenant_id == bindparam("tenant"))
_GL_ACCOUNTS = (
    select(gl_account.c.ledger_code, gl_account.c.gl_code, gl_account.c.gl_name)
    .where(gl_account.c.tenant_id == bindparam("tenant"))
    .order_by(gl_account.c.ledger_code)
)


class ReadDatabase(Protocol):
    """A database that gives read-only transactions of one tenant."""

    def reading(self, tenant_id: str) -> AbstractAsyncContextManager[AsyncConnection]: ...


class Side(NamedTuple):
    """Whose ledger account one side of an entry is; `code` is None where the account does not exist."""

    code: str | None
    account_id: UUID | None
    party_id: str | None


class Entry(NamedTuple):
    transfer: Transfer
    debit: Side
    credit: Side


class Extent(NamedTuple):
    """How many entries a range has, and the first and last of their sequences (0 where it has none)."""

    transfers: int
    first: int
    last: int


async def ledger_sequence(connection: AsyncConnection, tenant_id: str) -> int:
    """The last sequence that the tenant's book has given out."""
    return await connection.scalar(_BOOK, {"tenant": tenant_id}) or 0


async def extent(
    connection: AsyncConnection, tenant_id: str, first: int, last: int, days: tuple[date, date] | None
) -> Extent:
    """Of the entries with those sequences that are effective on those days (inclusive), if given. Scans the range."""
    parameters = {"tenant": tenant_id, "first": first, "last": last}
    if days is not None:
        parameters |= {"starts_on": days[0], "ends_on": days[1]}
    row = (await connection.execute(_EXTENT if days is None else _EXTENT_OF_DAYS, parameters)).one()
    return Extent(row.transfers, row.first, row.last)


async def gl_accounts(connection: AsyncConnection, tenant_id: str) -> dict[str, tuple[str, str]]:
    """GL code and name per ledger code, as mapped now."""
    rows = (await connection.execute(_GL_ACCOUNTS, {"tenant": tenant_id})).all()
    return {row.ledger_code: (row.gl_code, row.gl_name) for row in rows}


async def pages(database: ReadDatabase, tenant_id: str, *, after: int, upto: int) -> AsyncIterator[list[Entry]]:
    """The entries with sequences above `after`, up to `upto`; gaps are the caller's to notice."""
    while after < upto:
        async with database.reading(tenant_id) as connection:
            rows = (await connection.execute(_PAGE, {"tenant": tenant_id, "after": after, "upto": upto})).all()
        if not rows:
            return
        width = len(Transfer._fields)
        page = [Entry(Transfer(*row[:width]), Side(*row[width : width + 3]), Side(*row[width + 3 :])) for row in rows]
        yield page
        after = page[-1].transfer.sequence
