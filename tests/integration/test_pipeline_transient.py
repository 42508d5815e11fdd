"""Failures that pass: the share is given back, applied once later, and no other tenant notices."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from adapters.postgres.database import lock_key
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import Rig, rigged
from tests.integration.relay_support import until
from tools.stack import NatsServer

Start = Callable[..., Any]


@pytest.fixture
def start(nats_server: NatsServer, database: Database, tmp_path: Path) -> Start:
    """`async with start(lock_timeout_ms=…) as rig`"""
    return lambda **pool: rigged(nats_server, database, tmp_path, **pool)


@asynccontextmanager
async def held(rig: Rig, tenant: str) -> AsyncIterator[None]:
    """Another process holds the tenant's lock."""
    holder = await asyncpg.connect(rig.database.dsn())
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", lock_key(tenant))
        yield
    finally:
        await holder.close()


async def two_tenants(rig: Rig, tenant: str) -> tuple[dict[str, Any], str]:
    """Two tenants with the same account; a payment for it, and the second's id."""
    other = f"{tenant}-b"
    rig.add_tenant(tenant)
    rig.add_tenant(other)
    account = await rig.account(tenant)
    await rig.account(other, account)
    return rig.payment(account), other


@pytest.mark.parametrize(
    "limits",
    [{"lock_timeout_ms": 300}, {"lock_timeout_ms": 60_000, "statement_timeout_ms": 300}],
    ids=["lock", "statement"],
)
async def test_a_tenant_whose_lock_is_held_waits_and_others_do_not(
    start: Start, tenant: str, limits: dict[str, int]
) -> None:
    async with start(**limits) as rig:
        payment, other = await two_tenants(rig, tenant)
        async with held(rig, tenant):
            waiting = [await rig.send(tenant, "payment.record", payment) for _ in range(3)]
            neighbour = await rig.send(other, "payment.record", payment)
            messages = await rig.pull("payments", 4)
            handling = asyncio.create_task(rig.handle("payments", messages))
            assert (await rig.outcome(neighbour)).status == "applied"
            assert not handling.done(), "the neighbour waited for the tenant whose lock is held"
            await handling
            assert all([await rig.silent(sent) for sent in waiting])
            assert await rig.unfinished("payments") == 3
        await rig.apply("payments", 3)
        assert [(await rig.outcome(sent)).status for sent in waiting] == ["applied"] * 3
        assert len(await rig.payments(tenant)) == 3
        assert await rig.unfinished("payments") == 0


async def test_without_a_free_connection_the_share_waits(start: Start, tenant: str) -> None:
    async with start(pool_size=1, checkout_timeout_seconds=0.2) as rig:
        payment, other = await two_tenants(rig, tenant)
        async with rig.pool.transaction(other):
            sent = await rig.send(tenant, "payment.record", payment)
            await rig.apply("payments", 1)
            assert await rig.silent(sent)
        await rig.apply("payments", 1)
        assert (await rig.outcome(sent)).status == "applied"
        assert len(await rig.payments(tenant)) == 1


async def terminated(rig: Rig) -> bool:
    """Ends the backend that waits for the lock, as soon as one does."""
    return bool(
        await rig.rows(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE wait_event = 'advisory' AND datname = current_database()"""
        )
    )


async def test_a_backend_that_ends_in_the_middle_of_a_batch(start: Start, tenant: str) -> None:
    """As when PostgreSQL is restarted; on the same pool afterwards."""
    async with start() as rig:
        payment, _ = await two_tenants(rig, tenant)
        sent = [await rig.send(tenant, "payment.record", payment) for _ in range(5)]
        messages = await rig.pull("payments", 5)
        async with held(rig, tenant):
            handling = asyncio.create_task(rig.handle("payments", messages))
            await until(lambda: terminated(rig), seconds=10)
            await handling
        assert all([await rig.silent(each) for each in sent])
        await rig.apply("payments", 5)
        assert [(await rig.outcome(each)).status for each in sent] == ["applied"] * 5
        assert len(await rig.payments(tenant)) == 5


async def test_a_commit_whose_answer_is_lost_is_found_out_from_the_inbox(start: Start, tenant: str) -> None:
    """The transaction is committed, the process does not know: the command comes again and is a duplicate."""
    async with start() as rig:
        payment, _ = await two_tenants(rig, tenant)
        sent = await rig.send(tenant, "payment.record", payment)
        (message,) = await rig.pull("payments", 1)

        def lose(adapted: Any, _record: Any, _proxy: Any) -> None:
            adapted.driver_connection.add_query_logger(
                lambda record: adapted.driver_connection.terminate() if record.query == "COMMIT" else None
            )

        engine = rig.pool._engine.sync_engine
        event.listen(engine, "checkout", lose)
        await rig.handle("payments", [message])
        event.remove(engine, "checkout", lose)
        assert await rig.silent(sent)
        await rig.apply("payments", 1)
        assert (await rig.outcome(sent)).status == "duplicate"
        assert len(await rig.payments(tenant)) == 1
        assert await rig.unfinished("payments") == 0
