"""`billing queues`: what waits in front of each consumer group, and how fast it shrinks."""

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.cli.errors import FAILED, UNAVAILABLE, CliError
from tools.cli.output import Json, console, print_json, table

if TYPE_CHECKING:
    from nats.aio.client import Client

    from adapters.nats.consumer_state import ConsumerState

_COLUMNS = ("group", "depth#", "unacked#", "again#", "in/s#", "out/s#", "oldest#", "want#", "state")
# What the scaling rule goes by: one replica per so many messages of depth, within its bounds. The chart's values are the same.
LAG_PER_REPLICA = 1_000
MIN_REPLICAS, MAX_REPLICAS = 3, 10
_SAMPLE_SECONDS = 1.0


def queues(
    watch: Annotated[bool, typer.Option("--watch", help="Until Ctrl-C; with --json one line per look.")] = False,
    interval_seconds: Annotated[float, typer.Option("--interval", min=0.1)] = _SAMPLE_SECONDS,
    lag_per_replica: Annotated[
        int, typer.Option("--lag-per-replica", min=1, help="Of the scaling rule: depth that one more replica is for.")
    ] = LAG_PER_REPLICA,
    as_json: Json = False,
) -> None:
    """Consumer groups: depth (what scaling goes by), in flight, redelivered, rate in and out, age of the oldest message,
    replicas wanted by the scaling rule (1 per 1,000 messages of depth, 3 to 10). Paused ones are marked.

    The rates take two looks, so this lasts one interval. NATS_URL needs a user that may ask for consumer info.

    Example: billing queues --watch

    Exit codes: 0 shown, 1 a group's durable is missing, 3 NATS is away.
    """
    from tools.cli.servers import quiet

    quiet()
    raise typer.Exit(asyncio.run(_show(interval_seconds, lag_per_replica, watch=watch, as_json=as_json)))


async def _show(interval_seconds: float, lag_per_replica: int, *, watch: bool, as_json: bool) -> int:
    from tools.cli.servers import nats_client

    async with nats_client() as client:
        look = _Look(client, lag_per_replica)
        await look.again()
        await asyncio.sleep(interval_seconds)
        rows = await look.again()
        if not watch:
            _print(rows, as_json=as_json)
            return FAILED if any(row["missing"] for row in rows) else 0
        if as_json:
            while True:
                print_json({"at": datetime.now(UTC).isoformat(), "groups": rows})
                await asyncio.sleep(interval_seconds)
                rows = await look.again()
        from rich.live import Live

        with Live(_table(rows), console=console(), auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval_seconds)
                live.update(_table(await look.again()), refresh=True)


class _Look:
    """Remembers the last look, for the rates."""

    def __init__(self, client: "Client", lag_per_replica: int) -> None:
        self._client = client
        self._lag_per_replica = lag_per_replica
        self._before: dict[tuple[str, str], tuple[float, int, int]] = {}

    async def again(self) -> list[dict[str, Any]]:
        """One row per consumer group; replay durables only while there is something in them."""
        from adapters.nats.topology import COMMANDS_STREAM, REPLAY_STREAM, durable, replay_durable
        from schemas.registry import GROUPS

        rows = [await self._row(group, COMMANDS_STREAM, durable(group)) for group in GROUPS]
        replays = [await self._row(group, REPLAY_STREAM, replay_durable(group)) for group in GROUPS]
        return rows + [row for row in replays if row["depth"]]

    async def _row(self, group: str, stream: str, durable: str) -> dict[str, Any]:
        from nats.errors import Error as NatsError

        from adapters.nats.consumer_state import ConsumerMissing, consumer_state

        try:
            state = await consumer_state(self._client, stream, durable)
        except ConsumerMissing:
            return {"group": group, "stream": stream, "missing": True, "depth": 0}
        except (NatsError, TimeoutError):
            reason = "JetStream does not answer, or this user may not ask for consumer info"
            raise CliError(f"{stream}/{durable}: {reason}", UNAVAILABLE) from None
        wanted = wanted_replicas(state.depth, self._lag_per_replica)
        return _as_row(group, state, self._rates(state)) | {"wanted_replicas": wanted}

    def _rates(self, state: "ConsumerState") -> tuple[float | None, float | None]:
        """Per second in and out since the last look; what came in is what went out and what the queue grew by."""
        now, key = time.monotonic(), (state.stream, state.durable)
        before = self._before.get(key)
        self._before[key] = (now, state.acknowledged, state.depth)
        if before is None:
            return None, None
        seconds, out = now - before[0], state.acknowledged - before[1]
        return max(0, out + state.depth - before[2]) / seconds, out / seconds


def wanted_replicas(depth: int, lag_per_replica: int) -> int:
    """As KEDA's HPA computes it from the durable's lag."""
    return min(MAX_REPLICAS, max(MIN_REPLICAS, -(-depth // lag_per_replica)))


def _as_row(group: str, state: "ConsumerState", rates: tuple[float | None, float | None]) -> dict[str, Any]:
    arrived, acknowledged = rates
    return {
        "group": group,
        "stream": state.stream,
        "missing": False,
        "depth": state.depth,
        "waiting": state.pending,
        "in_flight": state.ack_pending,
        "redelivered": state.redelivered,
        "arrived_per_second": None if arrived is None else round(arrived, 1),
        "acknowledged_per_second": None if acknowledged is None else round(acknowledged, 1),
        "oldest_age_seconds": round(state.oldest_age_seconds(datetime.now(UTC)), 1),
        "pulls": state.pulls,
        "paused": state.paused,
    }


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"groups": rows})
    else:
        console().print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Any:
    return table(_COLUMNS, (_cells(row) for row in rows))


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    if row["missing"]:
        return (_label(row), *("-" * 7), "missing: run `billing migrate`")
    # A consumer that nobody pulls from has no handlers.
    state = "PAUSED" if row["paused"] else "consumed" if row["pulls"] or row["in_flight"] else "nobody fetches"
    counts = (f"{row[key]:,}" for key in ("depth", "in_flight", "redelivered"))
    rates = (f"{row[key] or 0:,.0f}" for key in ("arrived_per_second", "acknowledged_per_second"))
    oldest = f"{row['oldest_age_seconds']:,.0f} s"
    return (_label(row), *counts, *rates, oldest, row["wanted_replicas"], state)


def _label(row: dict[str, Any]) -> str:
    from adapters.nats.topology import REPLAY_STREAM

    return f"{row['group']} (replay)" if row["stream"] == REPLAY_STREAM else str(row["group"])
