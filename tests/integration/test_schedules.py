"""Scheduled work on real servers: one owner, overdue marks by command, the inbox's clean-up, ledgers verified for good."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY

from adapters.nats.connection import connect
from adapters.postgres.database import Database as Pool
from adapters.postgres.owner import SCHEDULES, OwnerSession
from adapters.postgres.verify import verify_tenant
from handlers.integrity import Integrity
from handlers.reporting import Reporter
from handlers.schedules import Intervals, Scheduler, clean_inbox, marking_id
from tests.fixtures.servers import Database
from tests.integration.gl_support import Books, group_running
from tests.integration.pipeline_support import Rig, rigged
from tools.stack import NatsServer

DAY = timedelta(days=1)
INTERVALS = Intervals(timedelta(seconds=0.2), timedelta(seconds=0.2), DAY, DAY, 180 * DAY)


@pytest.fixture
async def books(nats_server: NatsServer, database: Database, tmp_path: Path, tenant: str) -> AsyncIterator[Books]:
    async with rigged(nats_server, database, tmp_path) as rig:
        rig.add_tenant(tenant)
        yield Books(rig, tenant)


@pytest.fixture
async def reads(database: Database) -> AsyncIterator[Pool]:
    opened = Pool(database.dsn("billing_read"), application_name="test-schedules", pool_size=3)
    yield opened
    await opened.close()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[OwnerSession]:
    async with await OwnerSession.open(database.dsn("billing_relay"), timeout_seconds=10) as opened:
        yield opened


async def invoiced(books: Books, days_ago: int) -> UUID:
    """An issued invoice that was due that many days ago."""
    account_id = await books.rig.account(books.tenant)
    due_on = (datetime.now(UTC) - days_ago * DAY).date()
    line = {"description": "care", "quantity": "1", "unit_price_minor": 100}
    body = {"account_id": account_id, "lines": [line], "invoice_date": due_on, "due_on": due_on}
    created = await books.do("invoices", "invoice.create", body)
    invoice_id = created["documents"][0]["invoice_id"]
    await books.do("invoices", "invoice.issue", {"invoice_id": invoice_id})
    return UUID(invoice_id)


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def until(condition: Any, seconds: float = 20) -> None:
    """Waits for something that no event tells of."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# --- overdue marks and ownership ----------------------------------------------------------------------------------------


async def start(
    resources: AsyncExitStack, rig: Rig, database: Database, reads: Pool
) -> tuple[Scheduler, asyncio.Event]:
    connection = await connect([rig.server.url("worker")], name="test-schedules")
    resources.push_async_callback(connection.close)
    reporter = await resources.enter_async_context(Reporter.on(connection))
    scheduler = Scheduler(
        dsn=database.dsn("billing_relay"),
        database=reads,
        directory=rig.neighbours,
        reporter=reporter,
        intervals=INTERVALS,
    )
    return scheduler, asyncio.Event()


async def test_invoices_past_due_on_the_tenants_own_date_are_marked_by_command_and_once(
    books: Books, database: Database, reads: Pool
) -> None:
    late, today = await invoiced(books, 2), await invoiced(books, -1)
    async with AsyncExitStack() as resources:
        await resources.enter_async_context(group_running(books.rig, "invoices"))
        scheduler, _ = await start(resources, books.rig, database, reads)
        assert await scheduler.mark_overdue(books.tenant) == 1
        assert await scheduler.mark_overdue(books.tenant) == 0
    marked = await books.rig.rows(
        "SELECT id FROM invoice WHERE tenant_id = $1 AND overdue_on IS NOT NULL", books.tenant
    )
    assert [row["id"] for row in marked] == [late] and today not in marked
    (event,) = await books.rows_of(
        "SELECT count(*) FROM outbox WHERE tenant_id = $1 AND subject LIKE '%invoice.overdue'"
    )
    assert event == 1


def test_the_same_marks_on_the_same_day_are_the_same_command() -> None:
    ids, day = [uuid4(), uuid4()], datetime(2026, 11, 2, tzinfo=UTC).date()
    assert marking_id("a", day, ids) == marking_id("a", day, ids)
    others = [marking_id("b", day, ids), marking_id("a", day + DAY, ids), marking_id("a", day, ids[:1])]
    assert len({marking_id("a", day, ids), *others}) == 4


async def test_one_of_two_owns_the_schedules_and_the_other_takes_over(
    books: Books, database: Database, reads: Pool, session: OwnerSession
) -> None:
    late = await invoiced(books, 2)
    async with AsyncExitStack() as resources:
        await resources.enter_async_context(group_running(books.rig, "invoices"))
        first, stop_first = await start(resources, books.rig, database, reads)
        second, stop_second = await start(resources, books.rig, database, reads)
        running = asyncio.create_task(first.run(stop_first))

        async def is_owned() -> bool:
            return metric("billing_schedules_owned") == 1

        async def is_marked() -> bool:
            (marked,) = await books.rows_of(
                "SELECT count(*) FROM invoice WHERE tenant_id = $1 AND overdue_on IS NOT NULL"
            )
            return bool(marked == 1)

        await until(is_owned)
        assert not await session.try_own(SCHEDULES)
        await until(is_marked)
        waiting = asyncio.create_task(second.run(stop_second))
        running.cancel()  # as a kill does: nothing is handed over
        await asyncio.gather(running, return_exceptions=True)
        assert metric("billing_schedules_owned") == 0
        await until(is_owned)
        again = await invoiced_later(books)
        await until(lambda: _is(books, again))
        stop_second.set()
        await asyncio.wait_for(waiting, 10)
    assert late != again


async def invoiced_later(books: Books) -> UUID:
    """Another late invoice, while the group that would issue it is being run by somebody else."""
    account_id = uuid4()
    due_on = (datetime.now(UTC) - 2 * DAY).date()
    line = {"description": "care", "quantity": "1", "unit_price_minor": 100}
    await books.do("accounts", "account.open", {"account_id": account_id, "patient": "Patient/1", "currency": "AED"})
    body = {"account_id": account_id, "lines": [line], "invoice_date": due_on, "due_on": due_on}
    created = await books.do("running", "invoice.create", body)
    invoice_id = created["documents"][0]["invoice_id"]
    await books.do("running", "invoice.issue", {"invoice_id": invoice_id})
    return UUID(invoice_id)


async def _is(books: Books, invoice_id: UUID) -> bool:
    rows = await books.rig.rows(
        "SELECT overdue_on FROM invoice WHERE tenant_id = $1 AND id = $2", books.tenant, invoice_id
    )
    return rows[0]["overdue_on"] is not None


# --- the inbox ----------------------------------------------------------------------------------------------------------


async def test_old_outcomes_go_from_the_front_and_the_books_still_verify(
    books: Books, session: OwnerSession, reads: Pool
) -> None:
    for day in range(1, 7):
        await books.adjust(day, "2026-11-01")
    await _age(books, "sequence <= 3 OR sequence = 5", "300 days")  # 4 is young: what lies behind it stays with it
    assert await clean_inbox(session, books.tenant, datetime.now(UTC) - 180 * DAY) == 3
    assert await books.rows_of("SELECT sequence FROM inbox WHERE tenant_id = $1 ORDER BY 1") == [4, 5, 6]
    assert await clean_inbox(session, books.tenant, datetime.now(UTC) - 180 * DAY) == 0
    async with reads.reading(books.tenant) as connection:
        assert (await verify_tenant(connection, books.tenant)).mismatches == ()


async def test_the_newest_outcome_stays_however_old_it_is(books: Books, session: OwnerSession) -> None:
    for day in (1, 2):
        await books.adjust(day, "2026-11-01")
    await _age(books, "true", "900 days")
    assert await clean_inbox(session, books.tenant, datetime.now(UTC)) == 1
    assert await books.rows_of("SELECT sequence FROM inbox WHERE tenant_id = $1") == [2]


async def test_nothing_younger_than_dead_letters_goes_whatever_is_asked_for(
    books: Books, session: OwnerSession
) -> None:
    for day in (1, 2, 3):
        await books.adjust(day, "2026-11-01")
    await _age(books, "sequence < 3", "90 days")
    assert await clean_inbox(session, books.tenant, datetime.now(UTC) + DAY) == 0
    await _age(books, "sequence < 2", "92 days")
    assert await clean_inbox(session, books.tenant, datetime.now(UTC) + DAY) == 1


@pytest.mark.parametrize("role", ["billing_app", "billing_read"])
async def test_no_other_role_cleans_or_lists_tenants(role: str, books: Books, database: Database) -> None:
    await books.adjust(1, "2026-11-01")
    connection = await asyncpg.connect(database.dsn(role))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT clean_inbox($1, now(), 1)", books.tenant)
        assert await connection.fetch("SELECT tenant_id FROM tenant_book") == []
    finally:
        await connection.close()


async def test_the_relay_role_sees_the_tenants_ids_and_nothing_of_their_books(
    books: Books, session: OwnerSession, database: Database
) -> None:
    await books.adjust(1, "2026-11-01")
    assert books.tenant in await session.tenants()
    connection = await asyncpg.connect(database.dsn("billing_relay"))
    try:
        for statement in ("SELECT * FROM tenant_book", "SELECT count(*) FROM inbox", "DELETE FROM inbox"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def _age(books: Books, which: str, interval: str) -> None:
    await books.as_superuser(
        f"UPDATE inbox SET recorded_at = now() - interval '{interval}' WHERE tenant_id = $1 AND ({which})", books.tenant
    )


# --- integrity ----------------------------------------------------------------------------------------------------------

CORRUPT = "UPDATE ledger_transfer SET amount_minor = amount_minor + {0} WHERE tenant_id = $1 AND sequence = $2"


async def test_a_corrupted_entry_is_named_and_counted_until_it_is_mended(books: Books, reads: Pool) -> None:
    for amount in (10, 20, 30):
        await books.adjust(amount, "2026-11-01")
    integrity = Integrity(reads, DAY)
    await integrity.run([books.tenant])
    assert metric("billing_ledger_integrity_mismatches") == 0
    verified_at = metric("billing_ledger_integrity_last_run_timestamp_seconds")
    assert verified_at is not None and verified_at > datetime.now(UTC).timestamp() - 60
    await books.as_superuser(CORRUPT.format("+1"), books.tenant, 2)
    fresh = Integrity(reads, DAY)  # a worker that takes over begins with everything
    found = await fresh.verify(books.tenant)
    assert ("hash_chain", "2") in {(one.check, one.subject) for one in found}
    assert {one.check for one in found} == {"hash_chain", "running_balance"}
    assert metric("billing_ledger_integrity_mismatches") == len(found) == 3
    assert metric("billing_ledger_integrity_tenant_mismatches", tenant=books.tenant, check="hash_chain") == 1
    assert len(await fresh.verify(books.tenant)) == 3  # not forgotten by the next, shorter run
    await books.as_superuser(CORRUPT.format("-1"), books.tenant, 2)
    assert await fresh.verify(books.tenant) == ()
    assert metric("billing_ledger_integrity_mismatches") == 0
    assert metric("billing_ledger_integrity_tenant_mismatches", tenant=books.tenant, check="hash_chain") is None


async def test_between_full_runs_new_entries_are_verified_and_the_head_must_still_be_there(
    books: Books, reads: Pool
) -> None:
    for amount in (10, 20):
        await books.adjust(amount, "2026-11-01")
    integrity = Integrity(reads, DAY)
    assert await integrity.verify(books.tenant) == ()
    await books.as_superuser(CORRUPT.format("+1"), books.tenant, 1)
    assert await integrity.verify(books.tenant) == ()  # an old one: the full run's
    await books.adjust(30, "2026-11-01")
    await books.as_superuser(CORRUPT.format("+1"), books.tenant, 3)
    assert ("hash_chain", "3") in {(one.check, one.subject) for one in await integrity.verify(books.tenant)}


async def test_a_ledger_that_was_set_back_is_noticed_by_the_short_run(books: Books, reads: Pool) -> None:
    for amount in (10, 20):
        await books.adjust(amount, "2026-11-01")
    integrity = Integrity(reads, DAY)
    assert await integrity.verify(books.tenant) == ()
    await books.as_superuser("DELETE FROM ledger_transfer WHERE tenant_id = $1 AND sequence = 2", books.tenant)
    found = await integrity.verify(books.tenant)
    assert ("2", "no such entry") in {(one.subject, one.found) for one in found}


async def test_full_runs_come_at_their_interval(books: Books, reads: Pool) -> None:
    await books.adjust(10, "2026-11-01")
    always = Integrity(reads, timedelta(0))
    assert await always.verify(books.tenant) == ()
    await books.as_superuser(CORRUPT.format("+1"), books.tenant, 1)
    assert await always.verify(books.tenant) != ()
