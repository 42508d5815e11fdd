"""The pool and its transactions: one writer per tenant, clean ends, and what an error says about trying again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import exc, text

from adapters.postgres.database import Database, RolledBack, lock_key
from adapters.postgres.errors import sqlstate, transient
from adapters.postgres.save import save
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.postgres_samples import account, inbox_entry, inserting, invoice
from tools.stack.postgres import PostgresServer


@pytest.fixture
async def app(database: ModuleDatabase) -> AsyncIterator[Database]:
    opened = Database(
        database.dsn("billing_app"), application_name="test-database", pool_size=2, checkout_timeout_seconds=1
    )
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def own_server(database: ModuleDatabase) -> Iterator[PostgresServer]:
    """A PostgreSQL of this module's own, which may be restarted and killed."""
    with PostgresServer(database.stack.directory / "postgres-database-test") as server:
        server.create_database("own")
        yield server


async def accounts(app: Database, tenant: str) -> int:
    async with app.reading(tenant) as connection:
        return int((await connection.execute(text("SELECT count(*) FROM account"))).scalar_one())


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_any_error(app: Database, tenant: str) -> None:
    async with app.transaction(tenant) as transaction:
        await save(transaction.connection, tenant, inserting(account()))
    assert await accounts(app, tenant) == 1
    with pytest.raises(ZeroDivisionError):
        async with app.transaction(tenant) as transaction:
            await save(transaction.connection, tenant, inserting(account()))
            raise ZeroDivisionError
    assert await accounts(app, tenant) == 1


async def test_a_failed_statement_spoils_only_its_own_transaction(app: Database, tenant: str) -> None:
    for _ in range(5):  # more often than the pool has connections
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            async with app.transaction(tenant) as transaction:
                await save(transaction.connection, tenant, inserting(account(), invoice(uuid4())))
    assert await accounts(app, tenant) == 0


async def test_a_swallowed_error_does_not_pass_for_a_commit(app: Database, tenant: str) -> None:
    with pytest.raises(RolledBack):
        async with app.transaction(tenant) as transaction:
            await save(transaction.connection, tenant, inserting(account()))
            with pytest.raises(asyncpg.DivisionByZeroError):
                await transaction.connection.execute("SELECT 1 / 0")
    assert await accounts(app, tenant) == 0


async def test_one_writer_per_tenant_and_many_tenants_at_once(app: Database, tenant: str) -> None:
    order: list[str] = []
    entered = asyncio.Event()

    async def slow() -> None:
        async with app.transaction(tenant):
            entered.set()
            await asyncio.sleep(0.3)
            order.append("first")

    async def after(name: str, of: str) -> None:
        await entered.wait()
        async with app.transaction(of):
            order.append(name)

    await asyncio.gather(slow(), after("second", tenant))
    assert order == ["first", "second"]
    order.clear()
    entered.clear()
    await asyncio.gather(slow(), after("neighbour", f"{tenant}-2"))
    assert order == ["neighbour", "first"]


async def test_a_writer_sees_what_the_one_before_it_committed(app: Database, tenant: str) -> None:
    """The lock comes before the first snapshot; with it the other way round, the second writer would read the past."""

    async def add_one() -> int:
        async with app.transaction(tenant) as transaction:
            count = await transaction.connection.fetchval("SELECT count(*) FROM account")
            await asyncio.sleep(0.02)
            await save(transaction.connection, tenant, inserting(account()))
            return int(count)

    counts = [await task for task in [asyncio.create_task(add_one()) for _ in range(2)]]
    assert sorted(counts) == [0, 1]


async def test_the_position_is_that_of_the_commit_and_only_if_wanted(app: Database, tenant: str) -> None:
    async with app.transaction(tenant) as transaction:
        await save(transaction.connection, tenant, inserting(account()))
        before = await transaction.connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    assert transaction.position is None
    async with app.transaction(tenant) as transaction:
        await save(transaction.connection, tenant, inserting(account()))
        transaction.wants_position = True
    assert transaction.position is not None
    high, low = (int(part, 16) for part in transaction.position.split("/"))
    before_high, before_low = (int(part, 16) for part in str(before).split("/"))
    assert (high, low) > (before_high, before_low)


async def test_reading_sees_one_moment_and_writes_nothing(app: Database, tenant: str) -> None:
    async with app.reading(tenant) as reader:
        count = text("SELECT count(*) FROM account")
        first = (await reader.execute(count)).scalar_one()
        async with app.transaction(tenant) as transaction:
            await save(transaction.connection, tenant, inserting(account()))
        assert (await reader.execute(count)).scalar_one() == first == 0
        with pytest.raises(exc.DBAPIError) as refused:
            await reader.execute(text("INSERT INTO tenant_book VALUES ('x', 0, ''::bytea, 0, 0)"))
    assert sqlstate(refused.value) == "25006"


@pytest.mark.parametrize("tenant_id", ["", "a b", "x'; DROP TABLE account; --", "t\n", "a.b", "x" * 65])
async def test_what_is_not_a_tenant_id_reaches_no_server(app: Database, tenant_id: str) -> None:
    for opening in (app.transaction(tenant_id), app.reading(tenant_id)):
        with pytest.raises(ValueError, match="not a tenant id"):
            async with opening:
                pytest.fail("entered")


def test_lock_keys_are_signed_64_bit_stable_and_different() -> None:
    keys = {lock_key(f"tenant-{number}") for number in range(10_000)}
    assert len(keys) == 10_000 and all(-(2**63) <= key < 2**63 for key in keys)
    assert lock_key("kabul") == -1571265311882521915


async def test_a_cancelled_transaction_is_rolled_back_and_frees_the_tenant(app: Database, tenant: str) -> None:
    started = asyncio.Event()

    async def stuck() -> None:
        async with app.transaction(tenant) as transaction:
            await save(transaction.connection, tenant, inserting(account()))
            started.set()
            await transaction.connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(stuck())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(2):
        assert await accounts(app, tenant) == 0
        async with app.transaction(tenant):
            pass


async def failure_of(app: Database, tenant: str, statement: str, *arguments: object) -> BaseException:
    with pytest.raises(Exception) as caught:
        async with app.transaction(tenant) as transaction:
            await transaction.connection.execute(statement, *arguments)
    return caught.value


async def test_a_killed_backend_is_transient_and_the_next_checkout_works(app: Database, tenant: str) -> None:
    error = await failure_of(app, tenant, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert transient(error) and sqlstate(error) in (
        "57P01",
        "08003",
    )  # the server's word, or asyncpg's if it was faster
    assert await accounts(app, tenant) == 0


async def test_a_connection_that_died_in_the_pool_is_replaced(app: Database, database: ModuleDatabase) -> None:
    for tenant in ("a", "b"):
        assert await accounts(app, tenant) == 0
    database.stack.postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-database'"
    )
    await asyncio.sleep(0.1)
    for tenant in ("a", "b"):
        assert await accounts(app, tenant) == 0


async def test_waiting_for_a_lock_too_long_is_transient(database: ModuleDatabase, tenant: str) -> None:
    hasty = Database(database.dsn("billing_app"), application_name="test", pool_size=2, lock_timeout_ms=50)
    async with hasty.transaction(tenant):
        error = await failure_of(hasty, tenant, "SELECT 1")
    assert transient(error) and sqlstate(error) == "55P03"
    await hasty.close()


async def test_a_statement_that_takes_too_long_is_transient(database: ModuleDatabase, tenant: str) -> None:
    hasty = Database(database.dsn("billing_app"), application_name="test", pool_size=1, statement_timeout_ms=50)
    error = await failure_of(hasty, tenant, "SELECT pg_sleep(5)")
    assert transient(error) and sqlstate(error) == "57014"
    await hasty.close()


async def test_a_full_pool_is_transient(database: ModuleDatabase, tenant: str) -> None:
    narrow = Database(database.dsn("billing_app"), application_name="test", pool_size=1, checkout_timeout_seconds=0.05)
    async with narrow.transaction(tenant):
        error = await failure_of(narrow, tenant, "SELECT 1")
    assert transient(error) and isinstance(error, exc.TimeoutError)
    await narrow.close()


async def test_the_datas_own_faults_are_not_transient(app: Database, tenant: str) -> None:
    entry = inbox_entry()
    async with app.transaction(tenant) as transaction:
        await save(transaction.connection, tenant, inserting(entry))
    with pytest.raises(asyncpg.UniqueViolationError) as twice:
        async with app.transaction(tenant) as transaction:
            await save(transaction.connection, tenant, inserting(entry))
    assert not transient(twice.value) and sqlstate(twice.value) == "23505"
    for statement, state in (
        ("INSERT INTO chart_entry VALUES ('" + tenant + "', 'x', 'n', 'asset', now())", "23514"),
        ("SELECT 1 / 0", "22012"),
        ("SELECT 9223372036854775807::bigint + 1", "22003"),
        ("DELETE FROM account", "42501"),
        ("SELECT nothing", "42703"),
        ("SELEKT", "42601"),
    ):
        error = await failure_of(app, tenant, statement)
        assert not transient(error), statement
        assert sqlstate(error) == state
    error = await failure_of(app, tenant, "SELECT $1::bigint", 2**63)
    assert not transient(error)  # asyncpg refuses it before PostgreSQL sees it


async def test_errors_of_queries_are_judged_by_what_sqlalchemy_wrapped(app: Database, tenant: str) -> None:
    with pytest.raises(exc.DBAPIError) as wrong:
        async with app.reading(tenant) as connection:
            await connection.execute(text("SELECT 1 / 0"))
    assert not transient(wrong.value) and sqlstate(wrong.value) == "22012"
    with pytest.raises(exc.DBAPIError) as killed:
        async with app.reading(tenant) as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert transient(killed.value)


def test_errors_that_nobody_knows_are_not_transient() -> None:
    assert not transient(KeyError("x"))
    assert not transient(AssertionError())
    assert transient(ConnectionResetError())
    assert transient(TimeoutError())
    assert transient(asyncpg.InternalClientError("got result for unknown protocol state"))
    assert transient(asyncpg.InterfaceError("connection is closed"))


async def test_work_goes_on_after_a_restart_and_after_a_crash(own_server: PostgresServer, tenant: str) -> None:
    app = Database(own_server.dsn("billing_app", "own"), application_name="test", pool_size=3)

    async def answers() -> bool:
        async with app.transaction(tenant) as transaction:
            return bool(await transaction.connection.fetchval("SELECT true"))

    assert all(await asyncio.gather(*(answers() for _ in range(3))))
    await asyncio.to_thread(own_server.restart)
    assert all(await asyncio.gather(*(answers() for _ in range(3))))
    with pytest.raises(Exception) as gone:
        async with app.transaction(tenant) as transaction:
            await asyncio.to_thread(own_server.kill)
            await transaction.connection.fetchval("SELECT true")
    assert transient(gone.value)
    await asyncio.to_thread(own_server.start)
    assert await answers()
    await app.close()


async def test_no_server_is_transient(own_server: PostgresServer, tenant: str) -> None:
    app = Database(own_server.dsn("billing_app", "own"), application_name="test", pool_size=1)
    own_server.stop()
    try:
        error = await failure_of(app, tenant, "SELECT 1")
        assert transient(error)
    finally:
        own_server.start()
    async with app.transaction(tenant):
        pass
    await app.close()
