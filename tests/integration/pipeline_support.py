"""Pipelines in this process, fed with messages pulled from the real durables, over real servers.

What the `handlers` role wires together, without FastStream in between: a test says which messages make up a batch.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import nats
import orjson
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from adapters.nats import tolerant
from adapters.nats.batch_publish import Publisher
from adapters.nats.connection import connect
from adapters.nats.topology import COMMANDS_STREAM, DLQ_STREAM, durable
from adapters.neighbours.static import StaticNeighbours
from adapters.postgres.database import Database as Pool
from handlers.answers import Answers
from handlers.audit import AuditTrail
from handlers.pipeline import Pipeline
from handlers.prepare import Preparation
from handlers.suspects import Quarantine, Suspects
from handlers.turns import Turns
from schemas import headers
from schemas.outcome import Outcome
from schemas.registry import GROUPS
from schemas.subjects import command_subject
from schemas.tenant import TenantProfile
from tests.fixtures.servers import Database
from tools.stack import NatsServer
from tools.stack.tenant_file import TenantFile

REGION = "local-1"
WAIT_SECONDS = 15.0


class Sent(NamedTuple):
    """A command the stream has stored."""

    tenant: str
    name: str
    command_id: UUID
    sequence: int
    reply_to: str
    body: bytes


class Rig:
    """One process's pipelines and a publisher. `outcomes` has every reply by reply subject, in order of arrival."""

    def __init__(self, server: NatsServer, database: Database, directory: Path) -> None:
        self.server, self.database = server, database
        self.tenants = TenantFile(directory / "tenants.json")
        self.tenants.add()
        self.neighbours = StaticNeighbours(self.tenants.path)
        self.preparation = Preparation(self.neighbours, self.neighbours, REGION)
        self.publisher: Client
        self.connection: Client
        self.pool: Pool
        self.trail: AuditTrail
        self.pipelines: dict[str, Pipeline] = {}
        self.outcomes: dict[str, list[Outcome]] = {}
        self._arrived = asyncio.Condition()
        self._inbox = f"_INBOX.{uuid4().hex}"
        self._pulls: dict[str, Any] = {}

    # --- publishing ---------------------------------------------------------------------------------------------------

    def add_tenant(self, tenant: str, **profile: Any) -> None:
        given = {"name": tenant, "region": REGION, "country_profile": "ARE"} | profile
        self.tenants.add(TenantProfile(tenant_id=tenant, **given))

    async def send(
        self,
        tenant: str,
        name: str,
        body: Mapping[str, Any] | bytes,
        *,
        command_id: UUID | None = None,
        message_id: str | None = None,
        subject: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Sent:
        """Publishes a command and waits for its PubAck. `more` overrides headers; "" leaves one out."""
        command_id = command_id or uuid4()
        reply_to = f"{self._inbox}.{uuid4().hex}"
        given = {headers.MESSAGE_ID: message_id or str(command_id), headers.REPLY_TO: reply_to} | dict(more or {})
        data = body if isinstance(body, bytes) else orjson.dumps(body, default=str)
        ack = await self.publisher.jetstream().publish(
            subject or command_subject(tenant, name),
            data,
            headers={key: value for key, value in given.items() if value},
        )
        assert not ack.duplicate, "the stream dropped it: use another message id"
        return Sent(tenant, name, command_id, ack.seq, reply_to, data)

    async def account(self, tenant: str, account_id: UUID | None = None) -> UUID:
        """An open account in AED with one payer."""
        account_id = account_id or uuid4()
        body = {"account_id": account_id, "patient": "Patient/1", "currency": "AED"}
        sent = await self.send(tenant, "account.open", body)
        await self.apply("accounts", 1)
        assert (await self.outcome(sent)).status == "applied"
        return account_id

    def payment(self, account_id: UUID, amount_minor: int = 100, **more: Any) -> dict[str, Any]:
        amount = {"amount_minor": amount_minor, "currency": "AED"}
        return {"account_id": account_id, "amount": amount, "method": "bank", **more}

    # --- handling -----------------------------------------------------------------------------------------------------

    async def pull(self, group: str, count: int) -> list[Msg]:
        """Exactly `count` messages of the group's durable, redelivered ones included."""
        if group not in self._pulls:
            self._pulls[group] = await self.connection.jetstream().pull_subscribe_bind(
                durable(group), stream=COMMANDS_STREAM
            )
        messages: list[Msg] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while len(messages) < count:
                messages += await self._pulls[group].fetch(count - len(messages), timeout=WAIT_SECONDS)
        return messages

    async def apply(self, group: str, count: int) -> list[Msg]:
        """Pulls a batch of `count` and handles it."""
        messages = await self.pull(group, count)
        await self.handle(group, messages)
        return messages

    async def handle(self, group: str, messages: Sequence[Msg]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await self.pipelines[group].handle(messages)

    async def unfinished(self, group: str) -> int:
        """Messages of the group's durable that are not acknowledged, the undelivered ones included."""
        await self.connection.flush()
        info = await self.publisher.jetstream().consumer_info(COMMANDS_STREAM, durable(group))
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def outcome(self, sent: Sent, number: int = 1) -> Outcome:
        """The `number`th outcome that came to the command's reply inbox."""
        found = self.outcomes.setdefault(sent.reply_to, [])
        async with asyncio.timeout(WAIT_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: len(found) >= number)
        return found[number - 1]

    async def silent(self, sent: Sent) -> bool:
        """Whether no outcome has come so far, once what the pipeline has written is here."""
        await self.connection.flush()
        await self.publisher.flush()
        return not self.outcomes.get(sent.reply_to)

    # --- looking at it ------------------------------------------------------------------------------------------------

    async def dead_letters(self, tenant: str) -> list[Msg]:
        """The tenant's dead letters of every group, oldest first."""
        return await stream_messages(self.publisher, DLQ_STREAM, f"billing.v1.dlq.*.{tenant}")

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        """A query as the superuser, whom row-level security does not concern."""
        connection = await asyncpg.connect(self.database.dsn("postgres"))
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def payments(self, tenant: str) -> list[str]:
        """The ids of the tenant's payments."""
        return [str(row["id"]) for row in await self.rows("SELECT id FROM payment WHERE tenant_id = $1", tenant)]

    async def start(self, resources: AsyncExitStack, **pool: Any) -> None:
        self.publisher = await nats.connect(self.server.url("admin"))
        resources.push_async_callback(self.publisher.close)
        self.connection = await connect(self.server.url("handlers"), name="test-handlers")
        tolerant.install(self.connection)
        resources.push_async_callback(self.connection.close)
        self.pool = Pool(self.database.dsn(), application_name="test-handlers", **pool)
        resources.push_async_callback(self.pool.close)
        self.trail = AuditTrail(self.pool, await resources.enter_async_context(Publisher(self.connection)))
        turns, quarantine = Turns(pool.get("pool_size", 20)), Quarantine()
        for group in GROUPS:
            self.pipelines[group] = Pipeline(
                group,
                database=self.pool,
                preparation=self.preparation,
                answers=Answers(self.connection, self.connection.jetstream(), group, self.trail),
                turns=turns,
                suspects=Suspects(self.connection, self.connection.jetstream(), group, quarantine),
            )
        await self.publisher.subscribe(f"{self._inbox}.*", cb=self._replied)
        await self.publisher.flush()

    async def _replied(self, message: Msg) -> None:
        async with self._arrived:
            self.outcomes.setdefault(message.subject, []).append(Outcome.model_validate_json(message.data))
            self._arrived.notify_all()


@asynccontextmanager
async def rigged(server: NatsServer, database: Database, directory: Path, **pool: Any) -> AsyncIterator[Rig]:
    """A rig, started; `pool` are options of adapters.postgres.database.Database."""
    # structlog's default renders the locals of every frame of an exception, for a second or two.
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
    async with AsyncExitStack() as resources:
        rig = Rig(server, database, directory)
        await rig.start(resources, **pool)
        yield rig


def again(message: Msg, delivered: int = 2) -> Msg:
    """The message as the server would deliver it once more."""
    tokens = message.reply.split(".")
    tokens[-5] = str(delivered)
    return Msg(
        _client=message._client,
        subject=message.subject,
        reply=".".join(tokens),
        data=message.data,
        headers=dict(message.headers) if message.headers else None,
    )


async def stream_messages(client: Client, stream: str, subject: str) -> list[Msg]:
    """Every message of a stream under a subject, in stream order; read through a consumer that acknowledges nothing."""
    jetstream = client.jetstream()
    config = ConsumerConfig(
        filter_subject=subject,
        mem_storage=True,
        num_replicas=1,
        inactive_threshold=60.0,
        max_ack_pending=-1,  # by default the server stops at 1,000 that nobody acknowledged
    )
    consumer = await jetstream.pull_subscribe(subject, stream=stream, config=config)
    try:
        waiting = (await consumer.consumer_info()).num_pending or 0
        messages: list[Msg] = []
        while len(messages) < waiting:
            messages += await consumer.fetch(min(1000, waiting - len(messages)), timeout=WAIT_SECONDS)
        return messages
    finally:
        await consumer.unsubscribe()


async def publish_raw(
    server: NatsServer, user: str, subject: bytes, header_block: bytes, body: bytes
) -> dict[str, Any]:
    """Publishes bytes that no client library would send; the PubAck, or {"status": the header line} without a stream."""
    credentials, _ = server.url(user).removeprefix("nats://").split("@")
    name, password = credentials.split(":")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    hello = {"verbose": False, "pedantic": False, "user": name, "pass": password, "lang": "test", "version": "1"}
    hello |= {"headers": True, "no_responders": True}
    writer.write(b"CONNECT " + json.dumps(hello).encode() + b"\r\nSUB _INBOX.raw 1\r\n")
    if header_block:
        sizes = b"%d %d" % (len(header_block), len(header_block) + len(body))
        writer.write(b"HPUB " + subject + b" _INBOX.raw " + sizes + b"\r\n" + header_block + body + b"\r\n")
    else:
        writer.write(b"PUB " + subject + b" _INBOX.raw %d\r\n" % len(body) + body + b"\r\n")
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                line = (await reader.readline()).decode(errors="replace")
                if line.startswith("MSG "):
                    answer: dict[str, Any] = json.loads(await reader.readexactly(int(line.split()[-1])))
                    return answer
                if line.startswith("HMSG "):
                    return {"status": (await reader.readexactly(int(line.split()[-1]))).decode().splitlines()[0]}
                if line.startswith("-ERR") or not line:
                    return {"error": line.strip()}
    finally:
        writer.close()
