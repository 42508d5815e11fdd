"""The outbox relay: committed rows become JetStream messages, in each tenant's commit order, at least once.

A row that is there is unsent. A shard group's owner holds its advisory locks on a connection of its own, and on that
same connection reads the oldest rows, publishes them, and deletes them once the stream has them. A crash anywhere
leaves rows that are published again under the same message id, which the stream's duplicate window drops. There is no
cursor, and nothing past a row that is not deleted yet is read.

Events and audit are two pumps, each with its own reads, so that an audit stream that is gone holds no event back.
"""

import asyncio
import random
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from nats.aio.client import Client

from adapters.nats.batch_publish import MAX_BATCH_MESSAGES, Publisher
from adapters.postgres.dsn import Dsn
from adapters.postgres.outbox import OutboxSession
from domain.outbox import OUTBOX_SHARDS
from handlers import relay_metrics as metrics
from handlers.relay_pump import Pump, PumpSettings, pause

log = structlog.get_logger()

# How often a relay that does not own a group asks for it: the time to take over from one that died.
OWNERSHIP_POLL_SECONDS = 0.05
SESSION_BACK_OFF_SECONDS = (0.02, 0.5)
BACKLOG_INTERVAL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Relay:
    """What the tasks of one `run_relay` share."""

    dsn: Dsn
    publisher: Publisher
    stop: asyncio.Event
    pump: PumpSettings
    statement_timeout_seconds: float


async def run_relay(
    *,
    dsn: Dsn,
    nats_connection: Client,
    stop: asyncio.Event,
    groups: int = 2,
    shards: int = OUTBOX_SHARDS,
    batch_size: int = 500,
    poll_min_seconds: float = 0.005,
    poll_max_seconds: float = 0.1,
    publish_timeout_seconds: float = 5.0,
    statement_timeout_seconds: float = 30.0,
) -> None:
    """Relay until `stop` is set; then finish what is being published and return (within about both timeouts).

    `dsn` is the role `billing_relay`. Outages of PostgreSQL or NATS are logged, counted and outlived, never raised.
    Any number of relays may run: each shard group has one owner at a time, also among relays with other `groups`.
    Raises ValueError for a `groups` or `batch_size` out of range.
    """
    if not 1 <= groups <= shards or not 1 <= batch_size <= MAX_BATCH_MESSAGES:
        raise ValueError(f"groups must be 1 to {shards}, batch_size 1 to {MAX_BATCH_MESSAGES}")
    pump = PumpSettings(batch_size=batch_size, poll_min_seconds=poll_min_seconds, poll_max_seconds=poll_max_seconds)
    async with Publisher(nats_connection, timeout_seconds=publish_timeout_seconds) as publisher:
        relay = _Relay(dsn, publisher, stop, pump, statement_timeout_seconds)
        async with asyncio.TaskGroup() as tasks:
            for group in range(groups):
                tasks.create_task(_keep_relaying(relay, group, range(group, shards, groups)))


async def _keep_relaying(relay: _Relay, group: int, shards: Sequence[int]) -> None:
    """One shard group, session after session.

    Any exception ends a session, however odd: asyncpg raises InternalClientError when PostgreSQL restarts under it,
    and a narrower `except` would end the relay there.
    """
    shortest, longest = SESSION_BACK_OFF_SECONDS
    back_off = shortest
    while not relay.stop.is_set():
        began = asyncio.get_running_loop().time()
        try:
            await _session(relay, group, shards)
        except Exception as error:
            metrics.ERRORS.labels("all", "session").inc()
            log.warning("relay_session_lost", shard_group=group, errors=[_describe(cause) for cause in _causes(error)])
        if asyncio.get_running_loop().time() - began > longest:
            back_off = shortest
        await pause(relay.stop, back_off * random.uniform(0.5, 1.5))  # noqa: S311  jitter
        back_off = min(2 * back_off, longest)


async def _session(relay: _Relay, group: int, shards: Sequence[int]) -> None:
    timeout = relay.statement_timeout_seconds
    async with await OutboxSession.open(relay.dsn, shards, timeout_seconds=timeout) as session:
        while not await session.try_lock():
            if await pause(relay.stop, OWNERSHIP_POLL_SECONDS * random.uniform(0.5, 1.5)):  # noqa: S311  jitter
                return
        log.info("relay_owns_shard_group", shard_group=group)
        metrics.own(group)
        try:
            await _pump_all(relay, group, session)
        finally:
            metrics.disown(group)


async def _pump_all(relay: _Relay, group: int, session: OutboxSession) -> None:
    """Both pumps and the gauges until `stop`; the first exception of any ends all, and the session with them."""
    async with asyncio.TaskGroup() as tasks:
        for stream in metrics.STREAMS:
            pump = Pump(stream, group, session, relay.publisher, relay.pump)
            tasks.create_task(pump.run(relay.stop))
        tasks.create_task(_report_backlog(session, group, relay.stop))


async def _report_backlog(session: OutboxSession, group: int, stop: asyncio.Event) -> None:
    while not stop.is_set():
        for backlog in await session.backlog():
            metrics.BACKLOG.labels(backlog.stream, str(group)).set(backlog.rows)
            metrics.OLDEST_AGE.labels(backlog.stream, str(group)).set(backlog.oldest_age_seconds)
        await pause(stop, BACKLOG_INTERVAL_SECONDS)


def _causes(error: BaseException) -> list[BaseException]:
    """The exceptions in a task group's exception group, however nested."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [error]


def _describe(error: BaseException) -> str:
    """Type, text and place. Not the whole traceback: rendered with its locals it would show the DSN's password."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
