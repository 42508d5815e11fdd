"""Publishing pre-encoded rows: atomic batches and singles, against the real server; pins nats-py."""

from collections.abc import AsyncIterator
from importlib.metadata import version
from uuid import uuid4

import pytest
from nats import errors
from nats.aio.client import Client

from adapters.nats.batch_publish import MAX_BATCH_MESSAGES, Publisher, PublishError, Row
from adapters.nats.connection import connect
from schemas.wire_headers import encode_headers
from tools.stack import NatsServer

STREAM = "BILLING_EVENTS"


def test_nats_py_is_the_one_raw_write_was_written_against() -> None:
    """It uses `_send_command`, `_flush_pending`, `_flush_queue` and `Msg._ackd`; read them again before changing this."""
    assert version("nats-py") == "2.16.0"


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await connect(nats_server.url("admin"), name="test")
    yield client
    await client.close()


@pytest.fixture
async def publisher(nats_server: NatsServer) -> AsyncIterator[Publisher]:
    """With the worker's permissions."""
    client = await connect(nats_server.url("worker"), name="test-worker")
    async with Publisher(client) as publisher:
        yield publisher
    await client.close()


def rows(count: int, tenant: str, *, ids: list[str] | None = None) -> list[Row]:
    message_ids = ids or [str(uuid4()) for _ in range(count)]
    return [
        Row(
            f"billing.v1.evt.{tenant}.payment.recorded",
            encode_headers({"Nats-Msg-Id": each, "ce-n": str(n)}),
            b"%d" % n,
        )
        for n, each in enumerate(message_ids)
    ]


async def stored(nc: Client, tenant: str) -> list[tuple[str, bytes]]:
    """(message id, body) of the tenant's events in stream order."""
    jetstream = nc.jetstream()
    subject = f"billing.v1.evt.{tenant}.>"
    count = sum(((await jetstream.stream_info(STREAM, subjects_filter=subject)).state.subjects or {}).values())
    if not count:
        return []
    subscription = await jetstream.subscribe(subject, stream=STREAM, ordered_consumer=True)
    messages = [await subscription.next_msg(timeout=5) for _ in range(count)]
    await subscription.unsubscribe()
    return [((message.headers or {})["Nats-Msg-Id"], message.data) for message in messages]


@pytest.mark.parametrize("count", [1, 2, 20, MAX_BATCH_MESSAGES])
async def test_a_batch_is_stored_whole_and_in_order(nc: Client, publisher: Publisher, tenant: str, count: int) -> None:
    await publisher.publish_batch(rows(count, tenant))
    assert [body for _, body in await stored(nc, tenant)] == [b"%d" % n for n in range(count)]


async def test_headers_arrive_as_they_were_encoded(nc: Client, publisher: Publisher, tenant: str) -> None:
    block = encode_headers({"Nats-Msg-Id": str(uuid4()), "ce-subject": "نرخ ‌نامه", "traceparent": "00-ab-cd-01"})
    subscription = await nc.subscribe(f"billing.v1.evt.{tenant}.>")
    await nc.flush()
    await publisher.publish(Row(f"billing.v1.evt.{tenant}.a.b", block, b"{}"))
    message = await subscription.next_msg(timeout=5)
    assert message.headers is not None
    assert message.headers["ce-subject"] == "نرخ ‌نامه"
    assert message.headers["traceparent"] == "00-ab-cd-01"


async def test_a_single_says_whether_it_is_a_duplicate(publisher: Publisher, tenant: str) -> None:
    row = rows(1, tenant)[0]
    first = await publisher.publish(row)
    again = await publisher.publish(row)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.sequence == first.sequence


async def test_a_duplicate_refuses_the_whole_batch(nc: Client, publisher: Publisher, tenant: str) -> None:
    batch = rows(30, tenant)
    await publisher.publish(batch[17])
    with pytest.raises(PublishError) as refused:
        await publisher.publish_batch(batch)
    assert (refused.value.error_code, refused.value.transient) == (10201, False)
    assert len(await stored(nc, tenant)) == 1


async def test_a_duplicate_inside_the_batch_refuses_it(nc: Client, publisher: Publisher, tenant: str) -> None:
    same = str(uuid4())
    with pytest.raises(PublishError):
        await publisher.publish_batch(rows(3, tenant, ids=[same, str(uuid4()), same]))
    assert await stored(nc, tenant) == []


async def test_no_stream_is_transient(publisher: Publisher) -> None:
    row = Row("billing.v1.dlq.x", encode_headers({}), b"")
    with pytest.raises(PublishError) as refused:
        await publisher.publish(row._replace(subject="_INBOX.nobody"))
    assert refused.value.transient


async def test_what_would_make_the_server_close_the_connection_is_refused_before(
    publisher: Publisher, tenant: str
) -> None:
    good, headers = rows(1, tenant)[0], encode_headers({})
    for bad in (good._replace(body=b"x" * 1_048_577), good._replace(subject="a b"), Row("a\r\nPUB b 0", headers, b"")):
        with pytest.raises(PublishError) as refused:
            await publisher.publish_batch([good, bad])
        assert not refused.value.transient
    assert not (await publisher.publish(good)).duplicate, "nothing of the refused batches was stored"


@pytest.mark.parametrize("count", [0, MAX_BATCH_MESSAGES + 1])
async def test_the_size_of_a_batch_is_bounded(publisher: Publisher, tenant: str, count: int) -> None:
    with pytest.raises(ValueError, match="messages"):
        await publisher.publish_batch(rows(count, tenant))


async def test_a_closed_connection_is_an_error_at_once(nats_server: NatsServer, tenant: str) -> None:
    client = await connect(nats_server.url("worker"), name="test-closing")
    async with Publisher(client) as publisher:
        await client.close()
        with pytest.raises(errors.ConnectionClosedError):
            await publisher.publish(rows(1, tenant)[0])


@pytest.mark.parametrize(
    "headers", [{"A": "b\r\nNats-Msg-Id: x"}, {"A": "b\n"}, {"A\r\nB": "c"}, {"A": "\x00"}, {"": "x"}]
)
def test_header_forgery_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        encode_headers(headers)
