"""A tenant chooses where the server's PubAck, and the answer to a query, go: whatever subject it names, nothing comes of it.

NATS checks what a user publishes to, not the reply subject it names (docs/decisions/0002). What a tenant can get published that
way elsewhere is a message without headers that says `{"stream": …, "seq": …}`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.nats.topology import (
    ATTEMPTS_STREAM,
    COMMANDS_STREAM,
    DLQ_STREAM,
    JOBS_STREAM,
    REPLAY_STREAM,
    replay_durable,
)
from handlers.event_check import check_events
from handlers.jobs import JobQueue, JobRunner, JobWork
from handlers.queries import Queries, register
from handlers.reporting import Reporter
from schemas import headers
from schemas.codes import Code
from schemas.subjects import attempt_subject, command_subject, event_subject, job_subject, query_subject, replay_subject
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import Rig, again, rigged
from tests.integration.query_hospital import profile
from tools.replay.dead_letters import RESOLVED_PREFIX, Filter, letters, resolution, resolve_letter
from tools.stack import NatsServer
from tools.stack.nats_permissions import tenant_inbox_prefix

WAIT_SECONDS = 15.0


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


@pytest.fixture
async def villain(nats_server: NatsServer) -> AsyncIterator["Villain"]:
    name = f"v-{uuid4().hex[:12]}"
    prefix = tenant_inbox_prefix(name).encode()
    connection = await nats.connect(nats_server.add_tenant(name), inbox_prefix=prefix, error_cb=_ignore)
    yield Villain(name, connection)
    await connection.close()


async def _ignore(_: Exception) -> None:
    """A refusal by the server is as good as nothing coming of it."""


class Villain:
    """A tenant's own user, with no more permissions than any."""

    def __init__(self, tenant: str, connection: Client) -> None:
        self.tenant, self.connection = tenant, connection

    async def aim(self, reply: str) -> None:
        """Publishes a command of its own whose PubAck goes to `reply`, and returns when the server has dealt with it."""
        subject = command_subject(self.tenant, "payment.record")
        message_id = {headers.MESSAGE_ID: str(uuid4())}
        await self.connection.publish(subject, b"{}", reply=reply, headers=message_id)
        # Its own next PubAck comes behind.
        await self.connection.request(subject, b"{}", timeout=WAIT_SECONDS, headers={headers.MESSAGE_ID: str(uuid4())})


async def _apply_all(rig: Rig) -> None:
    """Everything that waits, what the villain of an earlier test left behind included."""
    await rig.apply("payments", await rig.unfinished("payments"))


async def _stored(rig: Rig, stream: str, subject: str) -> Msg | None:
    try:
        return await rig.publisher.jetstream().get_msg(stream, subject=subject)  # type: ignore[return-value]
    except nats.js.errors.NotFoundError:
        return None


async def test_a_puback_aimed_at_another_tenants_commands_is_a_dead_letter_and_nothing_else(
    rig: Rig, villain: Villain, tenant: str
) -> None:
    rig.add_tenant(tenant)
    rig.add_tenant(villain.tenant)
    account = await rig.account(tenant)
    before = await rig.send(tenant, "payment.record", rig.payment(account, 1))
    await villain.aim(command_subject(tenant, "payment.record"))
    after = await rig.send(tenant, "payment.record", rig.payment(account, 2))

    await _apply_all(rig)

    assert [(await rig.outcome(each)).status for each in (before, after)] == ["applied", "applied"]
    assert len(await rig.payments(tenant)) == 2
    (letter,) = await rig.dead_letters(tenant)
    assert letter.data.startswith(b'{"stream":"BILLING_COMMANDS","seq":') and letter.headers
    assert letter.headers[headers.DLQ_CODE] == Code.MESSAGE_ID_MISSING
    assert await rig.unfinished("payments") == 0


async def test_a_puback_aimed_at_the_replay_stream_is_a_dead_letter(rig: Rig, villain: Villain, tenant: str) -> None:
    rig.add_tenant(tenant)
    await villain.aim(replay_subject("payments", tenant, "payment.record"))
    pull = await rig.connection.jetstream().pull_subscribe_bind(replay_durable("payments"), stream=REPLAY_STREAM)
    await rig.handle("payments", await pull.fetch(1, timeout=WAIT_SECONDS))
    (letter,) = await rig.dead_letters(tenant)
    assert letter.headers and letter.headers[headers.DLQ_CODE] == Code.MESSAGE_ID_MISSING
    assert await rig.rows("SELECT 1 FROM inbox WHERE tenant_id = $1", tenant) == []


async def test_a_puback_aimed_at_a_suspects_marker_neither_frees_nor_condemns_it(
    rig: Rig, villain: Villain, tenant: str
) -> None:
    """The suspect is tried, its neighbour too: a marker that cannot be read used to hold up every suspect of the batch."""
    rig.add_tenant(tenant)
    account = await rig.account(tenant)
    sent = [await rig.send(tenant, "payment.record", rig.payment(account, amount)) for amount in (1, 2)]
    await villain.aim(attempt_subject("payments", COMMANDS_STREAM, sent[0].sequence))
    pulled = await rig.pull("payments", await rig.unfinished("payments"))
    await rig.handle("payments", [again(each, delivered=4) for each in pulled])
    assert [(await rig.outcome(each)).status for each in sent] == ["applied", "applied"]
    marker = await _stored(rig, ATTEMPTS_STREAM, attempt_subject("payments", COMMANDS_STREAM, sent[0].sequence))
    assert marker is not None and b'"deaths":0' in (marker.data or b"")


async def test_a_puback_aimed_at_the_jobs_is_buried(rig: Rig, villain: Villain, tenant: str) -> None:
    await villain.aim(job_subject(tenant, "statements"))
    handled: list[JobWork] = []

    async def handle(work: JobWork) -> None:
        handled.append(work)

    stop = asyncio.Event()
    connection = await nats.connect(rig.server.url("worker"))
    async with AsyncExitStack() as resources:
        resources.push_async_callback(connection.close)
        reporter = await resources.enter_async_context(Reporter.on(connection))
        running = asyncio.create_task(JobRunner(connection, reporter).run([JobQueue("statements", handle)], stop))
        async with asyncio.timeout(WAIT_SECONDS):
            while not (found := await rig.dead_letters(tenant)):  # noqa: ASYNC110  another connection's doing
                await asyncio.sleep(0.02)
        stop.set()
        await running
    assert found[0].headers and found[0].headers[headers.DLQ_CODE] == Code.MESSAGE_ID_MISSING
    assert handled == []
    info = await rig.publisher.jetstream().consumer_info(JOBS_STREAM, "statements")
    assert not info.num_ack_pending


async def test_a_puback_aimed_at_another_tenants_events_does_not_make_its_books_look_broken(
    rig: Rig, villain: Villain, tenant: str
) -> None:
    rig.add_tenant(tenant)
    await rig.account(tenant)
    taken = "DELETE FROM outbox WHERE tenant_id = $1 AND stream = 'events' RETURNING subject, headers, body"
    (row,) = await rig.rows(taken, tenant)
    lines = [line.split(": ", 1) for line in row["headers"].decode().split("\r\n")[1:] if line]
    await rig.publisher.jetstream().publish(row["subject"], row["body"], headers=dict(lines))
    await villain.aim(event_subject(tenant, "payment.recorded"))
    for scan in (False, True):
        assert await check_events(rig.publisher, rig.pool, tenant, scan=scan) == ()


async def test_a_puback_cannot_hide_a_dead_letter_or_break_the_list(rig: Rig, villain: Villain, tenant: str) -> None:
    rig.add_tenant(tenant)
    await rig.send(tenant, "payment.steal", b"{}")
    await _apply_all(rig)
    (letter,) = await letters(rig.publisher, Filter(tenant=tenant))
    await villain.aim(f"{RESOLVED_PREFIX}.{tenant}.{letter.position}")
    await villain.aim(f"{RESOLVED_PREFIX}.{tenant}.none")
    assert await letters(rig.publisher, Filter(tenant=tenant)) == [letter]
    assert await resolution(rig.publisher, letter) is None

    await resolve_letter(rig.publisher, letter, "discarded", reason="a joke", actor="test")
    await villain.aim(f"{RESOLVED_PREFIX}.{tenant}.{letter.position}")
    assert await letters(rig.publisher, Filter(tenant=tenant)) == []
    assert (await resolution(rig.publisher, letter) or {})["resolution"] == "discarded"


async def test_the_server_does_not_obey_a_puback(rig: Rig, villain: Villain) -> None:
    for call in (
        "CONSUMER.DELETE.BILLING_COMMANDS.payments",
        "STREAM.DELETE.BILLING_JOBS",
        "STREAM.PURGE.BILLING_JOBS",
    ):
        await villain.aim(f"$JS.API.{call}")
    await villain.aim("$JS.ACK.BILLING_COMMANDS.payments.1.1.1.1.0")
    assert (await rig.publisher.jetstream().consumer_info(COMMANDS_STREAM, "payments")).name == "payments"
    assert (await rig.publisher.jetstream().stream_info(JOBS_STREAM)).config.name == JOBS_STREAM


async def test_a_query_is_answered_to_an_inbox_only(rig: Rig, villain: Villain, tenant: str) -> None:
    """With the handlers' permissions an answer could become another tenant's dead letter, or mark one as resolved."""
    letter, marker = f"billing.v1.dlq.payments.{tenant}", f"{RESOLVED_PREFIX}.{tenant}.1"
    attempt = attempt_subject("payments", COMMANDS_STREAM, 10**6)
    broker: Any = NatsBroker(rig.server.url("handlers"))
    register(broker, Queries(rig.pool, None, profile))
    await broker.start()
    try:
        connection = await broker.connect()
        await connection.flush()
        subject = query_subject(villain.tenant, "account.list")
        for reply in (letter, marker, attempt, "$JS.API.CONSUMER.MSG.NEXT.BILLING_COMMANDS.payments", "_INBOX.>"):
            await villain.connection.publish(subject, b"{}", reply=reply)
        answer = await villain.connection.request(subject, b"{}", timeout=WAIT_SECONDS)
        assert b'"items":[]' in answer.data
    finally:
        await broker.stop()
    assert [await _stored(rig, DLQ_STREAM, each) for each in (letter, marker)] == [None, None]
    assert await _stored(rig, ATTEMPTS_STREAM, attempt) is None
