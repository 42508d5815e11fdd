"""Whether a tenant's events reached their stream: the half of a verification that PostgreSQL cannot show.

Of the events given out (`tenant_book.event_sequence`), those that do not wait in the outbox must be in the stream. The relay goes
on while this looks, so the stream is read after the outbox: what has left the outbox by then was acknowledged before.

A message without `ce-id` is no event and is passed over: a tenant can aim the PubAck of one of its commands at another's event
subject (docs/decisions/0002), and must not be able to make that tenant's books look broken.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import orjson
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from sqlalchemy import and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.nats.topology import EVENTS_STREAM
from adapters.postgres.tables import inbox, outbox, tenant_book
from handlers.read_source import ReadDatabase
from schemas.headers import CE_ID, CE_SEQUENCE
from schemas.ledger import Mismatch
from schemas.subjects import EVENT_PREFIX

SCAN_FETCH = 500  # headers only, ~700 bytes each
SCAN_TIMEOUT_SECONDS = 10.0  # of one fetch
SCAN_CONSUMER_SECONDS = 60.0  # after which the server forgets a scan's consumer by itself
MAX_MISMATCHES = 50

_WAITING = (
    select(func.count())
    .select_from(outbox)
    .where(outbox.c.tenant_id == bindparam("tenant"), outbox.c.stream == "events")
    .scalar_subquery()
)
_BOOK = select(tenant_book.c.event_sequence, _WAITING.label("waiting")).where(
    tenant_book.c.tenant_id == bindparam("tenant")
)
_LAST_COMMAND = (
    select(inbox.c.recorded_at)
    .join(
        tenant_book,
        and_(tenant_book.c.tenant_id == inbox.c.tenant_id, tenant_book.c.command_sequence == inbox.c.sequence),
    )
    .where(inbox.c.tenant_id == bindparam("tenant"))
)


class ScanInterrupted(Exception):
    """Messages of a scan were lost on their way (a reconnect): its result would mean nothing. Scan again."""


class _Given(NamedTuple):
    """Events given out, and how many of them wait in the outbox."""

    sequence: int
    waiting: int


class _Scanned(NamedTuple):
    """The sequence of the last event in the stream, and where the sequences before it have gaps or repeat."""

    last: int | None
    mismatches: tuple[Mismatch, ...]


async def check_events(
    nats: Client, primary: ReadDatabase, tenant_id: str, *, scan: bool = False
) -> tuple[Mismatch, ...]:
    """What is wrong with the tenant's events; nothing while the stream holds what was relayed.

    `scan` also reads every event of the tenant that the stream still has: gapless, in order, none twice. `primary` because a
    replica's outbox is older than the stream. Raises nats errors, TimeoutError included, and ScanInterrupted.
    """
    jetstream = nats.jetstream()
    async with primary.reading(tenant_id) as connection:
        given = await _given(connection, tenant_id)
        last_command = await connection.scalar(_LAST_COMMAND, {"tenant": tenant_id})
    relayed, most = given.sequence - given.waiting, given.sequence
    last = await _last_event(jetstream, tenant_id)
    if last is not None and last > most:
        # Events committed meanwhile may have been relayed meanwhile.
        async with primary.reading(tenant_id) as connection:
            most = (await _given(connection, tenant_id)).sequence
    mismatches: list[Mismatch] = []
    if last is None and relayed > 0 and not await _expired(jetstream, last_command):
        mismatches.append(_mismatch("event_stream", f"event {relayed} or later", "none"))
    if last is not None and not relayed <= last <= most:
        mismatches.append(_mismatch("event_stream", f"event {relayed} to {most}", f"event {last}"))
    if scan:
        mismatches.extend((await _scan(jetstream, tenant_id)).mismatches)
    return tuple(mismatches)


async def tenants(nats: Client) -> list[str]:
    """The tenants that the event stream knows, sorted: everyone who changed something in its `max_age` (30 days).

    No database role may list them: row-level security binds the tables' owner too, and only the outbox has a policy across
    tenants. A tenant that has been idle for longer is verified by name.
    """
    found: set[str] = set()
    offset = 0
    while True:
        request = orjson.dumps({"subjects_filter": f"{EVENT_PREFIX}.>", "offset": offset})
        answer = await nats.request(f"$JS.API.STREAM.INFO.{EVENTS_STREAM}", request, timeout=SCAN_TIMEOUT_SECONDS)
        info = orjson.loads(answer.data)
        subjects = info["state"].get("subjects") or {}
        found.update(subject.removeprefix(f"{EVENT_PREFIX}.").split(".")[0] for subject in subjects)
        offset += len(subjects)
        if not subjects or offset >= info.get("total", 0):
            return sorted(found)


async def _given(connection: AsyncConnection, tenant_id: str) -> _Given:
    row = (await connection.execute(_BOOK, {"tenant": tenant_id})).one_or_none()
    return _Given(row.event_sequence, row.waiting) if row is not None else _Given(0, 0)


async def _last_event(jetstream: JetStreamContext, tenant_id: str) -> int | None:
    """Asked of the stream's leader: a direct get may be answered by a replica that lags."""
    try:
        message = await jetstream.get_msg(EVENTS_STREAM, subject=_subject(tenant_id))
    except NotFoundError:
        return None
    if not _is_event(message.headers):
        return (await _scan(jetstream, tenant_id)).last
    return _sequence(message.headers)


async def _expired(jetstream: JetStreamContext, last_command: datetime | None) -> bool:
    """Whether the stream may have let go of everything the tenant did: it keeps events for its `max_age`."""
    max_age_seconds = (await jetstream.stream_info(EVENTS_STREAM)).config.max_age
    if not max_age_seconds or last_command is None:
        return False
    return datetime.now(UTC) - last_command > timedelta(seconds=max_age_seconds)


async def _scan(jetstream: JetStreamContext, tenant_id: str) -> _Scanned:
    """Reads the sequences of the tenant's events, up to those that were there at the start, through a consumer of its own."""
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        headers_only=True,
        mem_storage=True,
        num_replicas=1,
        inactive_threshold=SCAN_CONSUMER_SECONDS,
    )
    consumer = await jetstream.pull_subscribe(_subject(tenant_id), stream=EVENTS_STREAM, config=config)
    info = await consumer.consumer_info()
    try:
        # Nothing was fetched yet, so everything there was at the start is pending.
        return await _scanned(consumer, info.num_pending or 0)
    finally:
        await consumer.unsubscribe()
        await jetstream.delete_consumer(EVENTS_STREAM, info.name)


async def _scanned(consumer: JetStreamContext.PullSubscription, count: int) -> _Scanned:
    mismatches: list[Mismatch] = []
    seen, last = 0, None
    while seen < count:
        for message in await consumer.fetch(min(SCAN_FETCH, count - seen), timeout=SCAN_TIMEOUT_SECONDS):
            seen += 1
            if message.metadata.sequence.consumer != seen:
                raise ScanInterrupted
            if not _is_event(message.headers):
                continue
            sequence = _sequence(message.headers)
            # Where the stream begins is up to its max_age.
            if last is not None and sequence != last + 1 and len(mismatches) < MAX_MISMATCHES:
                mismatches.append(_mismatch("event_sequence", f"event {last + 1}", f"event {sequence}"))
            last = sequence
    return _Scanned(last, tuple(mismatches))


def _is_event(headers: dict[str, str] | None) -> bool:
    return CE_ID in (headers or {})


def _sequence(headers: dict[str, str] | None) -> int:
    """The tenant's sequence in an event; 0, which no event has, where it holds none."""
    text = (headers or {}).get(CE_SEQUENCE, "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def _subject(tenant_id: str) -> str:
    return f"{EVENT_PREFIX}.{tenant_id}.>"


def _mismatch(check: str, expected: str, found: str) -> Mismatch:
    return Mismatch(check=check, subject=EVENTS_STREAM, expected=expected, found=found)
