"""Save: everything a batch changed, as one data-modifying statement whatever the batch size.

One CTE per table and kind of change; foreign keys are checked when the whole statement is done, so their order is free.
Its text depends only on which tables are touched, and is built once for each such set.
"""

# ruff: noqa: S608  statements are put together from the schema's own names; every value is a parameter

from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from adapters.postgres.codecs import MAPPINGS, Column, TableMapping, arrays
from adapters.postgres.contact import sealed
from adapters.postgres.database import SAME_TENANT, WrongTenant
from adapters.postgres.dsn import Connection
from domain.entities import LedgerAccount, OutboxRow
from domain.snapshot import Changes


class UpdateLost(Exception):
    """An update named a row that is not there, or a table whose rows never change: a bug, never the data's fault."""


async def save(connection: Connection, tenant_id: str, changes: Changes) -> None:
    """Write a batch's changes inside the tenant's transaction, in one statement (none if nothing changed).

    Updates write the columns that may change and leave the others as they are. Raises `UpdateLost`, `WrongTenant`
    where the transaction is not `tenant_id`'s, or what asyncpg raises: a constraint's violation means that the domain let
    something through.
    """
    inserts = [(entity, rows) for entity, rows in changes.inserts.items() if rows]
    updates = [(entity, rows) for entity, rows in changes.updates.items() if rows]
    if not (inserts or updates or changes.balances):
        return
    statement = _statement(
        tuple(entity for entity, _ in inserts), tuple(entity for entity, _ in updates), bool(changes.balances)
    )
    arguments: list[Any] = [tenant_id]
    for entity, rows in inserts:
        arguments += _all_columns(entity, sealed(tenant_id, entity, rows))
    for entity, rows in updates:
        arguments += _key_and_mutable_columns(entity, sealed(tenant_id, entity, rows))
    if changes.balances:
        arguments += _all_columns(LedgerAccount, changes.balances)
    row = await connection.fetchrow(statement, *arguments)
    same_tenant, *updated = row or (False,)
    if not same_tenant:
        raise WrongTenant("the transaction belongs to another tenant")
    if updated != [len(rows) for _, rows in updates]:
        raise UpdateLost(f"updated {updated} of {[(entity.__name__, len(rows)) for entity, rows in updates]}")


def _all_columns(entity: type[Any], rows: Sequence[Any]) -> list[Sequence[Any]]:
    columns = MAPPINGS[entity].columns
    return arrays(columns, rows, range(len(columns)))


def _key_and_mutable_columns(entity: type[Any], rows: Sequence[Any]) -> list[Sequence[Any]]:
    mapped = MAPPINGS[entity]
    columns = (*mapped.key, *mapped.mutable)
    return arrays(columns, rows, [mapped.columns.index(column) for column in columns])


@lru_cache(maxsize=1000)
def _statement(inserts: tuple[type[Any], ...], updates: tuple[type[Any], ...], balances: bool) -> str:
    numbers = count(2)  # $1 is the tenant
    parts = [f"inserted_{MAPPINGS[entity].table} AS ({_insert(entity, numbers)})" for entity in inserts]
    parts += [f"updated_{MAPPINGS[entity].table} AS ({_update(MAPPINGS[entity], numbers)})" for entity in updates]
    if balances:
        parts.append(f"moved_ledger_account AS ({_move_balances(numbers)})")
    counts = [f"(SELECT count(*) FROM updated_{MAPPINGS[entity].table})" for entity in updates]
    return f"WITH {', '.join(parts)} SELECT {', '.join([SAME_TENANT, *counts])}"


def _insert(entity: type[Any], numbers: "count[int]") -> str:
    mapped = MAPPINGS[entity]
    names = ", ".join(column.name for column in mapped.columns)
    target = f"INSERT INTO {mapped.table} (tenant_id, {names})"
    if entity is OutboxRow:
        # Ids are drawn after the sort, so they follow the order of the list, which is the order of events.
        rows = f"{_unnest(mapped.columns, numbers)} WITH ORDINALITY AS n({names}, position)"
        return f"{target} SELECT $1, {names} FROM {rows} ORDER BY position"
    return f"{target} SELECT $1, * FROM {_unnest(mapped.columns, numbers)}"


def _update(mapped: TableMapping, numbers: "count[int]") -> str:
    if not mapped.mutable:
        raise UpdateLost(f"{mapped.table}: rows of this table never change")
    columns = (*mapped.key, *mapped.mutable)
    rows = f"{_unnest(columns, numbers)} AS n({', '.join(column.name for column in columns)})"
    changes = ", ".join(f"{column.name} = n.{column.name}" for column in mapped.mutable)
    # Row-level security adds the tenant, as in load; said twice, one of the two would not reach the index.
    same_row = " AND ".join(f"t.{column.name} = n.{column.name}" for column in mapped.key) or "true"
    return f"UPDATE {mapped.table} AS t SET {changes} FROM {rows} WHERE {same_row} RETURNING 1"


def _move_balances(numbers: "count[int]") -> str:
    """Adds deltas to running totals; an account that is posted to for the first time begins with them."""
    columns = MAPPINGS[LedgerAccount].columns
    names = ", ".join(column.name for column in columns)
    return (
        f"INSERT INTO ledger_account AS t (tenant_id, {names}) SELECT $1, * FROM {_unnest(columns, numbers)} "
        "ON CONFLICT (tenant_id, id) DO UPDATE SET debits_minor = t.debits_minor + excluded.debits_minor, "
        "credits_minor = t.credits_minor + excluded.credits_minor"
    )


def _unnest(columns: Sequence[Column], numbers: "count[int]") -> str:
    return f"unnest({', '.join(f'${next(numbers)}::{column.type}[]' for column in columns)})"
