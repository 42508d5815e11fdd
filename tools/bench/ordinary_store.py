"""The ordinary way to PostgreSQL: an ORM session per message, mapped classes over the mesh's own tables.

One object per row, one `SELECT` per thing looked up, one unit of work per command. What is decided is the same pure
engine as the mesh's, fed with one command, so that a comparison shows batching and set-based SQL and nothing else.
"""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from adapters.postgres import tables
from adapters.postgres.database import lock_key
from domain import engine, entities
from domain.decision import Command
from domain.engine import Verdict
from domain.lookups import INBOX, Lookup
from domain.snapshot import Changes, Snapshot
from schemas.account import Party

_PARTIES: TypeAdapter[tuple[Party, ...]] = TypeAdapter(tuple[Party, ...])


class Row(DeclarativeBase):
    pass


class AccountRow(Row):
    __table__ = tables.account


class PaymentRow(Row):
    __table__ = tables.payment


class PeriodRow(Row):
    __table__ = tables.period


class LedgerAccountRow(Row):
    __table__ = tables.ledger_account


class TransferRow(Row):
    __table__ = tables.ledger_transfer


class BookRow(Row):
    __table__ = tables.tenant_book


class InboxRow(Row):
    __table__ = tables.inbox


class OutboxRow(Row):
    __table__ = tables.outbox


# What `payment.record` without allocations touches; other commands raise KeyError.
_ROWS: dict[type[Any], type[Row]] = {
    entities.Account: AccountRow,
    entities.Payment: PaymentRow,
    entities.Period: PeriodRow,
    entities.Transfer: TransferRow,
    entities.Book: BookRow,
    entities.InboxEntry: InboxRow,
    entities.OutboxRow: OutboxRow,
}

Loaded = dict[tuple[type[Any], Any], Row]


async def apply(session: AsyncSession, command: Command[Any]) -> Verdict:
    """One command in one transaction, committed when this returns: the tenant's lock, inbox, reads, decision, writes.

    Raises what SQLAlchemy raises; nothing has happened then.
    """
    tenant_id = command.tenant.tenant_id
    async with session.begin():
        await session.execute(
            select(func.set_config("billing.tenant", tenant_id, True), func.pg_advisory_xact_lock(lock_key(tenant_id)))
        )
        inbox = await _get(session, tenant_id, entities.InboxEntry, command.command_id)
        if inbox is not None:
            found: Loaded = {(entities.InboxEntry, command.command_id): inbox}
            return engine.execute(_snapshot(tenant_id, {INBOX: {command.command_id}}, found), [command])[0]
        needs = engine.needs([command])
        rows = await _load(session, tenant_id, needs)
        snapshot = _snapshot(tenant_id, needs, rows)
        verdict = engine.execute(snapshot, [command])[0]
        await _save(session, tenant_id, snapshot.changes(), rows)
    return verdict


async def _load(session: AsyncSession, tenant_id: str, needs: Mapping[Lookup, set[Any]]) -> Loaded:
    """Each by its primary key. The inbox has been asked already."""
    rows: Loaded = {}
    for lookup, keys in needs.items():
        for key in keys if lookup != INBOX else ():
            row = await _get(session, tenant_id, lookup.entity, key)
            if row is not None:
                rows[lookup.entity, key] = row
    return rows


async def _get(session: AsyncSession, tenant_id: str, entity: type[Any], key: Any) -> Row | None:
    parts = key if isinstance(key, tuple) else (key,)
    return await session.get(_ROWS[entity], (tenant_id, *parts))


def _snapshot(tenant_id: str, needs: Mapping[Lookup, set[Any]], rows: Loaded) -> Snapshot:
    return Snapshot(tenant_id, needs, [_entity(entity, row) for (entity, _), row in rows.items()])


def _entity(entity: type[Any], row: Row) -> Any:
    values = {name: getattr(row, name) for name in entity._fields}
    if entity is entities.Account:
        values["parties"] = _PARTIES.validate_python(values["parties"], strict=False)
    return entity(**values)


async def _save(session: AsyncSession, tenant_id: str, changes: Changes, rows: Loaded) -> None:
    await _move_balances(session, tenant_id, changes.balances)
    for entity, inserts in changes.inserts.items():
        session.add_all(_ROWS[entity](tenant_id=tenant_id, **row._asdict()) for row in inserts)
    for entity, updates in changes.updates.items():
        for changed in updates:
            row = rows[entity, changed.key]
            for name, value in changed._asdict().items():
                if getattr(row, name) != value:
                    setattr(row, name, value)
    await session.flush()


async def _move_balances(session: AsyncSession, tenant_id: str, balances: list[entities.LedgerAccount]) -> None:
    """Both accounts of a transfer in one `SELECT`. New ones are written first: transfers refer to them."""
    if not balances:
        return
    columns = tables.ledger_account.c
    query = select(LedgerAccountRow).where(
        columns.tenant_id == tenant_id, columns.id.in_([balance.id for balance in balances])
    )
    found = {cast("Any", row).id: cast("Any", row) for row in await session.scalars(query)}
    for balance in balances:
        if row := found.get(balance.id):
            row.debits_minor += balance.debits_minor
            row.credits_minor += balance.credits_minor
        else:
            session.add(LedgerAccountRow(tenant_id=tenant_id, **balance._asdict()))
    if len(found) < len(balances):
        await session.flush()
