"""What keeps a run from doing harm: pace, room in front of the consumer groups, and reasons to stop."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from time import monotonic

import nats.errors
from nats.aio.client import Client

from adapters.nats.consumer_state import ConsumerMissing, consumer_state
from adapters.nats.topology import COMMANDS_STREAM, REPLAY_STREAM, command_durables, replay_durable
from tools.replay.checkpoint import Options
from tools.replay.errors import Stopped
from tools.replay.outcomes import Heard

# Sent and not yet answered: enough to fill every batch of several replicas, little enough to stop soon.
MAX_IN_FLIGHT = 4_000
# Without one outcome for this long, nobody works: a PostgreSQL failover takes less.
STALL_SECONDS = 30.0
LAG_INTERVAL_SECONDS = 1.0
# Fewer outcomes say nothing about a rate.
MIN_OUTCOMES = 20
# Original pacing is kept to this grain.
SLICE_SECONDS = 0.1


class Rails:
    """Of one run. `stop` is set by a person (Ctrl-C)."""

    def __init__(
        self, nc: Client, options: Options, heard: Heard, groups: Iterable[str], *, replaying: bool, stop: asyncio.Event
    ) -> None:
        self._nc, self._options, self._heard, self._stop = nc, options, heard, stop
        self._groups, self._replaying = sorted(groups), replaying
        self._began = monotonic()
        self._sent = 0
        self._first_recorded_at: datetime | None = None
        self._lag_checked = 0.0

    @property
    def chunk(self) -> int:
        """Messages to send at once: a tenth of a second's at the rate asked for, at most what one atomic batch takes well."""
        rate = self._options.rate_per_second
        return 500 if rate is None else max(1, min(500, int(rate * SLICE_SECONDS)))

    def slice_of(self, recorded_at: datetime) -> int:
        """Messages of one slice are sent together; without original pacing there is one slice."""
        return int(self._due_seconds(recorded_at) / SLICE_SECONDS) if self._options.pace else 0

    async def before(self, recorded_at: datetime) -> None:
        """Waits until the next chunk may go. Raises Stopped."""
        self._check_refusals()
        await self._check_lag()
        await self._room()
        due = self._due_seconds(recorded_at) if self._options.pace else 0.0
        if self._options.rate_per_second is not None:
            due = max(due, self._sent / self._options.rate_per_second)
        await self._pause(self._began + due - monotonic())
        if self._stop.is_set():
            raise Stopped("stopped by Ctrl-C")

    def sent(self, count: int) -> None:
        self._sent += count

    async def finish(self) -> None:
        """Until every message sent is answered, or is done with its answer lost. Raises Stopped where nobody works."""
        await self._until(0)

    async def _room(self) -> None:
        await self._until(MAX_IN_FLIGHT)

    async def _until(self, most: int) -> None:
        enough = lambda: len(self._heard.awaited) <= most or self._stop.is_set()  # noqa: E731
        while not await self._heard.until(enough, STALL_SECONDS):
            if await self._depth():
                raise Stopped(
                    f"no outcome for {STALL_SECONDS:.0f} s while {len(self._heard.awaited):,} messages wait for "
                    f"{', '.join(self._groups)}: are the handlers running? (`billing queues`)"
                )
            self._heard.give_up()

    def _check_refusals(self) -> None:
        heard = sum(self._heard.counts[status] for status in ("applied", "duplicate", "rejected"))
        if heard < MIN_OUTCOMES:
            return
        percent = 100 * self._heard.counts["rejected"] / heard
        if percent > self._options.max_refused_percent:
            codes = ", ".join(f"{code} {count:,}" for code, count in self._heard.codes.most_common(3))
            raise Stopped(
                f"{percent:.1f} % of {heard:,} outcomes are refusals ({codes}); --max-refused-percent is "
                f"{self._options.max_refused_percent:g}"
            )

    async def _check_lag(self) -> None:
        """Of the live queues: what is new comes first."""
        if monotonic() - self._lag_checked < LAG_INTERVAL_SECONDS:
            return
        self._lag_checked = monotonic()
        for group in self._groups:
            depth = sum([await self._depth_of(COMMANDS_STREAM, name) for name in command_durables(group)])
            if depth > self._options.max_lag:
                raise Stopped(f"{depth:,} live commands wait for {group}; --max-lag is {self._options.max_lag:,}")

    async def _depth(self) -> int:
        if self._replaying:
            return sum([await self._depth_of(REPLAY_STREAM, replay_durable(group)) for group in self._groups])
        names = [name for group in self._groups for name in command_durables(group)]
        return sum([await self._depth_of(COMMANDS_STREAM, name) for name in names])

    async def _depth_of(self, stream: str, name: str) -> int:
        try:
            return (await consumer_state(self._nc, stream, name)).depth
        except ConsumerMissing:
            raise Stopped(f"{stream} has no durable {name}; `billing migrate` declares it") from None
        except (nats.errors.Error, TimeoutError):
            return 0  # NATS is restarting: the publish that follows waits for it

    def _due_seconds(self, recorded_at: datetime) -> float:
        self._first_recorded_at = self._first_recorded_at or recorded_at
        passed = (recorded_at - self._first_recorded_at).total_seconds()
        return passed / (self._options.pace or 1.0)

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
