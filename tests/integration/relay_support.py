"""Outbox rows and the stream they should end in, for the relay's tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
from nats.aio.client import Client
from prometheus_client import REGISTRY

from adapters.nats.connection import connect
from domain.outbox import shard_of
from handlers.relay import run_relay
from schemas.wire_headers import encode_headers
from tests.fixtures.servers import Database
from tools.stack import NatsServer

_INSERT = """
INSERT INTO outbox (tenant_id, shard, stream, subject, headers, body, recorded_at)
SELECT $1, $2, $3, $4, block, body, now() FROM unnest($5::bytea[], $6::bytea[]) WITH ORDINALITY AS t(block, body, n)
ORDER BY n
"""


async def commit(
    connection: "asyncpg.Connection[asyncpg.Record]",
    tenant: str,
    bodies: Sequence[bytes],
    *,
    stream: str = "events",
    ids: Sequence[str] | None = None,
) -> list[str]:
    """Outbox rows of one tenant in one transaction; their message ids."""
    message_ids = list(ids or (str(uuid4()) for _ in bodies))
    prefix = "billing.v1.evt" if stream == "events" else "audit.v1.billing"
    blocks = [encode_headers({"Nats-Msg-Id": each, "ce-id": each}) for each in message_ids]
    subject = f"{prefix}.{tenant}.payment.recorded"
    await connection.execute(_INSERT, tenant, shard_of(tenant), stream, subject, blocks, list(bodies))
    return message_ids


async def unsent(connection: "asyncpg.Connection[asyncpg.Record]", tenant: str) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM outbox WHERE tenant_id = $1", tenant))


async def until(condition: Callable[[], Coroutine[Any, Any, bool]], seconds: float = 20) -> None:
    """Wait for a state of a server that announces nothing."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  neither server announces it
            await asyncio.sleep(0.01)


async def stored(nc: Client, tenant: str, stream: str = "BILLING_EVENTS") -> list[tuple[str, bytes]]:
    """(message id, body) of all the tenant's messages, in stream order."""
    prefix = "billing.v1.evt" if stream == "BILLING_EVENTS" else "audit.v1.billing"
    subject = f"{prefix}.{tenant}.>"
    jetstream = nc.jetstream()
    count = sum(((await jetstream.stream_info(stream, subjects_filter=subject)).state.subjects or {}).values())
    if not count:
        return []
    subscription = await jetstream.subscribe(subject, stream=stream, ordered_consumer=True)
    messages = [await subscription.next_msg(timeout=5) for _ in range(count)]
    await subscription.unsubscribe()
    return [((message.headers or {})["Nats-Msg-Id"], message.data) for message in messages]


@asynccontextmanager
async def relaying(database: Database, server: NatsServer, **options: Any) -> AsyncIterator[None]:
    """A relay in this process; stopped in the ordinary way at the end."""
    connection = await connect(server.url("worker"), name="test-relay")
    stop = asyncio.Event()
    task = asyncio.create_task(
        run_relay(dsn=database.dsn("billing_relay"), nats_connection=connection, stop=stop, **options)
    )
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task
        await connection.close()


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def published(stream: str, mode: str) -> float:
    return sample("billing_outbox_published_total", stream=stream, mode=mode)
