"""JetStream by itself, with nats-py as it comes: what fetching, acknowledging and publishing cost where nothing else is done."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

import nats
import uvloop
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from tools.bench.workload import Workload, prefill
from tools.stack import Stack
from tools.stack.mesh import Mesh

_STREAM, _PUBLISHED = "BENCH_RAW", "bench.raw"
_FETCH = 500
_WINDOW = 1_000
_BODY = b"x" * 300


class Raw(NamedTuple):
    """Messages per second: fetched 500 at a time and acknowledged one by one; published asynchronously, 1,000 unconfirmed."""

    fetch_per_second: float
    publish_per_second: float


def measure(stack: Stack, work: Workload) -> Raw:
    """On a NATS server of its own, with the mesh's streams and `sync_interval: always`."""
    with Mesh.isolated(stack, roles=()) as mesh:
        return _in_loop(_measure(mesh, work))


def _in_loop(measuring: Coroutine[Any, Any, Raw]) -> Raw:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measuring)


async def _measure(mesh: Mesh, work: Workload) -> Raw:
    nc = await nats.connect(mesh.nats_url("admin"))
    try:
        await prefill(nc, work, lambda _done: None)
        return Raw(await _fetched(nc, work.payments), await _published(nc, work.payments))
    finally:
        await nc.close()


async def _fetched(nc: Client, messages: int) -> float:
    config = ConsumerConfig(durable_name="bench-raw", max_ack_pending=20_000)
    subscription = await nc.jetstream().pull_subscribe(
        "billing.v1.cmd.*.payment.*", durable="bench-raw", stream="BILLING_COMMANDS", config=config
    )
    fetched, started = 0, time.perf_counter()
    while fetched < messages:
        try:
            batch = await subscription.fetch(min(_FETCH, messages - fetched), timeout=5)
        except NatsTimeoutError:
            break
        for message in batch:
            await message.ack()
        fetched += len(batch)
    await nc.flush()
    return fetched / (time.perf_counter() - started)


async def _published(nc: Client, messages: int) -> float:
    jetstream = nc.jetstream(publish_async_max_pending=_WINDOW)
    await jetstream.add_stream(StreamConfig(name=_STREAM, subjects=[_PUBLISHED], storage=StorageType.FILE))
    started = time.perf_counter()
    acks = [await jetstream.publish_async(_PUBLISHED, _BODY) for _ in range(messages)]
    async with asyncio.timeout(120):
        await asyncio.gather(*acks)
    return messages / (time.perf_counter() - started)
