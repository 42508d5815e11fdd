"""Payments per second from a pre-filled stream: resume the paused durable, watch it run empty, look at both clocks."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from nats.aio.client import Client

from tools.bench import observe
from tools.bench.observe import BenchError, CpuMeter
from tools.bench.ordinary import GROUP

# Two requests each time, some 100 µs of the server's: well below one per cent.
_POLL_SECONDS = 0.05
_STUCK_SECONDS = 60.0

Progress = Callable[[int], None]


class Throughput(NamedTuple):
    """`seconds_to_ack`: from the first payment given out to the last one acknowledged. `seconds_to_event`: to the last of
    its events stored. CPU seconds are those of the second, longer span."""

    payments: int
    seconds_to_ack: float
    seconds_to_event: float
    cpu_seconds: dict[str, float]

    @property
    def per_second(self) -> float:
        return self.payments / self.seconds_to_ack

    @property
    def to_event_per_second(self) -> float:
        return self.payments / self.seconds_to_event

    @property
    def cpu_us_per_payment(self) -> dict[str, float]:
        return {name: seconds / self.payments * 1e6 for name, seconds in self.cpu_seconds.items()}


async def measure(nc: Client, payments: int, cpu: CpuMeter, progress: Progress, *, relay: bool = True) -> Throughput:
    """Lets the waiting `payments` go and returns when the last is acknowledged and, with `relay`, its event stored.

    Raises BenchError when nothing moves for a minute. The start is this process's clock, the ends are nats-server's:
    the same machine's.
    """
    done_before = (await observe.consumed(nc, GROUP)).acknowledged
    events_wanted = (await observe.events(nc)).messages + payments
    cpu.start()
    started_at = time.time()
    await observe.resume(nc, GROUP)
    acknowledged_at = await _until_acknowledged(nc, done_before, progress)
    stored_at = await _until_stored(nc, events_wanted) if relay else acknowledged_at
    used = cpu.seconds()
    return Throughput(payments, acknowledged_at - started_at, max(stored_at, acknowledged_at) - started_at, used)


async def until_acknowledged(nc: Client) -> None:
    """Returns when no payment waits."""
    await _until_acknowledged(nc, 0, lambda _done: None)


async def until_events(nc: Client, wanted: int) -> None:
    """Returns when the event stream holds that many."""
    await _until_stored(nc, wanted)


async def _until_acknowledged(nc: Client, done_before: int, progress: Progress) -> float:
    watch = _Watch("payments")
    while True:
        state = await observe.consumed(nc, GROUP)
        progress(state.acknowledged - done_before)
        if not state.outstanding:
            if state.last_at is None:
                raise BenchError("no payment was acknowledged")
            return state.last_at
        watch.saw(state.acknowledged)
        await asyncio.sleep(_POLL_SECONDS)


async def _until_stored(nc: Client, wanted: int) -> float:
    watch = _Watch("events")
    while True:
        state = await observe.events(nc)
        if state.messages > wanted:
            raise BenchError(f"{state.messages} events where {wanted} were to come")
        if state.messages == wanted:
            return state.last_at or 0.0
        watch.saw(state.messages)
        await asyncio.sleep(_POLL_SECONDS)


class _Watch:
    """Raises BenchError when a count stands still."""

    def __init__(self, what: str) -> None:
        self._what, self._count, self._since = what, -1, time.monotonic()

    def saw(self, count: int) -> None:
        if count != self._count:
            self._count, self._since = count, time.monotonic()
        elif time.monotonic() - self._since > _STUCK_SECONDS:
            raise BenchError(f"{self._what} stand still at {count}; the logs say why")
