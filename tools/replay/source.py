"""Reading a range of a stream: bounds resolved by the server, then every selected message once, in order, over reconnects."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple

import orjson
from nats import errors
from nats.aio.client import Client
from nats.js.errors import Error as JetStreamError

from tools.replay.errors import ReplayAway, ReplayError
from tools.replay.selection import Selection
from tools.replay.stored import Stored, stored

API_TIMEOUT_SECONDS = 5.0
FETCH = 500
FETCH_TIMEOUT_SECONDS = 3.0
# A consumer lives in memory and dies with its server: it is made again from the message after the last one read.
CONSUMER_IDLE_SECONDS = 60
# An election or a restart of NATS takes seconds; longer, and a person should look.
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 0.5
_MAX_DELETED_LISTED = 10


class Range(NamedTuple):
    """What was asked for as sequences, frozen: `last` does not move with the stream. `expired` and `deleted` are counts of
    sequences in the range that the stream no longer holds."""

    first: int
    last: int
    expired: int = 0
    deleted: tuple[int, ...] = ()

    @property
    def remarks(self) -> list[str]:
        found = []
        if self.expired:
            found.append(f"{self.expired:,} messages of the range have expired: the stream begins after its start")
        if self.deleted:
            listed = ", ".join(str(each) for each in self.deleted[:_MAX_DELETED_LISTED])
            more = " …" if len(self.deleted) > _MAX_DELETED_LISTED else ""
            found.append(f"{len(self.deleted):,} messages of the range were deleted: {listed}{more}")
        return found


async def api(nc: Client, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JetStream API call. Raises ReplayError for a refusal, ReplayAway without an answer."""
    try:
        answer = await nc.request(f"$JS.API.{subject}", orjson.dumps(body or {}), timeout=API_TIMEOUT_SECONDS)
    except (errors.Error, TimeoutError) as error:
        raise ReplayAway(
            f"JetStream does not answer {subject} ({type(error).__name__}); is this user permitted?"
        ) from None
    found: dict[str, Any] = orjson.loads(answer.data)
    if refusal := found.get("error"):
        raise ReplayError(f"{subject}: {refusal.get('description', 'refused')}")
    return found


async def resolve(nc: Client, selection: Selection) -> Range:
    """The selection's bounds as sequences of the stream as it is now. Raises ReplayError for a range outside it."""
    state = (await api(nc, f"STREAM.INFO.{selection.stream}", {"deleted_details": True}))["state"]
    first_held, last_held = state["first_seq"], state["last_seq"]
    if not state["messages"]:
        raise ReplayError(f"{selection.stream} is empty")
    first = selection.from_sequence or 1
    if selection.from_time is not None:
        first = await _sequence_at(nc, selection.stream, selection.from_time, last_held)
    last = last_held
    if selection.to_time is not None:
        # What was stored at that very moment belongs to the range: the next microsecond's first message ends it.
        last = await _sequence_at(nc, selection.stream, selection.to_time + timedelta(microseconds=1), last_held) - 1
    if selection.to_sequence is not None:
        last = min(selection.to_sequence, last_held)
    if first > last_held or last < first_held or first > last:
        raise ReplayError(
            f"nothing of the range is in {selection.stream}: it holds sequences {first_held:,} to {last_held:,}, "
            f"{state['first_ts'][:19]}Z to {state['last_ts'][:19]}Z"
        )
    deleted = tuple(each for each in state.get("deleted") or () if max(first, first_held) <= each <= last)
    asked_for_start = selection.from_sequence is not None
    return Range(max(first, first_held), last, max(0, first_held - first) if asked_for_start else 0, deleted)


async def _sequence_at(nc: Client, stream: str, moment: datetime, last_held: int) -> int:
    """The first sequence stored at `moment` or later, found by the server; one past the last where there is none."""
    request = {"start_time": moment.astimezone(UTC).isoformat().replace("+00:00", "Z"), "next_by_subj": ">"}
    try:
        return int((await api(nc, f"STREAM.MSG.GET.{stream}", request))["message"]["seq"])
    except ReplayError:
        return last_held + 1


async def read(nc: Client, selection: Selection, bounds: Range, *, bodies: bool = True) -> AsyncIterator[list[Stored]]:
    """The range's messages that the server selects, in batches. Survives restarts of NATS: nothing is skipped or repeated.

    Raises ReplayAway where NATS stays away for PATIENCE_SECONDS, ReplayError where the stream goes.
    """
    following, lost_since = bounds.first, None
    while following <= bounds.last:
        try:
            async for batch in _consume(nc, selection, following, bodies=bodies):
                lost_since = None
                inside = [each for each in batch if each.position <= bounds.last]
                if inside:
                    following = inside[-1].position + 1
                    yield inside
                if len(inside) < len(batch):
                    return
            return
        except (errors.Error, JetStreamError, TimeoutError, ReplayAway, _Interrupted) as error:
            lost_since = lost_since or monotonic()
            if monotonic() - lost_since > PATIENCE_SECONDS:
                raise ReplayAway(f"NATS has been away for {PATIENCE_SECONDS:.0f} s ({type(error).__name__})") from None
            await asyncio.sleep(RETRY_SECONDS)


class _Interrupted(Exception):
    """Messages were lost between server and client, by a reconnect."""


async def _consume(nc: Client, selection: Selection, first: int, *, bodies: bool) -> AsyncIterator[list[Stored]]:
    config = {
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "headers_only": not bodies,
        "inactive_threshold": CONSUMER_IDLE_SECONDS * 1_000_000_000,
        "filter_subjects": list(selection.server_subjects),
    }
    stream = selection.stream
    created = await api(nc, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    consumer = await nc.jetstream().pull_subscribe_bind(consumer=created["name"], stream=stream)
    pending, seen = created["num_pending"], 0
    try:
        while pending:
            messages = await consumer.fetch(min(FETCH, pending), timeout=FETCH_TIMEOUT_SECONDS)
            for message in messages:
                seen += 1
                if message.metadata.sequence.consumer != seen:
                    raise _Interrupted
            pending = messages[-1].metadata.num_pending
            yield [stored(message) for message in messages]
    finally:
        await _forget(nc, consumer, stream, created["name"])


async def _forget(nc: Client, consumer: Any, stream: str, name: str) -> None:
    """The server would forget it by itself after CONSUMER_IDLE_SECONDS."""
    if not nc.is_connected:
        return
    try:
        await consumer.unsubscribe()
        await nc.jetstream().delete_consumer(stream, name)
    except (errors.Error, JetStreamError, TimeoutError):
        return
