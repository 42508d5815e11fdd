"""Load: the rows a batch needs, in one statement whatever the batch size.

One `UNION ALL` branch per lookup that is used, keys as array parameters. Branches of different tables share their columns
by type, the unused ones NULL: that costs less than records or JSON (docs/decisions/0009). The text depends only on which
lookups are used, and is built once for each such set.
"""

# ruff: noqa: S608  statements are put together from the schema's own names; every value is a parameter

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple

from adapters.postgres.codecs import MAPPINGS, Column, TableMapping, decoder
from adapters.postgres.contact import opened_values
from adapters.postgres.database import SAME_TENANT, WrongTenant
from adapters.postgres.dsn import Connection
from domain.entities import Account, Entity
from domain.gateway_entities import LIVE
from domain.lookups import Lookup
from domain.snapshot import Snapshot

_WRONG_TENANT = -1  # stands where a row's branch number stands


class Join(NamedTuple):
    """A way from a document's id to rows of another table: `id = table.key → table.gives = t.matches`."""

    table: str
    key: str
    gives: str
    matches: str


JOINS: dict[str, Join] = {
    "account of charge": Join("charge", "id", "account_id", "id"),
    "account of invoice": Join("invoice", "id", "account_id", "id"),
    "account of payment": Join("payment", "id", "account_id", "id"),
    "account of hold": Join("hold", "id", "account_id", "id"),
    "invoices of hold": Join("hold_allocation", "payment_id", "invoice_id", "id"),
    "payment of refund": Join("gateway_refund", "id", "payment_id", "id"),
    "hold of refund": Join("gateway_refund", "id", "payment_id", "id"),
    "invoices of payment": Join("allocation", "payment_id", "invoice_id", "id"),
    "payments of invoice": Join("allocation", "invoice_id", "payment_id", "id"),
    "period of invoice": Join("invoice", "id", "period", "period"),
    "series of invoice": Join("invoice", "id", "fiscal_year", "fiscal_year"),
    "charges of invoice": Join("invoice", "id", "invoice_group_id", "invoice_group_id"),
    "group of invoice": Join("invoice", "id", "invoice_group_id", "invoice_group_id"),
}
# What a named lookup asks beside its keys. Drafts have no number: that is what their index is over (tables.py).
CONDITIONS: dict[str, str] = {
    "drafts of period": " AND t.number IS NULL AND t.status = 'draft'",
    "drafts of account": " AND t.number IS NULL AND t.status = 'draft'",
    "open charges of account": " AND t.status = 'open'",
    "live holds of account": f" AND t.status IN ({', '.join(sorted(map(repr, LIVE)))})",
    "series of invoice": " AND t.series = 'INV'",
}


async def load(connection: Connection, tenant_id: str, needs: Mapping[Lookup, Iterable[Hashable]]) -> Snapshot:
    """The snapshot for a batch: what `needs` asks for of one tenant, inside its transaction, in one statement.

    Rows with several lookups' interest may come more than once. Where a lookup finds several rows they come in the order
    they were recorded. Raises `WrongTenant` where the transaction is not `tenant_id`'s, or what asyncpg raises.
    """
    asked = {lookup: list(keys) for lookup, keys in needs.items()}
    asked = {lookup: keys for lookup, keys in asked.items() if keys}
    rows: list[Entity] = []
    if asked:
        statement, readers = _statement(tuple(asked))
        arguments = [array for lookup, keys in asked.items() for array in _key_arrays(lookup, keys)]
        found = await connection.fetch(statement, tenant_id, *arguments)
        if found and found[-1][0] == _WRONG_TENANT:
            raise WrongTenant("the transaction belongs to another tenant")
        rows = [readers[row[0]](tenant_id, row) for row in found]
    return Snapshot(tenant_id, asked, rows)


def _key_arrays(lookup: Lookup, keys: Sequence[Any]) -> list[Sequence[Any]]:
    """One array per key column; none for a lookup that has a single row per tenant."""
    if len(lookup.columns) > 1:
        return list(zip(*keys, strict=True))
    return [keys] if lookup.columns or lookup.of else []


@lru_cache(maxsize=1000)
def _statement(lookups: tuple[Lookup, ...]) -> tuple[str, tuple[Callable[[str, Any], Entity], ...]]:
    """The text, and per branch a function from its rows to entities."""
    slots = _slots(lookups)
    numbers = count(2)  # $1 is the tenant
    branches = [_branch(branch, lookup, slots, numbers) for branch, lookup in enumerate(lookups)]
    nothing = ", ".join(f"NULL::{slot}" for slot in slots)
    guard = f"(SELECT {_WRONG_TENANT}, {nothing} WHERE NOT {SAME_TENANT})"
    return " UNION ALL ".join([*branches, guard]), tuple(_reader(lookup, slots) for lookup in lookups)


def _slots(lookups: Iterable[Lookup]) -> list[str]:
    """The types of the columns that all branches share: of each type as many as the branch with the most needs."""
    needed: Counter[str] = Counter()
    for lookup in lookups:
        needed |= Counter(_wire_type(column) for column in MAPPINGS[lookup.entity].columns)
    return list(needed.elements())


def _places(lookup: Lookup, slots: Sequence[str]) -> list[int]:
    """Which slot each of the entity's columns travels in."""
    free = {slot: iter([place for place, other in enumerate(slots) if other == slot]) for slot in slots}
    return [next(free[_wire_type(column)]) for column in MAPPINGS[lookup.entity].columns]


def _reader(lookup: Lookup, slots: Sequence[str]) -> Callable[[str, Any], Entity]:
    decode = decoder(lookup.entity)
    pick = itemgetter(*(place + 1 for place in _places(lookup, slots)))  # column 0 is the branch
    if lookup.entity is Account:
        return lambda tenant_id, row: decode(opened_values(tenant_id, pick(row)))
    return lambda _tenant_id, row: decode(pick(row))


def _wire_type(column: Column) -> str:
    return "TEXT" if column.decode else column.type


def _branch(branch: int, lookup: Lookup, slots: Sequence[str], numbers: "count[int]") -> str:
    mapped = MAPPINGS[lookup.entity]
    values = [f"NULL::{slot}" for slot in slots]
    for column, place in zip(mapped.columns, _places(lookup, slots), strict=True):
        values[place] = f"t.{column.name}" + ("::text" if column.decode else "")
    record = f"SELECT {branch}, {', '.join(values)}"
    join = JOINS.get(lookup.of or "")
    if join is None and not lookup.columns:
        return f"({record} FROM {mapped.table} AS t)"
    matches = (join.matches,) if join else lookup.columns
    keys = _keys_through(join, numbers) if join else _keys(lookup, mapped, numbers)
    condition = " AND ".join(f"t.{name} = k.{name}" for name in matches) + CONDITIONS.get(lookup.of or "", "")
    # OFFSET 0 keeps the planner from turning the look-ups into a join, which for a tenant that it believes to be small
    # reads all of the tenant's rows: one key at a time, the index that has the key is the cheapest way in.
    rows = f"SELECT * FROM {mapped.table} AS t WHERE {condition} OFFSET 0"
    return f"({record} FROM {keys} CROSS JOIN LATERAL ({rows}) AS t{_order(lookup, mapped)})"


def _keys(lookup: Lookup, mapped: TableMapping, numbers: "count[int]") -> str:
    types = {column.name: column.type for column in mapped.columns}
    arrays = ", ".join(f"${next(numbers)}::{types[name]}[]" for name in lookup.columns)
    return f"unnest({arrays}) AS k({', '.join(lookup.columns)})"


def _keys_through(join: Join, numbers: "count[int]") -> str:
    """The keys that the documents' ids lead to, each once."""
    found = f"SELECT {join.gives} FROM {join.table} WHERE {join.key} = d.id OFFSET 0"
    documents = f"unnest(${next(numbers)}::uuid[]) AS d(id)"
    return f"(SELECT DISTINCT s.{join.gives} AS {join.matches} FROM {documents} CROSS JOIN LATERAL ({found}) AS s) AS k"


def _order(lookup: Lookup, mapped: TableMapping) -> str:
    """Several rows per key come as they were recorded, so that no decision depends on where rows lie on disk."""
    names = {column.name for column in mapped.columns}
    key = tuple(column.name for column in mapped.key)
    if lookup.of is None and lookup.columns == key:
        return ""
    return " ORDER BY " + ", ".join(f"t.{name}" for name in ("recorded_at", *key) if name in names)
