"""What KEDA would do with a burst: the chart's scaling rule on the monitoring endpoint of a real run, plotted.

python -m tools.bench.scaling --output docs [--payments 40000]

One replica of the handlers applies what it can; nothing is scaled here. Depths are read as KEDA reads them (`/jsz`, waiting and
in hand of each durable), the rule is `adapters/nats/scaling.py`, `followed` is what an HPA with default behaviour makes of it.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import nats
import orjson

from adapters.nats.batch_publish import Publisher, Row
from adapters.nats.scaling import WORKLOADS, Queue, Workload
from schemas.wire_headers import encode_headers
from tools.bench import rig, workload
from tools.bench.observe import BenchError
from tools.bench.svg import Line, Panel, document
from tools.stack.mesh import Mesh
from tools.stack.nats_server import NatsServer

ACCOUNT = "$G"
INTERVAL_SECONDS = 0.2
# The HPA's defaults: a look every 15 s; up by 4 pods or to the double, whichever is more; down only to the most that any look of
# the last five minutes wanted.
SYNC_SECONDS = 15.0
UP_PODS, UP_FACTOR = 4, 2
DOWN_WINDOW_SECONDS = 300.0
# It leaves things as they are within a tenth.
TOLERANCE = 0.1

_BATCH = 500
_DRAIN_SECONDS = 180.0
_QUIET_SECONDS = 2.0


class Sample(NamedTuple):
    """Seconds since the burst began, messages waiting and in hand by durable, and what the rule makes of them."""

    at_seconds: float
    depths: dict[str, int]
    wanted: int


def depths(document: dict[str, Any], queues: Iterable[Queue], account: str = ACCOUNT) -> dict[Queue, int]:
    """Of a `/jsz?consumers=true` document, as KEDA computes a durable's lag; missing ones are left out."""
    found: dict[tuple[str, str], int] = {}
    for each in document.get("account_details") or []:
        if each["name"] != account:
            continue
        for stream in each.get("stream_detail") or []:
            for consumer in stream.get("consumer_detail") or []:
                lag = int(consumer["num_pending"]) + int(consumer["num_ack_pending"])
                found[stream["name"], consumer["name"]] = lag
    return {queue: found[queue.stream, queue.durable] for queue in queues if (queue.stream, queue.durable) in found}


def look(server: NatsServer, rule: Workload) -> dict[Queue, int]:
    """Asked of a running server: KEDA's own request."""
    return depths(server.monitor(f"jsz?acc={ACCOUNT}&consumers=true&config=true"), rule.lag_per_replica)


def followed(wanted: Sequence[tuple[float, int]], first: int) -> list[tuple[float, int]]:
    """(seconds, replicas) at each look of an HPA that begins with `first` replicas: its rates, window and tolerance."""
    replicas, looks, steps, due = first, list[tuple[float, int]](), [(0.0, first)], 0.0
    for at, value in wanted:
        if at < due:
            continue
        due = at + SYNC_SECONDS
        looks.append((at, value if abs(value / replicas - 1) > TOLERANCE else replicas))
        recent = [asked for then, asked in looks if then > at - DOWN_WINDOW_SECONDS]
        up = min(looks[-1][1], max(replicas + UP_PODS, replicas * UP_FACTOR))
        replicas = up if up > replicas else max(up, min(replicas, max(recent)))
        steps.append((at, replicas))
    return steps


def measure(payments: int, tenants: int = 10) -> list[Sample]:
    """Samples of a burst of payments, until everything is applied. Raises BenchError where that takes too long."""
    work = workload.Workload(payments, tenants)
    with rig.started(None) as running, rig.rig(work, running) as (stack, profiles):
        with Mesh.isolated(stack, template=rig.TEMPLATE, roles=("handlers", "worker")) as mesh:
            mesh.tenants.add(*profiles)
            return asyncio.run(_run(mesh, work))


async def _run(mesh: Mesh, work: workload.Workload) -> list[Sample]:
    samples: list[Sample] = []
    async with _sampling(mesh.nats, WORKLOADS["handlers"], samples):
        await _burst(mesh, work)
        await _drained(samples)
    return samples


@asynccontextmanager
async def _sampling(server: NatsServer, rule: Workload, samples: list[Sample]) -> AsyncIterator[None]:
    async def sample() -> None:
        began = time.monotonic()
        while True:
            found = await asyncio.to_thread(look, server, rule)
            named = {queue.durable: depth for queue, depth in found.items()}
            samples.append(Sample(round(time.monotonic() - began, 2), named, rule.wanted(found)))
            await asyncio.sleep(INTERVAL_SECONDS)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()


async def _burst(mesh: Mesh, work: workload.Workload) -> None:
    """As fast as the stream takes them: in atomic batches."""
    client = await nats.connect(mesh.nats_url("admin"))
    try:
        rows = (
            Row(each.subject, encode_headers(each.headers), each.body)
            for each in islice(workload.payments(work), work.payments)
        )
        async with Publisher(client) as publisher:
            while batch := list(islice(rows, _BATCH)):
                await publisher.publish_batch(batch)
    finally:
        await client.close()


async def _drained(samples: Sequence[Sample]) -> None:
    """Until nothing has waited for a moment."""
    seen = len(samples)
    async with asyncio.timeout(_DRAIN_SECONDS):
        while True:
            await asyncio.sleep(_QUIET_SECONDS)
            recent, seen = samples[seen:], len(samples)
            if recent and not any(sum(each.depths.values()) for each in recent):
                return
    raise BenchError("the burst was not applied in time")


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    rule = WORKLOADS["handlers"]
    deepest = max(samples, key=lambda sample: max(sample.depths.values()))
    rising = next((each.at_seconds for each in samples if each.wanted == max(other.wanted for other in samples)), 0.0)
    back = [each.at_seconds for each in samples if each.wanted > rule.min_replicas]
    return {
        "deepest": max(deepest.depths.values()),
        "most_wanted": max(each.wanted for each in samples),
        "most_wanted_after_seconds": rising,
        "back_at_minimum_after_seconds": back[-1] if back else 0.0,
        "applied_after_seconds": next(each.at_seconds for each in reversed(samples) if any(each.depths.values())),
    }


def picture(samples: Sequence[Sample]) -> str:
    """The run as SVG: depth of the deepest durable above, replicas below."""
    rule = WORKLOADS["handlers"]
    wanted = [(each.at_seconds, each.wanted) for each in samples]
    depth = [(each.at_seconds, max(each.depths.values(), default=0)) for each in samples]
    lines = [
        Line("wanted by the rule", wanted, steps=True),
        Line("an HPA that follows it", _to_the_end(wanted), steps=True),
    ]
    return document(
        [
            Panel("messages waiting and in hand (payments)", [Line("depth", depth)]),
            Panel(f"replicas, {rule.min_replicas} to {rule.max_replicas}", lines),
        ]
    )


def _to_the_end(wanted: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    steps = followed(wanted, WORKLOADS["handlers"].min_replicas)
    return [*steps, (wanted[-1][0], steps[-1][1])]


def write(samples: Sequence[Sample], directory: Path) -> dict[str, Any]:
    """`scaling.svg` and `scaling.json` in `directory`, samples as [seconds, depth, replicas]; returns the summary."""
    figures = summary(samples)
    (directory / "scaling.svg").write_text(picture(samples), encoding="utf-8")
    rows = [(each.at_seconds, max(each.depths.values(), default=0), each.wanted) for each in samples]
    (directory / "scaling.json").write_bytes(orjson.dumps(figures | {"samples": rows}) + b"\n")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--payments", type=int, default=40_000)
    given = parser.parse_args()
    figures = write(measure(given.payments), given.output)
    print(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    main()
