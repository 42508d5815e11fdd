"""Clients of one mesh, over NATS and over HTTP: latency at offered loads, and what many of them at once get answered.

The clients are a process of their own (tools/bench/load_client.py), the same for both ways, and their CPU time is not the shim's.
"""

import asyncio
from statistics import median
from typing import Any, NamedTuple

from schemas.tenant import TenantProfile
from tools.bench.load import Load, percentiles
from tools.bench.load import measure as load
from tools.bench.load_client import Way
from tools.bench.rig import TEMPLATE
from tools.bench.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh

_WARM_UP_CLIENTS = 16


class Loads(NamedTuple):
    """Commands or requests per second that are offered; `clients` that wait for their answers before they ask again, of which
    `rounds` are measured, NATS and HTTP by turns. `seconds` of each."""

    nats: tuple[int, ...] = ()
    http: tuple[int, ...] = ()
    clients: tuple[int, ...] = ()
    rounds: int = 1
    seconds: float = 4.0
    warm_up_seconds: float = 2.0


def measure(
    stack: Stack, profiles: list[TenantProfile], work: Workload, loads: Loads, most_per_second: float
) -> dict[str, Any]:
    """`latency` by way, `half_rate` (at half of `most_per_second`, over NATS) and `shim`, for the JSON document.

    Raises BenchError where a command is not applied.
    """
    with Mesh.isolated(stack, template=TEMPLATE) as mesh:
        mesh.tenants.add(*profiles)
        return asyncio.run(_measure(mesh, work, loads, most_per_second))


async def _measure(mesh: Mesh, work: Workload, loads: Loads, most_per_second: float) -> dict[str, Any]:
    for way in ("nats", "http"):  # plans, pools and caches
        await load(mesh, work, "closed", way, clients=_WARM_UP_CLIENTS, seconds=loads.warm_up_seconds)
    offered: dict[Way, tuple[int, ...]] = {"nats": loads.nats, "http": loads.http}
    return {
        "shim": [await _closed(mesh, work, clients, loads) for clients in loads.clients],
        "half_rate": await _open(mesh, work, "nats", round(most_per_second / 2), loads),
        "latency": {
            way: [await _open(mesh, work, way, per_second, loads) for per_second in rates]
            for way, rates in offered.items()
        },
    }


async def _open(mesh: Mesh, work: Workload, way: Way, per_second: int, loads: Loads) -> dict[str, Any]:
    found = await load(mesh, work, "open", way, per_second=per_second, seconds=loads.seconds)
    taken = found.figures.taken_ms[way]
    return {
        "offered_per_second": per_second,
        "count": len(taken),
        "per_second": round(found.per_second, 1),
    } | percentiles(taken)


async def _closed(mesh: Mesh, work: Workload, clients: int, loads: Loads) -> dict[str, Any]:
    found: dict[Way, list[Load]] = {"nats": [], "http": []}
    for _ in range(loads.rounds):
        for way, runs in found.items():
            runs.append(await load(mesh, work, "closed", way, clients=clients, seconds=loads.seconds))
    rates = {way: median(run.per_second for run in runs) for way, runs in found.items()}
    return {
        "clients": clients,
        "ratio": round(rates["http"] / rates["nats"], 3),
        **{way: _figures(way, rates[way], runs) for way, runs in found.items()},
    }


def _figures(way: Way, per_second: float, runs: list[Load]) -> dict[str, Any]:
    used = {name: round(median(run.cpu_us[name] for run in runs), 1) for name in runs[0].cpu_us}
    taken = [ms for run in runs for ms in run.figures.taken_ms[way]]
    return {"per_second": round(per_second, 1), "cpu_us": used | {"total": round(sum(used.values()), 1)}} | percentiles(
        taken
    )
