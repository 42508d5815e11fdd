"""The handlers role: drains when asked to stop, says when it is useless, and stays alive while NATS is away."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import nats
import pytest

from adapters.nats.topology import COMMANDS_STREAM
from adapters.postgres.release import stamped
from adapters.settings import DatabaseSettings, HandlersSettings, NatsSettings, RuntimeSettings, load
from handlers.app import HandlersConfig, PoolShares, run_handlers
from schemas.tenant import TenantProfile
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import publish_raw
from tools.stack import NatsServer
from tools.stack.paths import PROJECT_ROOT
from tools.stack.stack import Role
from tools.stack.tenant_file import TenantFile

ServiceEnv = Callable[[Role], dict[str, str]]
WAIT_SECONDS = 20.0


@pytest.fixture
def env(service_env: ServiceEnv, tmp_path: Path, tenant: str) -> dict[str, str]:
    file = TenantFile(tmp_path / "tenants.json")
    file.add(TenantProfile(tenant_id=tenant, name=tenant, region="local-1", country_profile="AFG"))
    return service_env("handlers") | {"TENANT_DIRECTORY_FILE": str(file.path), "LOG_FORMAT": "json"}


@asynccontextmanager
async def running(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The role in this process, so that a test can shorten its patience; its probes' base URL."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    config = HandlersConfig(load(RuntimeSettings), load(DatabaseSettings), load(NatsSettings), load(HandlersSettings))
    stop = asyncio.Event()
    task = asyncio.create_task(run_handlers(config, stop))
    url = f"http://{env['METRICS_HOST']}:{env['METRICS_PORT']}"
    try:
        await until(lambda: answers(f"{url}/readyz", 200), task)
        yield url
    finally:
        stop.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await task


async def until(condition: Callable[[], Awaitable[bool]], task: "asyncio.Task[Any] | None" = None) -> None:
    """Polls what announces nothing: another server's state."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await condition():
            assert task is None or not task.done(), task
            await asyncio.sleep(0.02)


async def answers(url: str, status: int) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(url)).status_code == status
    except httpx.TransportError:
        return False


def opening() -> bytes:
    return json.dumps({"patient": "Patient/1", "currency": "AFN"}).encode()


async def publish(jetstream: Any, tenant: str, count: int) -> set[str]:
    ids = [str(uuid4()) for _ in range(count)]
    subject = f"billing.v1.cmd.{tenant}.account.open"
    await asyncio.gather(*(jetstream.publish(subject, opening(), headers={"Nats-Msg-Id": each}) for each in ids))
    return set(ids)


async def applied(database: Database, tenant: str) -> set[str]:
    connection = await asyncpg.connect(database.dsn("postgres"))
    try:
        rows = await connection.fetch("SELECT command_id::text FROM inbox WHERE tenant_id = $1", tenant)
        return {row[0] for row in rows}
    finally:
        await connection.close()


async def test_queries_that_hang_leave_the_commands_their_connections(
    env: dict[str, str], tenant: str, database: Database, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await nats.connect(nats_server.url("admin"))
    locker = await asyncpg.connect(database.dsn("postgres"))
    async with running(env | {"DATABASE_POOL_SIZE": "4"}, monkeypatch):
        async with locker.transaction():
            await locker.execute("LOCK TABLE payment IN ACCESS EXCLUSIVE MODE")
            subject = f"billing.v1.qry.{tenant}.payment.list"
            hanging = [asyncio.create_task(client.request(subject, b"{}", timeout=WAIT_SECONDS)) for _ in range(8)]
            await until(lambda: _waits_for_lock(database))
            published = await publish(client.jetstream(), tenant, 1)
            async with asyncio.timeout(2):
                await until(lambda: _all_applied(database, tenant, published))
        for answer in await asyncio.gather(*hanging):
            assert json.loads(answer.data)["error"] is None
    await locker.close()
    await client.close()


async def _waits_for_lock(database: Database) -> bool:
    connection = await asyncpg.connect(database.dsn("postgres"))
    try:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(await connection.fetchval(waiting))
    finally:
        await connection.close()


async def _all_applied(database: Database, tenant: str, published: set[str]) -> bool:
    return published <= await applied(database, tenant)


async def test_it_shows_that_it_is_there_before_it_has_any_work(
    env: dict[str, str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or `billing migrate` would contract under it."""
    async with running(env, monkeypatch):
        await until(lambda: _has_session(database, stamped("billing-handlers")))


async def _has_session(database: Database, application_name: str) -> bool:
    connection = await asyncpg.connect(database.dsn("postgres"))
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()"
        return bool(await connection.fetchval(query, application_name))
    finally:
        await connection.close()


def test_the_connections_are_shared_out_and_none_is_added() -> None:
    assert PoolShares.of(20) == (15, 5)
    for size in range(2, 101):
        shares = PoolShares.of(size)
        assert sum(shares) == size and min(shares) >= 1


async def test_sigterm_under_load_finishes_what_is_in_hand_and_gives_the_rest_back(
    env: dict[str, str], tenant: str, database: Database, nats_server: NatsServer, tmp_path: Path
) -> None:
    """What was fetched and not begun is there for the next process at once, not after ack_wait (30 s)."""
    client = await nats.connect(nats_server.url("admin"))
    jetstream = client.jetstream()
    published = await publish(jetstream, tenant, 2_000)
    small = {"FETCH_BATCH_SIZE": "20", "FETCH_BATCH_MAX": "20"}
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tools.cli", "handlers", env=env | small | {"PYTHONPATH": str(PROJECT_ROOT)},
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            await until(lambda: _some(database, tenant, 100))
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WAIT_SECONDS):
                assert await process.wait() == 0, (tmp_path / "log").read_text()[-2000:]
        finally:
            if process.returncode is None:
                process.kill()
    done = await applied(database, tenant)
    assert 100 <= len(done) < len(published), "it was not under load"

    consumer = await jetstream.pull_subscribe_bind("accounts", stream=COMMANDS_STREAM)
    left: set[str] = set()
    async with asyncio.timeout(5):
        while len(left) < len(published - done):
            for message in await consumer.fetch(500, timeout=1):
                left.add((message.headers or {})["Nats-Msg-Id"])
                await message.ack()
    assert left == published - done
    info = await jetstream.consumer_info(COMMANDS_STREAM, "accounts")
    assert info.num_pending == 0
    await client.close()


async def _some(database: Database, tenant: str, count: int) -> bool:
    return len(await applied(database, tenant)) >= count


async def test_a_durable_that_is_deleted_fails_liveness_and_leaves_the_loop_alive(
    env: dict[str, str], nats_server: NatsServer, tenant: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.watchdog.FETCH_FAILING_SECONDS", 0.5)
    client = await nats.connect(nats_server.url("admin"))
    jetstream = client.jetstream()
    config = (await jetstream.consumer_info(COMMANDS_STREAM, "charges")).config
    async with running(env, monkeypatch) as url:
        assert await answers(f"{url}/livez", 200)
        await jetstream.delete_consumer(COMMANDS_STREAM, "charges")
        try:
            await until(lambda: answers(f"{url}/livez", 503))
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"{url}/livez")).json()["failing"].keys() == {"consumer_charges"}
            # The other groups go on.
            await publish(jetstream, tenant, 1)
            await until(lambda: _some(database, tenant, 1))
        finally:
            await jetstream.add_consumer(COMMANDS_STREAM, config)
        await until(lambda: answers(f"{url}/livez", 200))
    await client.close()


async def test_a_nats_that_is_away_is_not_the_process_fault(
    env: dict[str, str], nats_server: NatsServer, tenant: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.watchdog.FETCH_FAILING_SECONDS", 0.3)
    async with running(env, monkeypatch) as url:
        await asyncio.to_thread(nats_server.stop)
        try:
            await until(lambda: answers(f"{url}/readyz", 503))
            for _ in range(20):
                assert await answers(f"{url}/livez", 200)
                await asyncio.sleep(0.05)  # well past its patience
        finally:
            await asyncio.to_thread(nats_server.start)
        await until(lambda: answers(f"{url}/readyz", 200))
        client = await nats.connect(nats_server.url("admin"))
        await publish(client.jetstream(), tenant, 1)
        await until(lambda: _some(database, tenant, 1))
        await client.close()


async def test_a_message_that_no_client_can_decode_does_not_silence_the_process(
    env: dict[str, str], nats_server: NatsServer, tenant: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role's own connection is the tolerant one."""
    client = await nats.connect(nats_server.url("admin"))
    async with running(env, monkeypatch):
        subject = f"billing.v1.cmd.{tenant}.account.".encode()
        await publish_raw(nats_server, "admin", subject + b"\xff\xfe", b"", b"{}")
        await publish_raw(nats_server, "admin", subject + b"open", b"NATS/1.0", b"{}")
        await publish_raw(nats_server, "admin", f"billing.v1.qry.{tenant}.account.get".encode(), b"NATS/1.0", b"{}")
        await publish(client.jetstream(), tenant, 1)
        await until(lambda: _some(database, tenant, 1))
    await client.close()


async def test_the_metrics_an_alert_needs_are_exposed(
    env: dict[str, str], nats_server: NatsServer, tenant: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.watchdog.STATE_INTERVAL_SECONDS", 0.1)
    client = await nats.connect(nats_server.url("admin"))
    async with running(env, monkeypatch) as url:
        await publish(client.jetstream(), tenant, 1)
        await until(lambda: _some(database, tenant, 1))
        wanted = [
            'billing_commands_total{code="",command="account.open",outcome="applied"}',
            'billing_command_batch_size_bucket{group="accounts",le="1.0"}',
            'billing_command_duration_seconds_bucket{group="accounts",le="3.0"}',
            'billing_commands_in_flight{group="accounts"} 0.0',
            'billing_consumer_pending{group="accounts"} 0.0',
            'billing_consumer_ack_pending{group="accounts"} 0.0',
            'billing_consumer_oldest_age_seconds{group="accounts"} 0.0',
        ]
        await until(lambda: _exposes(url, wanted))
    await client.close()


async def _exposes(url: str, wanted: list[str]) -> bool:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{url}/metrics")).text
    return all(each in text for each in wanted)
