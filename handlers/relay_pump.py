"""One stream's rows of one shard group: read, publish, delete, again."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import time_ns

import structlog
from nats import errors

from adapters.nats.batch_publish import Publisher, PublishError, Row
from adapters.postgres.outbox import OutboxRow, OutboxSession
from adapters.telemetry import tracing
from handlers import relay_metrics as metrics
from schemas import headers
from schemas.wire_headers import header_value

log = structlog.get_logger()

# Below about 20 messages an atomic batch costs the server more than that many singles.
MIN_BATCH = 20
# What a batch should have when rows come steadily: it costs the server little more than one of 20, and a read and a delete
# of PostgreSQL are shared by so many more. Rows are let gather for it at most `poll_max_seconds`.
GATHERED_ROWS = 100
# Bounds what one batch holds in the client's and the server's memory.
MAX_BATCH_BYTES = 4 * 1024 * 1024
BACK_OFF_MIN_SECONDS = 0.02
BACK_OFF_MAX_SECONDS = 0.5
# A message the server refuses will most likely be refused again: its tenant is asked for less often.
PARK_MIN_SECONDS = 0.5
PARK_MAX_SECONDS = 30.0


class StreamUnavailable(Exception):
    """The stream as a whole takes nothing at the moment."""


@dataclass(frozen=True, slots=True)
class PumpSettings:
    """`batch_size` is both the largest atomic batch and the most rows read per shard at once."""

    batch_size: int
    poll_min_seconds: float
    poll_max_seconds: float


class Pump:
    def __init__(
        self, stream: str, group: int, session: OutboxSession, publisher: Publisher, settings: PumpSettings
    ) -> None:
        self._stream, self._group, self._session = stream, group, session
        self._publisher, self._settings = publisher, settings
        self._parked = _Parked()
        self._parked_gauge = metrics.PARKED.labels(stream, str(group))
        self._log = log.bind(stream=stream, shard_group=group)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; an outage of the stream is waited out here, any other exception is the session's end."""
        poll, back_off = self._settings.poll_min_seconds, BACK_OFF_MIN_SECONDS
        clock = asyncio.get_running_loop().time
        read_at = clock()
        while not stop.is_set():
            before, read_at = read_at, clock()
            try:
                found = await self.turn()
                back_off = BACK_OFF_MIN_SECONDS
            except StreamUnavailable as error:
                metrics.ERRORS.labels(self._stream, "unavailable").inc()
                self._log.warning("relay_stream_unavailable", error=str(error))
                await pause(stop, back_off)
                back_off = min(2 * back_off, BACK_OFF_MAX_SECONDS)
                continue
            if found < self._settings.batch_size:  # with a full read there is more already
                poll = gathering_seconds(found, read_at - before, poll, self._settings)
                await pause(stop, max(0.0, poll - (clock() - read_at)))

    async def turn(self) -> int:
        """Read once and publish and delete all that was read; the number of rows read.

        Raises StreamUnavailable, after deleting what did get through.
        """
        rows = await self._session.unsent(
            self._stream, limit_per_shard=self._settings.batch_size, without=self._parked.tenants()
        )
        for chunk in chunks(rows, self._settings.batch_size, MAX_BATCH_BYTES):
            # A tenant parked by an earlier chunk of this read must not be overtaken by its own later rows.
            held = set(self._parked.tenants())
            await self._send([row for row in chunk if row.tenant_id not in held])
        return len(rows)

    async def _send(self, rows: list[OutboxRow]) -> None:
        since_ns = time_ns()
        if len(rows) >= MIN_BATCH:
            try:
                await self._publisher.publish_batch([_message(row) for row in rows])
            except (PublishError, errors.Error) as error:
                # A duplicate id refuses the whole batch, and says so only of the batch: singles find out which, and
                # go on.
                metrics.ERRORS.labels(self._stream, "batch").inc()
                self._log.info("relay_batch_refused", rows=len(rows), error=str(error))
            else:
                self._release(rows)
                await self._sent(rows, "batch", since_ns)
                return
        if rows:
            await self._send_singly(rows, since_ns)

    async def _send_singly(self, rows: list[OutboxRow], since_ns: int) -> None:
        """Each tenant's rows one after the other, all tenants at once; deletes what was stored, whatever failed."""
        lanes: dict[str, list[OutboxRow]] = defaultdict(list)
        for row in rows:
            lanes[row.tenant_id].append(row)
        stored: list[OutboxRow] = []
        results = await asyncio.gather(*(self._lane(lane, stored) for lane in lanes.values()), return_exceptions=True)
        if stored:
            await self._sent(stored, "single", since_ns)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _lane(self, rows: list[OutboxRow], stored: list[OutboxRow]) -> None:
        for row in rows:
            try:
                await self._publisher.publish(_message(row))
            except PublishError as error:
                if error.transient:
                    raise StreamUnavailable(str(error)) from error
                self._park(row, error)
                return
            except errors.Error as error:
                raise StreamUnavailable(repr(error)) from error
            stored.append(row)
            self._release([row])

    async def _sent(self, rows: list[OutboxRow], mode: str, since_ns: int) -> None:
        if tracing.exports():
            said: dict[str, str | int] = {
                "billing.stream": self._stream,
                "billing.mode": mode,
                "billing.rows": len(rows),
            }
            parents = [parent for row in rows if (parent := header_value(row.headers, headers.TRACEPARENT))]
            tracing.passed("billing.relay", "producer", parents, since_ns, said)
        await self._session.delete(rows)
        metrics.PUBLISHED.labels(self._stream, mode).inc(len(rows))

    def _release(self, rows: list[OutboxRow]) -> None:
        self._parked.release(rows)
        self._parked_gauge.set(len(self._parked))

    def _park(self, row: OutboxRow, error: PublishError) -> None:
        self._parked.park(row.tenant_id)
        self._parked_gauge.set(len(self._parked))
        metrics.ERRORS.labels(self._stream, "refused").inc()
        self._log.error(
            "relay_message_refused",
            tenant_id=row.tenant_id,
            outbox_id=row.id,
            subject=row.subject,
            error_code=error.error_code,
            error=str(error),
        )


class _Parked:
    """Tenants whose next message was refused, and until when to leave them alone (loop time)."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._until)

    def park(self, tenant_id: str) -> None:
        _, last = self._until.get(tenant_id, (0.0, PARK_MIN_SECONDS / 2))
        seconds = min(2 * last, PARK_MAX_SECONDS)
        self._until[tenant_id] = (asyncio.get_running_loop().time() + seconds, seconds)

    def release(self, rows: Sequence[OutboxRow]) -> None:
        if self._until:
            for row in rows:
                self._until.pop(row.tenant_id, None)

    def tenants(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        return [tenant_id for tenant_id, (until, _) in self._until.items() if until > now]


def gathering_seconds(found: int, over_seconds: float, last_seconds: float, settings: PumpSettings) -> float:
    """From the last read to the next, when the last found so many rows that came in `over_seconds`.

    The shortest pause where rows are too rare to make a batch; longer ones, up to the longest, where they come steadily; ever
    longer ones where there is nothing.
    """
    if not found:
        return min(2 * last_seconds, settings.poll_max_seconds)
    per_second = found / max(over_seconds, settings.poll_min_seconds)
    if per_second * settings.poll_max_seconds < MIN_BATCH:
        return settings.poll_min_seconds
    return min(max(GATHERED_ROWS / per_second, settings.poll_min_seconds), settings.poll_max_seconds)


def chunks(rows: Sequence[OutboxRow], most_rows: int, most_bytes: int) -> Iterator[list[OutboxRow]]:
    """`rows` in order, cut into runs of at most `most_rows` and about `most_bytes`; none is empty."""
    chunk: list[OutboxRow] = []
    size = 0
    for row in rows:
        row_bytes = len(row.headers) + len(row.body)
        if chunk and (len(chunk) == most_rows or size + row_bytes > most_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += row_bytes
    if chunk:
        yield chunk


def _message(row: OutboxRow) -> Row:
    return Row(row.subject, row.headers, row.body)


async def pause(stop: asyncio.Event, seconds: float) -> bool:
    """Wait, but not past `stop`; True when it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
