"""Load: the rows a batch needs, in one statement whatever the batch size.

One `UNION ALL` branch per lookup that is used, keys as array parameters, rows as anonymous records that asyncpg decodes
in binary. The text depends only on which lookups are used, and is built once for each such set.
"""

# ruff: noqa: S608  statements are put together from the schema's own names; every value is a parameter

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

from adapters.postgres.codecs import MAPPINGS, TableMapping, decoder
from adapters.postgres.database import SAME_TENANT, Connection, WrongTenant
from domain.entities import Entity
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
        statement = _statement(tuple(asked))
        arguments = [array for lookup, keys in asked.items() for array in _key_arrays(lookup, keys)]
        decoders = [decoder(lookup.entity) for lookup in asked]
        found = await connection.fetch(statement, tenant_id, *arguments)
        if found and found[-1][0] == _WRONG_TENANT:
            raise WrongTenant("the transaction belongs to another tenant")
        rows = [decoders[branch](values) for branch, values in found]
    return Snapshot(tenant_id, asked, rows)


def _key_arrays(lookup: Lookup, keys: Sequence[Any]) -> list[Sequence[Any]]:
    """One array per key column; none for a lookup that has a single row per tenant."""
    if len(lookup.columns) > 1:
        return list(zip(*keys, strict=True))
    return [keys] if lookup.columns or lookup.of else []


@lru_cache(maxsize=1000)
def _statement(lookups: tuple[Lookup, ...]) -> str:
    numbers = count(2)  # $1 is the tenant
    branches = [_branch(branch, lookup, numbers) for branch, lookup in enumerate(lookups)]
    guard = f"(SELECT {_WRONG_TENANT}, ROW() WHERE NOT {SAME_TENANT})"
    return " UNION ALL ".join([*branches, guard])


def _branch(branch: int, lookup: Lookup, numbers: "count[int]") -> str:
    mapped = MAPPINGS[lookup.entity]
    values = ", ".join(f"t.{column.name}" + ("::text" if column.decode else "") for column in mapped.columns)
    record = f"SELECT {branch}, ROW({values})"
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
