"""A tenant's rows are out of reach of every other tenant, through any table and whatever the statement."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from adapters.postgres import tables
from adapters.postgres.codecs import MAPPINGS
from adapters.postgres.database import Database, WrongTenant
from adapters.postgres.dsn import Connection
from adapters.postgres.load import load
from adapters.postgres.save import save
from adapters.postgres.tables import TABLES, mutable_columns
from domain import entities
from domain.lookups import ACCOUNT, BOOK
from domain.snapshot import Changes
from tests.fixtures.servers import Database as ModuleDatabase
from tests.fixtures.servers import run_async
from tests.integration.postgres_samples import account, inserting, one_of_each

VICTIM, INTRUDER = "victim", "intruder"
REFUSED = asyncpg.InsufficientPrivilegeError  # 42501: a missing grant and a policy's WITH CHECK alike
TABLE_NAMES = sorted(table.name for table in TABLES.values())
ENTITIES = {table.name: entity for entity, table in TABLES.items()}


@pytest.fixture(scope="module")
def populated(database: ModuleDatabase) -> Iterator[ModuleDatabase]:
    """One row of everything belongs to the victim, nothing to the intruder."""

    async def fill() -> None:
        app = Database(database.dsn("billing_app"), application_name="test")
        async with app.transaction(VICTIM) as transaction:
            await save(transaction.connection, VICTIM, inserting(*one_of_each()))
        await app.close()

    run_async(fill())
    yield database


@asynccontextmanager
async def session(database: ModuleDatabase, role: str, tenant: str | None) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database.dsn(role))
    try:
        if tenant is not None:
            await connection.execute("SELECT set_config('billing.tenant', $1, false)", tenant)
        yield connection
    finally:
        await connection.close()


async def victims_rows(database: ModuleDatabase, table: str) -> list[str]:
    async with session(database, "billing_app", VICTIM) as connection:
        rows = await connection.fetch(f"SELECT t::text AS row FROM {table} AS t ORDER BY 1")
    assert rows, f"{table}: the test has lost its victim"
    return [row["row"] for row in rows]


@pytest.mark.parametrize("tenant", [None, "", INTRUDER, "victim'--", "%"])
@pytest.mark.parametrize("role", ["billing_app", "billing_read", "billing_owner"])
async def test_reading_finds_nothing(populated: ModuleDatabase, role: str, tenant: str | None) -> None:
    async with session(populated, role, tenant) as connection:
        for table in TABLE_NAMES:
            for statement in (
                f"SELECT * FROM {table}",
                f"SELECT * FROM {table} WHERE tenant_id = '{VICTIM}'",
                f"SELECT * FROM {table} AS t WHERE t::text LIKE '%' OR tenant_id IS NOT NULL",
                f"SELECT t.* FROM unnest(ARRAY['{VICTIM}']) AS u(tenant) JOIN {table} AS t ON t.tenant_id = u.tenant",
                f"SELECT t.* FROM (VALUES (1)) AS v LEFT JOIN {table} AS t ON true WHERE t.tenant_id IS NOT NULL",
                f"WITH all_rows AS MATERIALIZED (SELECT * FROM {table}) SELECT * FROM all_rows",
                f"SELECT max(tenant_id) AS found FROM {table} HAVING count(*) > 0",
            ):
                assert await connection.fetch(statement) == [], statement


@pytest.mark.parametrize("tenant", [None, INTRUDER])
@pytest.mark.parametrize("table", TABLE_NAMES)
async def test_nothing_can_be_written_for_another_tenant(
    populated: ModuleDatabase, table: str, tenant: str | None
) -> None:
    """Copies of the victim's own row, so that only the policy can be what refuses them."""
    before = await victims_rows(populated, table)
    entity = ENTITIES[table]
    row = next(sample for sample in one_of_each() if type(sample) is entity)
    columns = MAPPINGS[entity].columns
    names = ", ".join(column.name for column in columns)
    values = [column.encode(value) if column.encode else value for column, value in zip(columns, row, strict=True)]
    parameters = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    arrays = ", ".join(f"${number}::{column.type}[]" for number, column in enumerate(columns, 1))
    plain = f"INSERT INTO {table} (tenant_id, {names}) VALUES ('{VICTIM}', {parameters})"
    async with session(populated, "billing_app", tenant) as connection:
        for statement, arguments in (
            (plain, values),
            (plain + " ON CONFLICT DO NOTHING", values),
            (plain + " RETURNING *", values),
            (
                f"INSERT INTO {table} (tenant_id, {names}) SELECT '{VICTIM}', * FROM unnest({arrays})",
                [[value] for value in values],
            ),
            (f"WITH made AS ({plain} RETURNING *) SELECT * FROM made", values),
        ):
            with pytest.raises(REFUSED):
                await connection.fetch(statement, *arguments)
    assert await victims_rows(populated, table) == before


@pytest.mark.parametrize("tenant", [None, INTRUDER])
async def test_changing_another_tenants_rows_changes_nothing(populated: ModuleDatabase, tenant: str | None) -> None:
    for entity, table in TABLES.items():
        before = await victims_rows(populated, table.name)
        async with session(populated, "billing_app", tenant) as connection:
            for column in mutable_columns(table):
                for condition in ("true", f"tenant_id = '{VICTIM}'", "ctid IS NOT NULL"):
                    done = await connection.execute(f"UPDATE {table.name} SET {column} = {column} WHERE {condition}")
                    assert done == "UPDATE 0", (entity, column, condition)
        assert await victims_rows(populated, table.name) == before


async def test_a_row_cannot_be_moved_to_another_tenant(populated: ModuleDatabase) -> None:
    async with session(populated, "billing_app", VICTIM) as connection:
        for table in TABLE_NAMES:
            with pytest.raises(REFUSED):
                await connection.execute(f"UPDATE {table} SET tenant_id = '{INTRUDER}'")


async def test_a_conflict_with_another_tenants_key_is_no_conflict(populated: ModuleDatabase) -> None:
    """ON CONFLICT neither updates another tenant's row nor tells that there is one."""
    before = await victims_rows(populated, "tenant_book")
    async with session(populated, "billing_app", INTRUDER) as connection:
        outer = connection.transaction()
        await outer.start()
        mine = await connection.fetch(
            f"""
            INSERT INTO tenant_book VALUES ('{INTRUDER}', 1, $1, 1, 1)
            ON CONFLICT (tenant_id) DO UPDATE SET ledger_sequence = 99 RETURNING tenant_id, ledger_sequence
            """,
            bytes(32),
        )
        assert [tuple(row) for row in mine] == [(INTRUDER, 1)]
        with pytest.raises(REFUSED):
            await connection.execute(
                f"""
                INSERT INTO tenant_book VALUES ('{VICTIM}', 1, $1, 1, 1)
                ON CONFLICT (tenant_id) DO UPDATE SET ledger_sequence = 99
                """,
                bytes(32),
            )
        await outer.rollback()
    assert await victims_rows(populated, "tenant_book") == before


async def test_a_reference_to_another_tenants_row_is_refused(populated: ModuleDatabase) -> None:
    async with session(populated, "billing_app", VICTIM) as connection:
        account_id = await connection.fetchval("SELECT id FROM account")
    async with session(populated, "billing_app", INTRUDER) as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await connection.execute(
                "INSERT INTO ledger_account VALUES ($1, gen_random_uuid(), '1100', 'AED', $2, NULL, 0, 0)",
                INTRUDER,
                account_id,
            )


@pytest.mark.parametrize("role", ["billing_app", "billing_read", "billing_relay"])
@pytest.mark.parametrize("table", TABLE_NAMES)
async def test_nobody_deletes_truncates_or_disarms(populated: ModuleDatabase, table: str, role: str) -> None:
    """Not even the tenant itself. The relay's DELETE on the outbox is the one exception."""
    statements = [
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
        f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
        f"DROP POLICY tenant ON {table}",
        f"DROP TABLE {table} CASCADE",
        f"COPY {table} FROM STDIN",
        "SET ROLE billing_owner",
        "SET SESSION AUTHORIZATION billing_owner",
    ]
    if (role, table) == ("billing_relay", "outbox"):
        statements.remove("DELETE FROM outbox")
    async with session(populated, role, VICTIM) as connection:
        for statement in statements:
            # PostgreSQL does not copy into a table with row-level security, whoever asks.
            with pytest.raises((REFUSED, asyncpg.FeatureNotSupportedError)):
                await connection.execute(statement)


async def test_ledger_rows_are_never_changed(populated: ModuleDatabase) -> None:
    before = await victims_rows(populated, "ledger_transfer")
    async with session(populated, "billing_app", VICTIM) as connection:
        for column in TABLES[entities.Transfer].columns:
            with pytest.raises(REFUSED):
                await connection.execute(f"UPDATE ledger_transfer SET {column.name} = {column.name}")
        with pytest.raises(REFUSED):
            await connection.execute("SELECT * FROM ledger_transfer FOR UPDATE")
    assert await victims_rows(populated, "ledger_transfer") == before


@pytest.mark.parametrize("table", TABLE_NAMES)
async def test_the_reader_writes_nothing(populated: ModuleDatabase, table: str) -> None:
    async with session(populated, "billing_read", VICTIM) as connection:
        assert await connection.fetch(f"SELECT * FROM {table}")
        with pytest.raises(REFUSED):
            await connection.execute(f"UPDATE {table} SET tenant_id = tenant_id")
        with pytest.raises(REFUSED):
            await connection.execute(f"INSERT INTO {table} DEFAULT VALUES")


async def test_the_relay_sees_the_outbox_and_the_ids_of_everybody_and_nothing_else(populated: ModuleDatabase) -> None:
    async with session(populated, "billing_relay", None) as connection:
        assert [row["tenant_id"] for row in await connection.fetch("SELECT tenant_id FROM outbox")] == [VICTIM]
        for table in TABLE_NAMES:
            if table not in ("outbox", "tenant_book"):
                with pytest.raises(REFUSED):
                    await connection.fetch(f"SELECT 1 FROM {table}")
        columns = [column.name for column in tables.tenant_book.columns if column.name != "tenant_id"]
        for column in columns:
            with pytest.raises(REFUSED):
                await connection.fetch(f"SELECT {column} FROM tenant_book")
        with pytest.raises(REFUSED):
            await connection.execute("UPDATE outbox SET body = ''")
        with pytest.raises(REFUSED):
            await connection.execute("INSERT INTO outbox DEFAULT VALUES")


async def test_the_app_drains_no_outbox(populated: ModuleDatabase) -> None:
    async with session(populated, "billing_app", VICTIM) as connection:
        with pytest.raises(REFUSED):
            await connection.execute("DELETE FROM outbox")


async def test_a_tenant_ends_with_its_transaction(populated: ModuleDatabase) -> None:
    """A pooled connection that served the victim serves nobody until the next tenant is set."""
    app = Database(populated.dsn("billing_app"), application_name="test", pool_size=1)
    async with app.transaction(VICTIM) as transaction:
        connection = transaction.connection
        assert await connection.fetchval("SELECT count(*) FROM account") == 1
    assert await connection.fetchval("SELECT current_setting('billing.tenant', true)") == ""
    assert await connection.fetchval("SELECT count(*) FROM account") == 0
    await app.close()


async def test_load_and_save_refuse_a_transaction_of_another_tenant(populated: ModuleDatabase) -> None:
    app = Database(populated.dsn("billing_app"), application_name="test", pool_size=1)
    with pytest.raises(WrongTenant):
        async with app.transaction(VICTIM) as transaction:
            await load(transaction.connection, INTRUDER, {BOOK: {()}, ACCOUNT: set()})
    with pytest.raises(WrongTenant):
        async with app.transaction(VICTIM) as transaction:
            book = entities.Book(1, bytes(32), 1, 1)
            await save(transaction.connection, INTRUDER, Changes({}, {entities.Book: [book]}, []))
    with pytest.raises(REFUSED):
        async with app.transaction(VICTIM) as transaction:
            await save(transaction.connection, INTRUDER, inserting(account()))
    await app.close()
