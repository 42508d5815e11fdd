"""A FastStream batch subscriber with AdaptiveFetch: full batches under load, no waiting when idle, no spinning."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import pytest
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.annotations import NatsMessage
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy

from adapters.nats import acks, fetch
from adapters.nats.connection import broker_options, connect
from tools.stack import NatsServer

STREAM = "BILLING_COMMANDS"
BATCH_SIZE = 500
# The subscriber's own window: long, so that a test that waits for it cannot pass by chance.
WINDOW_SECONDS = 5.0


def test_versions_are_the_ones_this_was_written_against() -> None:
    """`install` replaces an attribute of FastStream's subscriber; on another version, read its pull loop again."""
    assert version("faststream") == "0.7.8"
    assert version("nats-py") == "2.16.0"  # `_take_over` empties its subscription's queue


@pytest.fixture
async def admin(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await connect(nats_server.url("admin"), name="test-admin")
    yield client
    await client.close()


@dataclass
class Consumer:
    """A running subscriber and the batches its handler got."""

    fetch: fetch.AdaptiveFetch
    connection: Client
    batches: "asyncio.Queue[tuple[float, list[Msg]]]" = field(default_factory=asyncio.Queue)
    hold: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
async def durable(admin: Client) -> AsyncIterator[str]:
    """A durable of the test's own, on `billing.v1.cmd.*.payment.*`, from now on."""
    name = f"test-{uuid4().hex[:8]}"
    config = ConsumerConfig(
        durable_name=name,
        ack_wait=30,
        max_ack_pending=20_000,
        deliver_policy=DeliverPolicy.NEW,
        filter_subject=f"billing.v1.cmd.{name}.payment.*",
    )
    await admin.jetstream().add_consumer(STREAM, config)
    yield name


@asynccontextmanager
async def running(server: NatsServer, durable: str) -> AsyncIterator[Consumer]:
    broker: Any = NatsBroker(server.url("admin"), **broker_options(name="test-handlers"), logger=None)
    holder: list[Consumer] = []

    async def undecoded(message: Any) -> None:
        return None

    subscriber = broker.subscriber(
        f"billing.v1.cmd.{durable}.payment.*",
        stream=JStream(STREAM, declare=False),
        durable=durable,
        pull_sub=PullSub(batch_size=BATCH_SIZE, batch=True, timeout=WINDOW_SECONDS),
        ack_policy=AckPolicy.MANUAL,
        decoder=undecoded,
    )

    @subscriber  # type: ignore[untyped-decorator]
    async def consume(message: NatsMessage) -> None:
        messages: Any = message.raw_message
        consumer = holder[0]
        consumer.batches.put_nowait((time.perf_counter(), messages))
        await consumer.hold.wait()
        await acks.ack_all(consumer.connection, messages)

    connection = await broker.connect()
    holder.append(Consumer(None, connection))  # type: ignore[arg-type]
    holder[0].hold.set()
    await broker.start()
    holder[0].fetch = fetch.install(
        subscriber,
        connection,
        durable=durable,
        batch_size=BATCH_SIZE,
        lane=lambda message: message.subject.split(".")[3],
    )
    try:
        yield holder[0]
    finally:
        holder[0].hold.set()
        await broker.stop()


async def publish(admin: Client, durable: str, count: int) -> None:
    jetstream = admin.jetstream()
    acks = [
        await jetstream.publish_async(
            f"billing.v1.cmd.{durable}.payment.record", b"x" * 300, headers={"Nats-Msg-Id": str(uuid4())}
        )
        for _ in range(count)
    ]
    await asyncio.gather(*acks)


async def settled(admin: Client, durable: str, condition: Callable[[Any], bool], seconds: float = 10) -> Any:
    """The durable's info once `condition` holds of it."""
    async with asyncio.timeout(seconds):
        while True:
            info = await admin.jetstream().consumer_info(STREAM, durable)
            if condition(info):
                return info


async def test_a_backlog_comes_in_full_batches(nats_server: NatsServer, admin: Client, durable: str) -> None:
    await publish(admin, durable, 10 * BATCH_SIZE)
    async with running(nats_server, durable) as consumer:
        async with asyncio.timeout(20):
            sizes = [len((await consumer.batches.get())[1]) for _ in range(10)]
        assert sizes == [BATCH_SIZE] * 10
        info = await settled(admin, durable, lambda info: info.num_ack_pending == 0)
        assert info.num_pending == 0


async def test_behind_a_full_batch_the_next_is_asked_for_while_the_first_is_handled(
    nats_server: NatsServer, admin: Client, durable: str
) -> None:
    await publish(admin, durable, 4 * BATCH_SIZE)
    async with running(nats_server, durable) as consumer:
        consumer.hold.clear()
        async with asyncio.timeout(10):
            _, handed = await consumer.batches.get()
        info = await settled(admin, durable, lambda info: info.num_ack_pending > BATCH_SIZE)
        assert (len(handed), info.num_ack_pending) == (BATCH_SIZE, 2 * BATCH_SIZE)
        consumer.hold.set()
        await settled(admin, durable, lambda info: not info.num_pending and not info.num_ack_pending)


async def test_a_batch_of_many_lanes_is_followed_by_a_larger_one(
    nats_server: NatsServer, admin: Client, durable: str
) -> None:
    await publish(admin, durable, 300)
    inner = await admin.jetstream().pull_subscribe_bind(durable=durable, stream=STREAM)
    lanes = iter(range(10_000))
    adaptive = fetch.AdaptiveFetch(
        inner,
        admin,
        stream=STREAM,
        durable=durable,
        batch_size=5,
        largest_batch_size=150,
        lane=lambda _: str(next(lanes)),
    )
    # Five messages of five lanes ask for a hundred; those, of a hundred lanes, for as many as there may be.
    sizes = [len(await adaptive.fetch(150)) for _ in range(4)]
    assert sizes == [5, 5 * fetch.MESSAGES_PER_LANE, 150, 45]
    with pytest.raises(errors.TimeoutError):
        await adaptive.fetch(149)  # FastStream, filling its batch up
    await adaptive.unsubscribe()


async def test_a_lone_message_does_not_wait_for_company(nats_server: NatsServer, admin: Client, durable: str) -> None:
    async with running(nats_server, durable) as consumer:
        latencies = []
        for _ in range(30):
            began = time.perf_counter()
            await publish(admin, durable, 1)
            async with asyncio.timeout(WINDOW_SECONDS):
                handed_over, messages = await consumer.batches.get()
            assert len(messages) == 1
            latencies.append(handed_over - began)
        # Publish, fsync and delivery; 2 ms on an idle machine. The window it must not wait for is 5 s.
        assert sorted(latencies)[15] < 0.1
        assert max(latencies) < 1


async def test_what_arrives_during_a_batch_is_the_next_batch(
    nats_server: NatsServer, admin: Client, durable: str
) -> None:
    async with running(nats_server, durable) as consumer:
        consumer.hold.clear()
        await publish(admin, durable, 1)
        async with asyncio.timeout(5):
            assert len((await consumer.batches.get())[1]) == 1
            await publish(admin, durable, 300)
            consumer.hold.set()
            assert len((await consumer.batches.get())[1]) == 300


async def test_an_idle_subscriber_asks_about_once_per_poll(
    nats_server: NatsServer, admin: Client, durable: str
) -> None:
    async with running(nats_server, durable) as consumer:
        before = consumer.connection.stats["out_msgs"]
        await asyncio.sleep(2 * fetch.LONG_POLL_SECONDS)  # nothing happens: that is what is measured
        assert 1 <= consumer.connection.stats["out_msgs"] - before <= 5
        assert consumer.fetch.failing_since is None


async def test_a_deleted_durable_backs_off_says_so_and_recovers(
    nats_server: NatsServer, admin: Client, durable: str
) -> None:
    async with running(nats_server, durable) as consumer:
        config = (await admin.jetstream().consumer_info(STREAM, durable)).config
        await admin.jetstream().delete_consumer(STREAM, durable)
        async with asyncio.timeout(5):
            while (failing_since := consumer.fetch.failing_since) is None:
                await consumer.connection.flush()
        before = consumer.connection.stats["out_msgs"]
        await asyncio.sleep(1)  # what is measured is how often it asks meanwhile
        assert consumer.connection.stats["out_msgs"] - before <= 10
        assert consumer.fetch.failing_since == failing_since
        await admin.jetstream().add_consumer(STREAM, config)
        await publish(admin, durable, 1)
        async with asyncio.timeout(10):
            await consumer.batches.get()
        assert consumer.fetch.failure is None


async def test_a_closed_connection_does_not_spin(nats_server: NatsServer, durable: str) -> None:
    client = await connect(nats_server.url("admin"), name="test-closing")
    inner = await client.jetstream().pull_subscribe_bind(durable=durable, stream=STREAM)
    adaptive = fetch.AdaptiveFetch(inner, client, stream=STREAM, durable=durable, batch_size=BATCH_SIZE)
    await client.close()
    began, asked = time.monotonic(), 0
    while time.monotonic() - began < 1:
        with pytest.raises(errors.TimeoutError):
            await adaptive.fetch(BATCH_SIZE)
        asked += 1
    assert asked <= 8
    assert adaptive.failure == "disconnected"


async def test_a_continuation_is_answered_at_once(nats_server: NatsServer, admin: Client, durable: str) -> None:
    inner = await admin.jetstream().pull_subscribe_bind(durable=durable, stream=STREAM)
    adaptive = fetch.AdaptiveFetch(inner, admin, stream=STREAM, durable=durable, batch_size=BATCH_SIZE)
    await publish(admin, durable, 3)
    assert len(await adaptive.fetch(BATCH_SIZE, timeout=WINDOW_SECONDS)) == 3
    began = time.perf_counter()
    with pytest.raises(errors.TimeoutError):
        await adaptive.fetch(BATCH_SIZE - 3, timeout=WINDOW_SECONDS)
    assert time.perf_counter() - began < 0.1


async def test_drain_gives_back_what_was_not_handed_over(nats_server: NatsServer, admin: Client, durable: str) -> None:
    inner = await admin.jetstream().pull_subscribe_bind(durable=durable, stream=STREAM)
    adaptive = fetch.AdaptiveFetch(inner, admin, stream=STREAM, durable=durable, batch_size=BATCH_SIZE)
    # Cancelled while asking, as a shutdown does: the request lives on at the server, and its answer arrives.
    asking = asyncio.create_task(adaptive.fetch(BATCH_SIZE))
    await settled(admin, durable, lambda info: info.num_waiting == 1)
    asking.cancel()
    await publish(admin, durable, 2)
    await settled(admin, durable, lambda info: info.num_ack_pending == 2)
    await adaptive.drain()
    with pytest.raises(errors.TimeoutError):
        await adaptive.fetch(BATCH_SIZE)
    successor = fetch.AdaptiveFetch(inner, admin, stream=STREAM, durable=durable, batch_size=BATCH_SIZE)
    async with asyncio.timeout(5):  # well before ack_wait, 30 s: only a nak brings them back this soon
        again = await successor.fetch(BATCH_SIZE)
    assert [message.metadata.num_delivered for message in again] == [2, 2]


async def test_ack_all_acknowledges_all(admin: Client, durable: str) -> None:
    inner = await admin.jetstream().pull_subscribe_bind(durable=durable, stream=STREAM)
    await publish(admin, durable, 50)
    messages = await inner.fetch(50, timeout=5)
    await messages[0].ack()
    await acks.ack_all(admin, messages)
    assert all(message.is_acked for message in messages)
    info = await settled(admin, durable, lambda info: info.num_ack_pending == 0)
    assert info.delivered.consumer_seq == 50


async def test_publish_many_keeps_order_and_refuses_one_by_one(admin: Client) -> None:
    inbox = admin.new_inbox()
    subscription = await admin.subscribe(inbox)
    refused = await acks.publish_many(
        admin,
        [
            (inbox, b"1", None),
            ("not a subject\r\nPUB x 0", b"", None),
            (inbox, b"2", {"A": "b"}),
            (inbox, b"x" * (admin.max_payload + 1), None),
            (inbox, b"", None),
        ],
    )
    assert refused == [1, 3]
    received = [await subscription.next_msg(timeout=5) for _ in range(3)]
    assert [(message.data, message.headers) for message in received] == [(b"1", None), (b"2", {"A": "b"}), (b"", None)]


async def test_what_comes_to_the_first_fetch_too_late_is_not_left_for_ack_wait(
    nats_server: NatsServer, admin: Client, durable: str
) -> None:
    """FastStream's own first fetch gives up just before the server answers it: 30 s of silence for whoever waits."""
    async with running(nats_server, durable) as consumer:
        await publish(admin, durable, 1)
        handled = len((await consumer.batches.get())[1])  # FastStream's own fetch is over
        deliver = consumer.fetch._inner._deliver
        request = b'{"batch":20,"expires":1000000000}'
        await consumer.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{durable}", request, reply=deliver)
        await consumer.connection.flush()
        await publish(admin, durable, 40)
        async with asyncio.timeout(5):
            while handled < 41:
                handled += len((await consumer.batches.get())[1])
