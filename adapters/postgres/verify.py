"""Verifies the books of one tenant: every invariant of DOMAIN rule 15 that PostgreSQL alone can show.

Sums are compared in SQL (verify_checks.py); the hash chain is recomputed here, row by row through a server-side cursor,
so memory does not grow with the ledger. Whether the events reached their stream is handlers/event_check.py.

`billing ledger verify` for every tenant needs a list of them, which no database role may read: row-level security binds the
tables' owner too. handlers/event_check.py asks the event stream instead.
"""

from typing import NamedTuple

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.tables import ledger_transfer, tenant_book
from adapters.postgres.verify_checks import CHECKS, Check
from domain.entities import Transfer
from domain.ledger import GENESIS, transfer_hash
from schemas.ledger import LedgerVerification, Mismatch

MAX_MISMATCHES_PER_CHECK = 50  # 22 checks × 50 × ~250 bytes = 275 kB, well under the 1 MiB message limit
STATEMENT_TIMEOUT_SECONDS = (
    600  # of one check: a full scan of a large tenant takes longer than a request's limit allows
)
_CHAIN_ROWS = 1_000  # hashed between two awaits: tens of milliseconds, so that the process stays responsive

_TRANSFERS = (
    select(*(ledger_transfer.c[field] for field in Transfer._fields))
    .where(ledger_transfer.c.tenant_id == bindparam("tenant"), ledger_transfer.c.sequence > bindparam("after"))
    .order_by(ledger_transfer.c.sequence)
)
_BOOK = select(tenant_book.c.ledger_sequence, tenant_book.c.ledger_head).where(
    tenant_book.c.tenant_id == bindparam("tenant")
)
_HASH_AT = select(ledger_transfer.c.hash).where(
    ledger_transfer.c.tenant_id == bindparam("tenant"), ledger_transfer.c.sequence == bindparam("sequence")
)
# Of the ledger alone, one scan each: what a GL export vouches for beside the chain.
_BALANCES = ("running_balance", "debits_equal_credits", "transfer_currency")
# Without a scan of the ledger: what can be asked every few minutes of a tenant with many years of entries.
_OFTEN = ("debits_equal_credits", "receivable", "unapplied_credit")
_STATEMENTS = {check.name: text(f"{check.sql} LIMIT {MAX_MISMATCHES_PER_CHECK}") for check in CHECKS}


class Head(NamedTuple):
    """How far a ledger was verified: a sequence and the hash of that entry."""

    sequence: int
    hash: bytes


START = Head(0, GENESIS)


class _Chain(NamedTuple):
    transfers: int
    sequence: int
    head: bytes
    mismatches: tuple[Mismatch, ...]


async def verify_tenant(
    connection: AsyncConnection, tenant_id: str, *, since: Head | None = None
) -> LedgerVerification:
    """Runs every check in the caller's transaction, which it leaves open; changes nothing.

    With `since`, the head of a verification that found nothing: only the entries after it are hashed, and only sums that
    need no scan of the ledger are compared. `transfers` then counts the new entries.

    The transaction has to be REPEATABLE READ (all checks must see one state) and able to see the tenant's rows.
    Raises ValueError where it is not.
    """
    if await connection.scalar(select(func.current_setting("transaction_isolation"))) != "repeatable read":
        raise ValueError("a verification needs one snapshot: begin the transaction as REPEATABLE READ")
    milliseconds = str(STATEMENT_TIMEOUT_SECONDS * 1000)
    await connection.execute(select(func.set_config("statement_timeout", milliseconds, True)))
    chain = await _verify_chain(connection, tenant_id, since or START)
    mismatches = list(chain.mismatches)
    for check in CHECKS:
        if since is None or check.name in _OFTEN:
            mismatches.extend(await _broken(connection, tenant_id, check))
    return LedgerVerification(
        transfers=chain.transfers,
        head_sequence=chain.sequence,
        head_hash=chain.head.hex(),
        mismatches=tuple(mismatches),
    )


async def verify_balances(connection: AsyncConnection, tenant_id: str) -> list[Mismatch]:
    """The checks of the ledger's sums alone, in the caller's transaction; the chain is the caller's to follow."""
    milliseconds = str(STATEMENT_TIMEOUT_SECONDS * 1000)
    await connection.execute(select(func.set_config("statement_timeout", milliseconds, True)))
    checks = (check for check in CHECKS if check.name in _BALANCES)
    return [mismatch for check in checks for mismatch in await _broken(connection, tenant_id, check)]


async def _broken(connection: AsyncConnection, tenant_id: str, check: Check) -> list[Mismatch]:
    rows = (await connection.execute(_STATEMENTS[check.name], {"tenant": tenant_id})).all()
    return [
        Mismatch(check=check.name, subject=str(row.subject), expected=check.rule, found=str(row.found)) for row in rows
    ]


async def _verify_chain(connection: AsyncConnection, tenant_id: str, since: Head) -> _Chain:
    """Recomputes every hash. After a broken link it goes on from the stored hash, so each break is reported once."""
    parameters = {"tenant": tenant_id, "after": since.sequence}
    count, (sequence, head) = 0, since
    mismatches = await _anchor(connection, tenant_id, since)
    stream = await connection.stream(_TRANSFERS, parameters, execution_options={"yield_per": _CHAIN_ROWS})
    async for rows in stream.partitions():
        for row in rows:
            transfer = Transfer(*row)
            if transfer.sequence != sequence + 1:
                mismatches.append(_mismatch("ledger_sequence", transfer, str(sequence + 1), str(transfer.sequence)))
            expected = transfer_hash(head, tenant_id, transfer)
            if expected != transfer.hash:
                mismatches.append(_mismatch("hash_chain", transfer, expected.hex(), transfer.hash.hex()))
            count, sequence, head = count + 1, transfer.sequence, transfer.hash
        del mismatches[MAX_MISMATCHES_PER_CHECK:]
    book = (await connection.execute(_BOOK, parameters)).one_or_none()
    stated_sequence, stated_head = (book.ledger_sequence, book.ledger_head) if book else (0, GENESIS)
    if (stated_sequence, stated_head) != (sequence, head):
        found = f"{stated_sequence} {stated_head.hex()}"
        mismatches.append(
            Mismatch(check="chain_head", subject="book", expected=f"{sequence} {head.hex()}", found=found)
        )
    return _Chain(count, sequence, head, tuple(mismatches))


async def _anchor(connection: AsyncConnection, tenant_id: str, since: Head) -> list[Mismatch]:
    """Whether the entry that was verified last is still what it was: not so where a ledger was set back."""
    if since == START:
        return []
    found = await connection.scalar(_HASH_AT, {"tenant": tenant_id, "sequence": since.sequence})
    if found == since.hash:
        return []
    text = found.hex() if found is not None else "no such entry"
    return [Mismatch(check="hash_chain", subject=str(since.sequence), expected=since.hash.hex(), found=text)]


def _mismatch(check: str, transfer: Transfer, expected: str, found: str) -> Mismatch:
    return Mismatch(check=check, subject=str(transfer.sequence), expected=expected, found=found)
