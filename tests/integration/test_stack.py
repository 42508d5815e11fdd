"""The embedded stack: it starts, fences its users, keeps its data, and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import nats
import nats.errors
import nats.js.errors
import psutil
import pytest
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import KeySet
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, StorageType

from tools.sandbox.issuer import ALGORITHMS, Issuer
from tools.stack import NatsServer, PostgresServer, SeaweedFS, Stack, StackError
from tools.stack.nats_permissions import tenant_consumer, tenant_inbox_prefix

PROMPTLY_SECONDS = 20
POLL_SECONDS = 0.005
FENCE = "nobody.may.use.this"


@pytest.fixture(scope="module")
def server(bare_nats_server: NatsServer) -> NatsServer:
    return bare_nats_server


@asynccontextmanager
async def connected(url: str, tenant: str | None = None) -> AsyncIterator[tuple[Client, list[str]]]:
    """A connection and the list of the errors the server sends it."""
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error))

    prefix = tenant_inbox_prefix(tenant) if tenant else "_INBOX"
    connection = await nats.connect(url, inbox_prefix=prefix.encode(), error_cb=note, allow_reconnect=False)
    try:
        yield connection, errors
    finally:
        await connection.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PROMPTLY_SECONDS):
        while not condition():  # noqa: ASYNC110  conditions here are about other processes too
            await asyncio.sleep(POLL_SECONDS)


async def _refused_publish(connection: Client, errors: list[str], subject: str) -> bool:
    """Whether the server refuses a publish on `subject`; its refusals come in order, so a certain one ends the wait."""
    return await _refused(errors, subject, connection.publish(subject, b"{}"), connection.publish(FENCE, b"{}"))


async def _refused_subscribe(connection: Client, errors: list[str], subject: str) -> bool:
    return await _refused(errors, subject, connection.subscribe(subject), connection.subscribe(FENCE))


async def _refused(errors: list[str], subject: str, attempt: Awaitable[object], fence: Awaitable[object]) -> bool:
    errors.clear()
    await attempt
    await fence
    await _until(lambda: any(FENCE in error for error in errors))
    assert all("permissions violation" in error for error in errors)
    return any(f'"{subject.lower()}"' in error for error in errors)


async def test_tenant_publishes_only_its_own_subjects(server: NatsServer) -> None:
    async with connected(server.add_tenant("kabul"), "kabul") as (connection, errors):
        assert not await _refused_publish(connection, errors, "billing.v1.cmd.kabul.payment.record")
        assert not await _refused_publish(connection, errors, "billing.v1.qry.kabul.account.get")
        for subject in (
            "billing.v1.cmd.herat.payment.record",
            "billing.v1.qry.herat.account.get",
            "billing.v1.evt.kabul.payment.recorded",
            "billing.v1.dlq.payments.kabul",
            "billing.v1.replay.payments.kabul.payment.record",
            "audit.v1.billing.kabul.payment.record",
            "_INBOX.herat.forged",
            "$JS.API.STREAM.INFO.BILLING_COMMANDS",
            "$JS.API.STREAM.MSG.GET.BILLING_EVENTS",
            "$JS.API.DIRECT.GET.BILLING_EVENTS",
            "$JS.API.STREAM.DELETE.BILLING_COMMANDS",
            "$JS.API.CONSUMER.CREATE.BILLING_EVENTS",
            "$JS.API.CONSUMER.CREATE.BILLING_EVENTS.tenant-herat.billing.v1.evt.kabul.>",
            "$JS.API.CONSUMER.CREATE.BILLING_EVENTS.tenant-kabul.billing.v1.evt.>",
            "$JS.API.CONSUMER.CREATE.BILLING_COMMANDS.tenant-kabul.billing.v1.evt.kabul.>",
            "$JS.API.CONSUMER.MSG.NEXT.BILLING_EVENTS.tenant-herat",
            "$JS.ACK.BILLING_COMMANDS.payments.1.1.1.1.0",
        ):
            assert await _refused_publish(connection, errors, subject), subject


async def test_tenant_hears_only_its_own_inbox_and_events(server: NatsServer) -> None:
    async with connected(server.add_tenant("kabul"), "kabul") as (connection, errors):
        assert not await _refused_subscribe(connection, errors, "_INBOX.kabul.x")
        assert not await _refused_subscribe(connection, errors, "billing.v1.evt.kabul.>")
        for subject in ("_INBOX.herat.>", "_INBOX.>", ">", "billing.v1.evt.>", "billing.v1.evt.herat.>"):
            assert await _refused_subscribe(connection, errors, subject), subject
        for subject in ("billing.v1.cmd.>", "billing.v1.qry.kabul.>", "billing.v1.dlq.>", "$JS.EVENT.>"):
            assert await _refused_subscribe(connection, errors, subject), subject


async def test_reply_reaches_the_tenant_that_asked(server: NatsServer) -> None:
    async with connected(server.url("handlers")) as (handlers, _):
        await handlers.subscribe("billing.v1.qry.>", "billing-queries", cb=_answer)
        await handlers.flush()
        async with connected(server.add_tenant("kabul"), "kabul") as (tenant, _):
            reply = await tenant.request("billing.v1.qry.kabul.account.get", b"{}", timeout=PROMPTLY_SECONDS)
            assert reply.data == b"42"


async def _answer(message: Msg) -> None:
    await message.respond(b"42")


ROLE_REFUSALS = {
    "handlers": ("billing.v1.cmd.t.payment.record", "billing.v1.evt.t.x.y", "$JS.API.STREAM.CREATE.BILLING_COMMANDS"),
    "worker": ("billing.v1.cmd.t.payment.record", "$JS.API.STREAM.PURGE.BILLING_EVENTS"),
    "shim": ("billing.v1.evt.t.x.y", "_INBOX.t.x", "$JS.API.INFO", "billing.v1.dlq.payments.t"),
    "operator": ("billing.v1.evt.t.x.y", "$JS.API.STREAM.UPDATE.BILLING_EVENTS", "$JS.API.STREAM.DELETE.BILLING_DLQ"),
}


@pytest.mark.parametrize("role", ROLE_REFUSALS)
async def test_role_publishes_only_what_it_is_for(server: NatsServer, role: str) -> None:
    async with connected(server.url(role)) as (connection, errors):
        for subject in ROLE_REFUSALS[role]:
            assert await _refused_publish(connection, errors, subject), subject


async def test_anonymous_is_refused(server: NatsServer) -> None:
    client = Client()
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        await client.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False, error_cb=_ignore)
    # nats-py leaves the transport of a refused connection open.
    await client.close()


async def _ignore(_: Exception) -> None:
    """nats-py also logs the error that it raises."""


async def test_tenant_consumes_its_own_events_and_no_others(server: NatsServer) -> None:
    async with connected(server.url("admin")) as (admin, _):
        stream = admin.jetstream()
        await stream.add_stream(name="BILLING_EVENTS", subjects=["billing.v1.evt.>"], storage=StorageType.FILE)
        for tenant in ("kabul", "herat"):
            await stream.publish(f"billing.v1.evt.{tenant}.payment.recorded", tenant.encode())
        async with connected(server.add_tenant("kabul"), "kabul") as (connection, _):
            # `name` as well: without it nats-py uses an older API subject that does not carry the filter.
            name = tenant_consumer("kabul")
            own = ConsumerConfig(name=name, durable_name=name, filter_subject="billing.v1.evt.kabul.>")
            jetstream = connection.jetstream()
            await jetstream.add_consumer("BILLING_EVENTS", own)
            pull = await jetstream.pull_subscribe_bind(name, "BILLING_EVENTS")
            (message,) = await pull.fetch(5, timeout=1)
            assert message.data == b"kabul"
            await message.ack_sync(timeout=PROMPTLY_SECONDS)
            await _assert_body_cannot_widen_the_filter(connection)


async def _assert_body_cannot_widen_the_filter(connection: Client) -> None:
    """The API subject is allowed, the body asks for more: JetStream itself has to refuse."""
    subject = "$JS.API.CONSUMER.CREATE.BILLING_EVENTS.tenant-kabul.billing.v1.evt.kabul.>"
    for filters in (
        b'"filter_subject":"billing.v1.evt.>"',
        b'"filter_subjects":["billing.v1.evt.>"]',
        b'"filter_subjects":["billing.v1.evt.kabul.>","billing.v1.evt.herat.>"]',
        b'"filter_subject":""',
    ):
        body = b'{"stream_name":"BILLING_EVENTS","config":{"durable_name":"tenant-kabul","ack_policy":"explicit",%s}}'
        reply = await connection.request(subject, body % filters, timeout=PROMPTLY_SECONDS)
        assert b'"error"' in reply.data, filters


async def test_adding_a_tenant_leaves_others_connected(server: NatsServer) -> None:
    async with connected(server.add_tenant("early"), "early") as (connection, errors):
        url = server.add_tenant("late")
        assert server.add_tenant("late") == url
        async with connected(url, "late"):
            await connection.flush()
            assert not errors


def test_tenant_ids_that_are_not_subject_tokens_are_refused(server: NatsServer) -> None:
    for tenant in ("", "a.b", "*", ">", "a b", "x" * 65):
        with pytest.raises(ValueError, match="tenant id"):
            server.add_tenant(tenant)


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_nats_keeps_acknowledged_messages(server: NatsServer, how: str) -> None:
    url = server.url("admin")
    async with connected(url) as (connection, _):
        await connection.jetstream().add_stream(name=f"KEEP_{how}", subjects=[f"keep.{how}"])
        await connection.jetstream().publish(f"keep.{how}", b"x")
        await asyncio.to_thread(_bounce, server, how)
    async with connected(url) as (connection, _):
        assert (await connection.jetstream().stream_info(f"KEEP_{how}")).state.messages == 1


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_postgres_keeps_committed_rows(own_postgres: PostgresServer, how: str) -> None:
    dsn = own_postgres.dsn("billing_owner", "kept")
    await _execute(dsn, f"CREATE TABLE kept_{how} AS SELECT 1 AS one")
    await asyncio.to_thread(_bounce, own_postgres, how)
    assert await _fetch_value(dsn, f"SELECT one FROM kept_{how}") == 1


def _bounce(server: NatsServer | PostgresServer, how: str) -> None:
    if how == "restart":
        server.restart()
    else:
        server.kill()
        server.start()


@pytest.fixture(scope="module")
def own_postgres(stack: Stack) -> Iterator[PostgresServer]:
    """A PostgreSQL of this module's own, because the tests crash it."""
    with PostgresServer(stack.directory / f"postgres-own-{os.getpid()}") as server:
        server.create_database("kept")
        yield server


async def test_postgres_roles_have_no_special_powers(own_postgres: PostgresServer) -> None:
    dsn = own_postgres.dsn("postgres", "postgres")
    powers = await _fetch_value(
        dsn,
        "SELECT count(*) FROM pg_roles WHERE rolname ~ '^billing_(owner|app|relay|read)$'"
        " AND rolcanlogin AND NOT (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)",
    )
    assert powers == 4
    assert await _fetch_value(dsn, "SHOW fsync") == "on"


async def test_postgres_asks_for_passwords(own_postgres: PostgresServer) -> None:
    dsn = own_postgres.dsn("billing_app", "kept")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(dsn, password="wrong")


async def test_database_clone_and_drop(own_postgres: PostgresServer) -> None:
    own_postgres.create_database("origin")
    await _execute(own_postgres.dsn("billing_owner", "origin"), "CREATE TABLE t AS SELECT 7 AS seven")
    own_postgres.create_database("copied", "origin")
    assert await _fetch_value(own_postgres.dsn("billing_owner", "copied"), "SELECT seven FROM t") == 7
    own_postgres.drop_database("copied")
    assert not own_postgres.database_exists("copied")
    with pytest.raises(ValueError, match="identifier"):
        own_postgres.create_database('x"; DROP DATABASE origin; --')


async def test_replica_follows_lags_and_catches_up(own_postgres: PostgresServer) -> None:
    primary_dsn = own_postgres.dsn("billing_owner", "kept")
    await _execute(primary_dsn, "CREATE TABLE seen (n int)")
    with own_postgres.start_replica() as replica:
        replica_dsn = replica.dsn("billing_owner", "kept")
        await _execute(primary_dsn, "INSERT INTO seen VALUES (1)")
        replica.wait_for(own_postgres.execute("SELECT pg_current_wal_lsn()"))
        assert await _fetch_value(replica_dsn, "SELECT count(*) FROM seen") == 1
        replica.pause_replay()
        await _execute(primary_dsn, "INSERT INTO seen VALUES (2)")
        assert await _fetch_value(replica_dsn, "SELECT count(*) FROM seen") == 1
        replica.resume_replay()
        replica.wait_for(own_postgres.execute("SELECT pg_current_wal_lsn()"))
        assert await _fetch_value(replica_dsn, "SELECT count(*) FROM seen") == 2
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await _execute(replica_dsn, "INSERT INTO seen VALUES (3)")


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _fetch_value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "one") as running:
        second = NatsServer(tmp_path / "two", server_name="two")
        with second:
            pass
        state = (tmp_path / "two" / "state.json").read_text()
        occupied = state.replace(f'"port": {second.port}', f'"port": {running.port}')
        (tmp_path / "two" / "nats.conf").write_text(
            (tmp_path / "two" / "nats.conf").read_text().replace(f":{second.port}", f":{running.port}")
        )
        assert occupied != state
        with pytest.raises(StackError, match="address already in use"):
            second.start()


def test_a_file_that_holds_a_password_is_its_owners_alone(stack: Stack, server: NatsServer) -> None:
    urls = [stack.postgres.dsn("billing_app", "postgres"), stack.nats.url("handlers"), server.url("handlers")]
    passwords = [str(urlsplit(url).password).encode() for url in urls]
    files = [
        path for path in stack.directory.rglob("*") if path.suffix in (".json", ".conf", ".log") and path.is_file()
    ]
    holding = [path for path in files if any(password in path.read_bytes() for password in passwords)]
    assert {path.name for path in holding} == {"state.json", "nats.conf"}
    assert {path.stat().st_mode & 0o777 for path in holding} == {0o600}


def test_s3_refuses_strangers_and_stops(tmp_path: Path) -> None:
    with SeaweedFS(tmp_path / "s3") as objects:
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            httpx.get(f"{objects.endpoint_url}/{objects.bucket}/").raise_for_status()
        assert len(objects.secret_access_key) == 40
    assert not objects.is_running()


OWNER = """
import signal, sys, time
from tools.stack import Stack
# A test run in the background of a shell inherits an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
stack = Stack(sys.argv[1], ephemeral=True).start()
print(stack.nats.pid(), stack.postgres.pid(), flush=True)
time.sleep(600)
"""


def _start_owner(name: str) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, name], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    servers = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
    assert len(servers) == 2
    return owner, [*servers, *servers[1].children()]


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_die_with_their_owner(signal_number: signal.Signals) -> None:
    name = f"owner-{os.getpid()}-{int(signal_number)}"
    owner, family = _start_owner(name)
    with owner:
        owner.send_signal(signal_number)
        try:
            owner.wait(PROMPTLY_SECONDS)
        finally:
            owner.kill()
    deadline = time.monotonic() + PROMPTLY_SECONDS
    while not all(_gone(process) for process in family):
        assert time.monotonic() < deadline, [process for process in family if not _gone(process)]
        time.sleep(0.01)
    with Stack(name, ephemeral=True) as again:  # what the dead owner left behind is in nobody's way
        assert again.postgres.is_running()
    assert not again.directory.exists()


def test_a_stack_has_one_owner() -> None:
    name = f"shared-{os.getpid()}"
    owner, _ = _start_owner(name)
    with owner:
        handle = Stack(name, ephemeral=True)
        try:
            assert handle.owner_pid() == owner.pid
            with pytest.raises(StackError, match="already runs"):
                handle.start()
            assert handle.nats.monitor("healthz")["status"] == "ok"
        finally:
            owner.kill()
    assert handle.owner_pid() is None
    assert not handle.stop_owner()
    handle.start().stop()
    assert not handle.directory.exists()


async def test_issuer_serves_the_keys_it_signs_with() -> None:
    with Issuer() as issuer:
        async with httpx.AsyncClient() as client:
            keys = KeySet.import_key_set((await client.get(issuer.jwks_url)).json())
            for algorithm in ALGORITHMS:
                token = jwt.decode(issuer.mint("kabul", ["payments:write"], algorithm=algorithm), keys, [algorithm])
                assert token.claims["tenant"] == "kabul"
                assert token.claims["scope"] == "payments:write"
            assert "exp" not in jwt.decode(issuer.mint("kabul", exp=None), keys, ["ES256"]).claims
            issuer.rotate()
            assert len((await client.get(issuer.jwks_url)).json()["keys"]) == 6
            with pytest.raises(InvalidKeyIdError):
                jwt.decode(issuer.mint("kabul"), keys, ["ES256"])
        assert issuer.fetches == 2
