"""The relay's promises on real servers: every committed row once, in its tenant's order, whatever is killed meanwhile."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest
from nats.aio.client import Client

from adapters.nats import topology
from adapters.nats.connection import connect
from adapters.postgres.outbox import LOCK_SPACE
from handlers.relay import run_relay
from handlers.relay_pump import GATHERED_ROWS, MIN_BATCH, PumpSettings, gathering_seconds
from tests.fixtures.servers import Database
from tests.integration.relay_support import commit, published, relaying, sample, stored, unsent, until
from tools.stack import NatsServer

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def db(database: Database) -> AsyncIterator[Connection]:
    """The superuser's connection: the tests write for any tenant."""
    connection = await asyncpg.connect(database.dsn("postgres"))
    yield connection
    await connection.close()


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await connect(nats_server.url("admin"), name="test")
    await topology.reconcile(client, replicas=1, dev=True)
    yield client
    await client.close()


async def _all_sent(db: Connection, *tenants: str, seconds: float = 20) -> None:
    async def done() -> bool:
        return not any([await unsent(db, tenant) for tenant in tenants])

    await until(done, seconds)


async def _kill_relay_sessions(db: Connection) -> int:
    rows = await db.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'billing-relay@%' AND datname = current_database()"
    )
    return len(rows)


async def test_every_row_once_in_its_tenants_order(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    tenants = [f"{tenant}-{n}" for n in range(25)]
    expected: dict[str, list[bytes]] = {each: [] for each in tenants}
    async with relaying(database, nats_server):
        for turn in range(40):
            for n, each in enumerate(tenants):
                bodies = [f"{turn}.{i}".encode() for i in range((turn + n) % 4)]
                if bodies:
                    await commit(db, each, bodies)
                    expected[each] += bodies
        await _all_sent(db, *tenants)
    for each in tenants:
        messages = await stored(nc, each)
        assert [body for _, body in messages] == expected[each]
        assert len({message_id for message_id, _ in messages}) == len(messages)


async def test_a_backlog_goes_in_atomic_batches(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    bodies = [b"%d" % n for n in range(2_300)]
    await commit(db, tenant, bodies)
    batches, singles = published("events", "batch"), published("events", "single")
    async with relaying(database, nats_server):
        await _all_sent(db, tenant)
    assert [body for _, body in await stored(nc, tenant)] == bodies
    assert (published("events", "batch") - batches, published("events", "single") - singles) == (2_300, 0)


async def test_a_few_rows_go_singly(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    await commit(db, tenant, [b"%d" % n for n in range(MIN_BATCH - 1)])
    batches, singles = published("events", "batch"), published("events", "single")
    async with relaying(database, nats_server):
        await _all_sent(db, tenant)
    assert (published("events", "batch") - batches, published("events", "single") - singles) == (0, MIN_BATCH - 1)
    assert [body for _, body in await stored(nc, tenant)] == [b"%d" % n for n in range(MIN_BATCH - 1)]


async def test_a_row_that_was_stored_before_is_not_doubled(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    """As after a crash between publish and delete: the batch is refused, singles find the duplicate, order holds."""
    bodies = [b"%d" % n for n in range(60)]
    ids = await commit(db, tenant, bodies)
    subject = f"billing.v1.evt.{tenant}.payment.recorded"
    for message_id, body in list(zip(ids, bodies, strict=True))[:30]:
        await nc.jetstream().publish(subject, body, headers={"Nats-Msg-Id": message_id})
    refused = sample("billing_outbox_errors_total", stream="events", kind="batch")
    async with relaying(database, nats_server):
        await _all_sent(db, tenant)
    assert [body for _, body in await stored(nc, tenant)] == bodies
    assert sample("billing_outbox_errors_total", stream="events", kind="batch") == refused + 1


async def test_events_and_audit_go_their_own_ways(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    """And an audit stream that is gone holds no event back."""
    await nc.jetstream().delete_stream("AUDIT")
    await commit(db, tenant, [b"a%d" % n for n in range(700)], stream="audit")
    await commit(db, tenant, [b"e%d" % n for n in range(50)])
    async with relaying(database, nats_server):

        async def events_are_out() -> bool:
            return await unsent(db, tenant) == 700

        await until(events_are_out)
        assert len(await stored(nc, tenant)) == 50
        before = sample("billing_outbox_errors_total", stream="audit", kind="unavailable")
        await asyncio.sleep(1)  # what is measured is how often it tries meanwhile: 20 ms doubling to 500 ms
        assert 1 <= sample("billing_outbox_errors_total", stream="audit", kind="unavailable") - before <= 8
        await topology.reconcile(nc, replicas=1, dev=True)
        await _all_sent(db, tenant)
    assert [body for _, body in await stored(nc, tenant, "AUDIT")] == [b"a%d" % n for n in range(700)]


async def test_a_message_that_cannot_be_sent_blocks_only_its_tenant(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    poisoned, other = f"{tenant}-p", f"{tenant}-o"
    await commit(db, poisoned, [b"first", b"x" * 1_100_000, b"after"])
    await commit(db, other, [b"%d" % n for n in range(100)])
    async with relaying(database, nats_server):
        await _all_sent(db, other)
        await commit(db, other, [b"100"])
        await _all_sent(db, other)
        assert [body for _, body in await stored(nc, poisoned)] == [b"first"]
        assert await unsent(db, poisoned) == 2
        await db.execute("DELETE FROM outbox WHERE tenant_id = $1 AND length(body) > 1000000", poisoned)
        await _all_sent(db, poisoned)
    assert [body for _, body in await stored(nc, poisoned)] == [b"first", b"after"]
    assert [body for _, body in await stored(nc, other)] == [b"%d" % n for n in range(101)]


async def test_sessions_killed_under_load(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    tenants = [f"{tenant}-{n}" for n in range(12)]
    expected: dict[str, list[bytes]] = {each: [] for each in tenants}
    killed = 0
    async with relaying(database, nats_server):
        for turn in range(60):
            for each in tenants:
                bodies = [f"{turn}.{i}".encode() for i in range(10)]
                await commit(db, each, bodies)
                expected[each] += bodies
            if turn % 10 == 5:
                killed += await _kill_relay_sessions(db)
        await _all_sent(db, *tenants)
    assert killed >= 4
    for each in tenants:
        assert [body for _, body in await stored(nc, each)] == expected[each]


async def test_nats_down_and_back(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    bodies = [b"%d" % n for n in range(400)]
    async with relaying(database, nats_server, publish_timeout_seconds=2):
        await commit(db, tenant, bodies[:100])
        nats_server.kill()
        await commit(db, tenant, bodies[100:200])
        nats_server.start()
        await commit(db, tenant, bodies[200:])
        await _all_sent(db, tenant, seconds=30)

    async def connected() -> bool:
        return nc.is_connected

    await until(connected)
    assert [body for _, body in await stored(nc, tenant)] == bodies


@pytest.mark.parametrize("dies", ["process", "session"])
async def test_another_relay_takes_over(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str, dies: str
) -> None:
    environment = os.environ | {"RELAY_DSN": database.dsn("billing_relay"), "NATS_URL": nats_server.url("worker")}
    first = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.relay_process", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: _owned_shards(db, 16))
        async with relaying(database, nats_server):
            bodies = [b"%d" % n for n in range(3_000)]
            await commit(db, tenant, bodies)
            if dies == "process":
                first.kill()
            else:
                await _kill_relay_sessions(db)
            await _all_sent(db, tenant)
            # Whoever has it now: all of it, and nobody twice.
            await until(lambda: _owned_shards(db, 16))
        assert [body for _, body in await stored(nc, tenant)] == bodies
    finally:
        if first.returncode is None:
            first.kill()
        await first.wait()


async def _owned_shards(db: Connection, count: int) -> bool:
    owned = await db.fetchval(
        "SELECT count(DISTINCT objid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = $1 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        LOCK_SPACE,
    )
    return bool(owned == count)


async def test_relays_with_other_group_counts_never_share_a_shard(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    async with relaying(database, nats_server, groups=2):
        await until(lambda: _owned_shards(db, 16))
        before = sample("billing_outbox_owned_shard_groups")
        async with relaying(database, nats_server, groups=16):
            await commit(db, tenant, [b"1"])
            await _all_sent(db, tenant)
            assert sample("billing_outbox_owned_shard_groups") == before == 2
    assert len(await stored(nc, tenant)) == 1


async def test_gauges_tell_backlog_and_age_and_vanish_with_ownership(
    db: Connection, database: Database, nats_server: NatsServer, nc: Client, tenant: str
) -> None:
    await nc.jetstream().delete_stream("AUDIT")
    await commit(db, tenant, [b"x"] * 7, stream="audit")
    await db.execute("UPDATE outbox SET recorded_at = now() - interval '1 hour' WHERE tenant_id = $1", tenant)
    async with relaying(database, nats_server, groups=1):

        async def reported() -> bool:
            return sample("billing_outbox_backlog", stream="audit", shard_group="0") == 7

        await until(reported)
        assert 3_600 <= sample("billing_outbox_oldest_age_seconds", stream="audit", shard_group="0") < 3_700
        assert sample("billing_outbox_owned_shard_groups") == 1
    assert sample("billing_outbox_backlog", stream="audit", shard_group="0") == 0
    assert sample("billing_outbox_owned_shard_groups") == 0
    await db.execute("DELETE FROM outbox WHERE tenant_id = $1", tenant)


@pytest.mark.parametrize("options", [{"groups": 0}, {"groups": 17}, {"batch_size": 0}, {"batch_size": 1_001}])
async def test_options_out_of_range_are_refused(nc: Client, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        await run_relay(dsn="", nats_connection=nc, stop=asyncio.Event(), **options)


async def test_the_relay_role_may_only_read_and_delete(database: Database, tenant: str) -> None:
    connection = await asyncpg.connect(database.dsn("billing_relay"))
    try:
        for statement in (
            "INSERT INTO outbox (tenant_id) VALUES ('x')",
            "UPDATE outbox SET body = ''",
            "TRUNCATE outbox",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_reading_is_an_index_range_scan_per_shard(db: Connection, tenant: str) -> None:
    """However long the backlog: no sort, no sequential scan."""
    from adapters.postgres.outbox import _UNSENT

    for n in range(8):
        await commit(db, f"{tenant}-{n}", [b"x"] * 2_000)
    await db.execute("ANALYZE outbox")
    await db.execute("SET ROLE billing_relay")
    query = _UNSENT.replace("$1", "'{1,3,5,7}'").replace("$2", "'events'").replace("$3", "100").replace("$4", "'{}'")
    plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {query}"))
    await db.execute("RESET ROLE")
    await db.execute("DELETE FROM outbox WHERE tenant_id LIKE $1", f"{tenant}-%")
    assert "ix_outbox_shard" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan


def test_rows_that_come_steadily_are_let_gather_and_rare_ones_are_not() -> None:
    settings = PumpSettings(batch_size=500, poll_min_seconds=0.02, poll_max_seconds=0.1)
    # 5 rows in 0.1 s make no batch within the longest pause; 2,000 a second make a hundred in a twentieth; 10,000 in less.
    assert gathering_seconds(5, 0.1, 0.02, settings) == 0.02
    assert gathering_seconds(40, 0.02, 0.02, settings) == GATHERED_ROWS / 2_000
    assert gathering_seconds(200, 0.02, 0.1, settings) == 0.02
    assert gathering_seconds(MIN_BATCH, 0.1, 0.02, settings) == 0.1
    assert [gathering_seconds(0, 1.0, last, settings) for last in (0.02, 0.08)] == [0.04, 0.1]
