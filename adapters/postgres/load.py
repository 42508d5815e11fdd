"""Load: the rows a batch needs, in one statement whatever the batch size.

One `UNION ALL` branch per lookup that is used, keys as array parameters, rows as anonymous records that asyncpg decodes
in binary. The text depends only on which lookups are used, and is built once for each such set.
"""

# ruff: noqa: S608  statements are put together from the schema's own names; every value is a parameter

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from adapters.postgres.codecs import MAPPINGS, decoder
from adapters.postgres.database import Connection
from domain.entities import Entity
from domain.lookups import Lookup
from domain.snapshot import Snapshot

# The join lookups: which rows of the entity's table `t` belong to the keys `{keys}`. Every table named carries its own
# `tenant_id = $1`, so each is entered by an index that leads with the tenant.
JOINS: dict[str, str] = {
    "drafts of period": "t.number IS NULL AND t.status = 'draft' AND t.period = ANY ({keys})",
    "open charges of account": "t.status = 'open' AND t.account_id = ANY ({keys})",
    "drafts of account": "t.number IS NULL AND t.status = 'draft' AND t.account_id = ANY ({keys})",
    "account of charge": "t.id IN (SELECT account_id FROM charge WHERE tenant_id = $1 AND id = ANY ({keys}))",
    "account of invoice": "t.id IN (SELECT account_id FROM invoice WHERE tenant_id = $1 AND id = ANY ({keys}))",
    "account of payment": "t.id IN (SELECT account_id FROM payment WHERE tenant_id = $1 AND id = ANY ({keys}))",
    "invoices of payment": (
        "t.id IN (SELECT invoice_id FROM allocation WHERE tenant_id = $1 AND payment_id = ANY ({keys}))"
    ),
    "payments of invoice": (
        "t.id IN (SELECT payment_id FROM allocation WHERE tenant_id = $1 AND invoice_id = ANY ({keys}))"
    ),
    "period of invoice": "t.period IN (SELECT period FROM invoice WHERE tenant_id = $1 AND id = ANY ({keys}))",
    "series of invoice": (
        "t.series = 'INV' AND t.fiscal_year IN "
        "(SELECT fiscal_year FROM invoice WHERE tenant_id = $1 AND id = ANY ({keys}))"
    ),
    "charges of invoice": (
        "t.invoice_group_id IN (SELECT invoice_group_id FROM invoice WHERE tenant_id = $1 AND id = ANY ({keys}))"
    ),
    "group of invoice": (
        "t.invoice_group_id IN (SELECT invoice_group_id FROM invoice WHERE tenant_id = $1 AND id = ANY ({keys}))"
    ),
}
# The type of a join lookup's keys where it names no column: the id of a document.
_DOCUMENT_ID = "UUID"


async def load(connection: Connection, tenant_id: str, needs: Mapping[Lookup, Iterable[Hashable]]) -> Snapshot:
    """The snapshot for a batch: what `needs` asks for of one tenant, inside its transaction, in one statement.

    Rows with several lookups' interest may come more than once. Where a lookup finds several rows they come in the order
    they were recorded. Raises what asyncpg raises.
    """
    asked = {lookup: list(keys) for lookup, keys in needs.items()}
    asked = {lookup: keys for lookup, keys in asked.items() if keys}
    rows: list[Entity] = []
    if asked:
        statement = _statement(tuple(asked))
        arguments = [array for lookup, keys in asked.items() for array in _key_arrays(lookup, keys)]
        decoders = [decoder(lookup.entity) for lookup in asked]
        found = await connection.fetch(statement, tenant_id, *arguments)
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
    return " UNION ALL ".join(_branch(branch, lookup, numbers) for branch, lookup in enumerate(lookups))


def _branch(branch: int, lookup: Lookup, numbers: "count[int]") -> str:
    mapped = MAPPINGS[lookup.entity]
    names = [column.name for column in mapped.columns]
    values = ", ".join(f"t.{column.name}" + ("::text" if column.decode else "") for column in mapped.columns)
    # By key lookups find at most one row per key; others are ordered, so that a batch never depends on physical order.
    by_key = lookup.of is None and lookup.columns == tuple(column.name for column in mapped.key)
    order = [name for name in ("recorded_at", *(column.name for column in mapped.key)) if name in names]
    ordered = "" if by_key else f" ORDER BY {', '.join(f't.{name}' for name in order)}"
    condition = _condition(lookup, numbers)
    return f"(SELECT {branch}, ROW({values}) FROM {mapped.table} AS t WHERE t.tenant_id = $1{condition}{ordered})"


def _condition(lookup: Lookup, numbers: "count[int]") -> str:
    types = {column.name: column.type for column in MAPPINGS[lookup.entity].columns}
    if lookup.of is not None:
        key_type = types[lookup.columns[0]] if lookup.columns else _DOCUMENT_ID
        return f" AND {JOINS[lookup.of].format(keys=f'${next(numbers)}::{key_type}[]')}"
    if not lookup.columns:
        return ""
    arrays = [f"${next(numbers)}::{types[name]}[]" for name in lookup.columns]
    if len(arrays) == 1:
        return f" AND t.{lookup.columns[0]} = ANY ({arrays[0]})"
    columns = ", ".join(f"t.{name}" for name in lookup.columns)
    return f" AND ({columns}) IN (SELECT * FROM unnest({', '.join(arrays)}))"
