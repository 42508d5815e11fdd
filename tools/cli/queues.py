"""`billing queues`: what waits in front of each consumer group, job queue and relay, and how fast it shrinks."""

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
    from adapters.nats.scaling import Queue, Workload

_COLUMNS = ("group", "depth#", "unacked#", "again#", "in/s#", "out/s#", "oldest#", "want#", "state")
_SAMPLE_SECONDS = 1.0
_RELAY_TIMEOUT_SECONDS = 5.0
_RELAY_LATE_SECONDS = 10.0


def queues(
    watch: Annotated[bool, typer.Option("--watch", help="Until Ctrl-C; with --json one line per look.")] = False,
    interval_seconds: Annotated[float, typer.Option("--interval", min=0.1)] = _SAMPLE_SECONDS,
    lag_per_replica: Annotated[
        int | None,
        typer.Option(
            "--lag-per-replica", min=1, help="Of the handlers' scaling rule: depth that a replica is for [1,000]."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Consumer groups and job queues: depth (what scaling goes by), in flight, redelivered, rate in and out, age of the oldest
    message, and the replicas that the chart's scaling rule would have for it (a workload gets the most that any of its queues
    asks for). Paused ones are marked; replays and canaries show while something waits there.

    The rates take two looks, so this lasts one interval. NATS_URL needs a user that may ask for consumer info. Where
    DATABASE_RELAY_URL is given, events not yet relayed are shown, too.

    Example: billing queues --watch

    Exit codes: 0 shown, 1 a group's durable is missing, 3 NATS is away.
    """
    from tools.cli.servers import quiet

    quiet()
    raise typer.Exit(asyncio.run(_show(interval_seconds, lag_per_replica, watch=watch, as_json=as_json)))


async def _show(interval_seconds: float, lag_per_replica: int | None, *, watch: bool, as_json: bool) -> int:
    from tools.cli.servers import nats_client

    async with nats_client() as client:
        look = _Look(client, lag_per_replica)
        await look.again()
        await asyncio.sleep(interval_seconds)
        seen = await look.again()
        if not watch:
            _print(seen, as_json=as_json)
            return FAILED if any(row["missing"] for row in _rows(seen)) else 0
        if as_json:
            while True:
                print_json({"at": datetime.now(UTC).isoformat()} | seen)
                await asyncio.sleep(interval_seconds)
                seen = await look.again()
        from rich.live import Live

        with Live(_table(seen), console=console(), auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval_seconds)
                live.update(_table(await look.again()), refresh=True)


class _Look:
    """Remembers the last look, for the rates."""

    def __init__(self, client: "Client", lag_per_replica: int | None) -> None:
        from adapters.nats.scaling import WORKLOADS

        self._client = client
        self._workloads: dict[str, Workload] = dict(WORKLOADS)
        if lag_per_replica is not None:
            self._workloads["handlers"] = WORKLOADS["handlers"].with_lag(lag_per_replica)
        self._before: dict[tuple[str, str], tuple[float, int, int]] = {}

    async def again(self) -> dict[str, Any]:
        """`groups` and `jobs`, a row per queue; `replicas` wanted, by workload; `relay`, None without a way to look."""
        from adapters.nats import scaling

        found = {
            queue: await self._row(queue)
            for queue in (*scaling.COMMANDS, *scaling.CANARY, *scaling.REPLAYS, *scaling.JOBS, *scaling.PUSHES)
        }
        always = (*scaling.COMMANDS, *scaling.JOBS)
        depths = {queue: int(row["depth"]) for queue, row in found.items()}
        return {
            "groups": [
                row
                for queue, row in found.items()
                if queue not in (*scaling.JOBS, *scaling.PUSHES) and (row["depth"] or queue in always)
            ],
            "fhir": found[scaling.PUSHES[0]],  # in JSON only: without a gateway, events just wait there
            "jobs": [found[queue] for queue in scaling.JOBS],
            "replicas": {
                name: workload.wanted({queue: depths[queue] for queue in workload.lag_per_replica})
                for name, workload in self._workloads.items()
            },
            "relay": await _relay(),
        }

    async def _row(self, queue: "Queue") -> dict[str, Any]:
        from nats.errors import Error as NatsError

        from adapters.nats.consumer_state import ConsumerMissing, consumer_state
        from adapters.nats.scaling import workload_of

        group, stream, durable = queue
        try:
            state = await consumer_state(self._client, stream, durable)
        except ConsumerMissing:
            return {"group": group, "stream": stream, "missing": True, "depth": 0}
        except (NatsError, TimeoutError):
            reason = "JetStream does not answer, or this user may not ask for consumer info"
            raise CliError(f"{stream}/{durable}: {reason}", UNAVAILABLE) from None
        wanted = self._workloads[workload_of(queue)].wanted({queue: state.depth})
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


async def _relay() -> dict[str, Any] | None:
    """Rows of the outbox that no relay has sent; only the relay's own role sees those of all tenants."""
    from adapters.postgres.outbox import OutboxSession
    from adapters.settings import load
    from domain.outbox import OUTBOX_SHARDS
    from tools.cli.queue_settings import QueueSettings
    from tools.cli.servers import database_errors

    url = load(QueueSettings).database_relay_url
    if url is None:
        return None
    with database_errors():
        async with await OutboxSession.open(
            url.get_secret_value(), range(OUTBOX_SHARDS), timeout_seconds=_RELAY_TIMEOUT_SECONDS
        ) as session:
            found = await session.backlog()
    return {
        "depth": sum(each.rows for each in found),
        "oldest_age_seconds": round(max(each.oldest_age_seconds for each in found), 1),
    }


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


def _rows(seen: dict[str, Any]) -> list[dict[str, Any]]:
    return [*seen["groups"], *seen["jobs"]]


def _print(seen: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(seen)
    else:
        console().print(_table(seen))


def _table(seen: dict[str, Any]) -> Any:
    lines = [_cells(row) for row in _rows(seen)]
    if relay := seen["relay"]:
        state = "nobody relays" if relay["oldest_age_seconds"] > _RELAY_LATE_SECONDS else "relayed"
        lines.append(("relay", f"{relay['depth']:,}", *("-" * 4), f"{relay['oldest_age_seconds']:,.0f} s", "-", state))
    return table(_COLUMNS, lines)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    from adapters.nats.topology import JOBS_STREAM

    if row["missing"]:
        return (_label(row), *("-" * 7), "missing: run `billing migrate`")
    # A consumer that nobody pulls from has no handlers. Jobs may have no worker (no object store), as long as none wait.
    idle = "nobody fetches" if row["depth"] or row["stream"] != JOBS_STREAM else "idle"
    state = "PAUSED" if row["paused"] else "consumed" if row["pulls"] or row["in_flight"] else idle
    counts = (f"{row[key]:,}" for key in ("depth", "in_flight", "redelivered"))
    rates = (f"{row[key] or 0:,.0f}" for key in ("arrived_per_second", "acknowledged_per_second"))
    oldest = f"{row['oldest_age_seconds']:,.0f} s"
    return (_label(row), *counts, *rates, oldest, row["wanted_replicas"], state)


def _label(row: dict[str, Any]) -> str:
    from adapters.nats.topology import REPLAY_STREAM

    return f"{row['group']} (replay)" if row["stream"] == REPLAY_STREAM else str(row["group"])
