"""A tenant's books as one picture, and where two of them differ: table by table, hash by hash.

Every row is hashed by PostgreSQL from its text form, and a table from its rows' hashes in key order. The outbox is left out:
it empties itself, and what it gave out is counted by `tenant_book`.
"""

# ruff: noqa: S608  table and column names are the schema's own

from typing import NamedTuple

from sqlalchemy import Table, text

from adapters.postgres.database import Database
from adapters.postgres.tables import metadata, outbox
from adapters.postgres.verify import verify_tenant

MAX_ROWS_SHOWN = 5


class TablePicture(NamedTuple):
    rows: int
    digest: str


class Picture(NamedTuple):
    """`commands` have been executed; `mismatches` are what `billing ledger verify` finds."""

    commands: int
    head_sequence: int
    head_hash: str
    mismatches: int
    tables: dict[str, TablePicture]


class Difference(NamedTuple):
    table: str
    live_rows: int
    rebuilt_rows: int
    same: bool


def tables() -> list[Table]:
    return [table for table in metadata.sorted_tables if table is not outbox and "tenant_id" in table.c]


async def picture(database: Database, tenant_id: str) -> Picture:
    """In one transaction, so that the live system may go on meanwhile."""
    async with database.reading(tenant_id) as connection:
        verified = await verify_tenant(connection, tenant_id)
        commands = await connection.scalar(text("SELECT coalesce(max(sequence), 0) FROM inbox"))
        found = {}
        for table in tables():
            row = (await connection.execute(text(_digest(table)))).one()
            # A plain str: SQLAlchemy's names are a subclass, which orjson takes for no key.
            found[str(table.name)] = TablePicture(row.rows, row.digest)
    return Picture(int(commands or 0), verified.head_sequence, verified.head_hash, len(verified.mismatches), found)


async def is_empty(database: Database, tenant_id: str) -> bool:
    async with database.reading(tenant_id) as connection:
        for table in (*tables(), outbox):
            if (await connection.execute(text(f"SELECT 1 FROM {table.name} LIMIT 1"))).first() is not None:
                return False
    return True


def compare(live: Picture, rebuilt: Picture) -> list[Difference]:
    return [
        Difference(name, live.tables[name].rows, rebuilt.tables[name].rows, live.tables[name] == rebuilt.tables[name])
        for name in live.tables
    ]


async def differing_rows(live: Database, rebuilt: Database, tenant_id: str, table_name: str) -> list[str]:
    """The keys of the first rows that are not the same in both, to know where to look. Reads the whole table's hashes."""
    table = metadata.tables[table_name]
    sides = []
    for database in (live, rebuilt):
        async with database.reading(tenant_id) as connection:
            rows = await connection.execute(text(_row_digests(table)))
            sides.append({row.key: row.digest for row in rows})
    keys = sorted(key for key in sides[0].keys() | sides[1].keys() if sides[0].get(key) != sides[1].get(key))
    return keys[:MAX_ROWS_SHOWN]


def _key(table: Table) -> str:
    names = [column.name for column in table.primary_key.columns if column.name != "tenant_id"]
    return ", ".join(f"t.{name}" for name in names) or "t.tenant_id"


def _row_digests(table: Table) -> str:
    digest = "encode(sha256(convert_to(t::text, 'UTF8')), 'hex')"
    return (
        f"SELECT concat_ws(' ', {_key(table)}) AS key, {digest} AS digest FROM {table.name} AS t ORDER BY {_key(table)}"
    )


def _digest(table: Table) -> str:
    hashes = "string_agg(r.digest, '' ORDER BY r.place)"
    rows = (
        f"SELECT encode(sha256(convert_to(t::text, 'UTF8')), 'hex') AS digest, row_number() OVER (ORDER BY {_key(table)}) AS "
        f"place FROM {table.name} AS t"
    )
    digest = f"encode(sha256(convert_to(coalesce({hashes}, ''), 'UTF8')), 'hex')"
    return f"SELECT count(*) AS rows, {digest} AS digest FROM ({rows}) AS r"
