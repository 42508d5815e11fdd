"""What the probes and gauges of the consumer groups look at: traps that leave a process alive but useless (FACTS §1)."""

import asyncio
from datetime import UTC, datetime
from time import monotonic

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client

from adapters.nats.consumer_state import ConsumerMissing, consumer_state
from adapters.nats.fetch import AdaptiveFetch
from adapters.nats.topology import COMMANDS_STREAM, command_durables
from handlers import metrics

log = structlog.get_logger()

# Fetching may fail for as long as an election or a reconnect takes; longer than this and a restart is the better try.
FETCH_FAILING_SECONDS = 30.0
# Above lock wait and statement timeout of one transaction (10 s + 30 s), with two bisections: slower means stuck.
BATCH_STUCK_SECONDS = 120.0
STATE_INTERVAL_SECONDS = 5.0


class Watchdog:
    """Watches one durable's fetching and handling."""

    def __init__(self, stream: str, durable: str, connection: Client) -> None:
        self.stream, self.durable = stream, durable
        self.fetch: AdaptiveFetch | None = None
        self.connection = connection
        self._handling_since: float | None = None

    def handling(self, since: float | None) -> None:
        """Called with `monotonic()` when a batch is handed over, with None when it is done."""
        self._handling_since = since

    async def drain(self) -> None:
        """Stops fetching and gives back what was fetched but not handed over."""
        if self.fetch is not None:
            await self.fetch.drain()

    def check(self) -> str | None:
        """Why this group does no work although it could, or None. A NATS that is away is not this process's fault."""
        now = monotonic()
        if self._handling_since is not None and now - self._handling_since > BATCH_STUCK_SECONDS:
            return f"a batch has been in hand for {now - self._handling_since:.0f} s"
        failing_since = self.fetch.failing_since if self.fetch else None
        if failing_since is not None and self.connection.is_connected and now - failing_since > FETCH_FAILING_SECONDS:
            return f"fetching has failed for {now - failing_since:.0f} s: {self.fetch.failure if self.fetch else ''}"
        return None


async def report_depth(connection: Client, groups: tuple[str, ...], stop: asyncio.Event) -> None:
    """Keeps the consumer gauges current until `stop` is set."""
    while not stop.is_set():
        for name in [name for group in groups for name in command_durables(group)]:
            await _report(connection, name)
        try:
            async with asyncio.timeout(STATE_INTERVAL_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue


async def _report(connection: Client, durable: str) -> None:
    """The canary's too, whoever consumes it: what waits there must be seen even while its own pods are down."""
    try:
        state = await consumer_state(connection, COMMANDS_STREAM, durable)
    except (ConsumerMissing, nats_errors.Error, TimeoutError) as error:
        log.warning("consumer_state_unknown", durable=durable, error=type(error).__name__)
        return
    metrics.CONSUMER_PENDING.labels(durable).set(state.pending)
    metrics.CONSUMER_ACK_PENDING.labels(durable).set(state.ack_pending)
    metrics.CONSUMER_REDELIVERED.labels(durable).set(state.redelivered)
    metrics.CONSUMER_OLDEST_AGE.labels(durable).set(state.oldest_age_seconds(datetime.now(UTC)))
