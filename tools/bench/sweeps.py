"""What moves the rate: tenants, the batch limit, a hot account, the relay; and what the parts do by themselves."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import nats

from schemas.tenant import TenantProfile
from tools.bench import ceiling, open_loop, pgbench, raw, runs
from tools.bench.rig import TEMPLATE, rig
from tools.bench.runs import Conditions, Result
from tools.bench.variants import MESH
from tools.bench.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh

# A tenth of the accounts each, so that laying a thousand tenants down takes seconds and not minutes.
_WIDE_ACCOUNTS = 10
_PGBENCH_SECONDS = 8
_FETCH = 2_000  # FETCH_BATCH_SIZE as shipped

Report = Callable[[int], Callable[[str, int], None]]


class Sweep(NamedTuple):
    """What is measured. Empty fields are left out; loads are commands or requests per second."""

    payments: int
    tenants: tuple[int, ...] = ()
    batch_limits: tuple[int, ...] = ()
    hot: bool = True
    parts: bool = True
    nats_loads: tuple[int, ...] = ()
    http_loads: tuple[int, ...] = ()
    load_seconds: float = 5.0


QUICK = Sweep(payments=3_000, tenants=(1, 100), nats_loads=(200, 1_000), http_loads=(50,), load_seconds=3.0)
FULL = Sweep(
    payments=10_000,
    tenants=(1, 100, 1_000),
    batch_limits=(1, 10, 50, 100, 500, 2_000),
    nats_loads=(100, 500, 1_000, 2_000, 3_000),
    http_loads=(50, 100, 200, 400),
)
NOTHING = Sweep(payments=0, hot=False, parts=False)


def measure(
    stack: Stack, profiles: list[TenantProfile], work: Workload, sweep: Sweep, report: Report
) -> dict[str, Any]:
    """Figures by name, for the JSON document. `stack` has the template of `work`. Raises as `runs.run` does."""
    found: dict[str, Any] = {}
    work = work._replace(payments=sweep.payments)

    def one(label: str, of: Workload, conditions: Conditions = runs.AS_SHIPPED) -> Result:
        return _one(stack, profiles, label, of, report, conditions)

    if sweep.hot:
        found["hot_account"] = _figures(one("one account of each tenant", work._replace(accounts=1)))
        found["hot_tenant"] = _figures(one("nine of ten to one account", work._replace(hot=True)))
    if sweep.parts:
        alone = one("handlers alone, then the relay", work, Conditions(relay=False))
        found["handlers_alone"] = _figures(alone)
        found["relay_events_per_second"] = round(alone.relay_per_second or 0.0, 1)
        report(1)("the parts by themselves", 0)
        found["ceiling_per_second"] = round(ceiling.measure(stack, profiles, work, _FETCH), 1)
        found["raw_jetstream"] = {name: round(rate, 1) for name, rate in raw.measure(stack, work)._asdict().items()}
        found["pgbench_per_second"] = round(pgbench.measure(stack, _PGBENCH_SECONDS), 1)
    if sweep.batch_limits:
        found["batch_limits"] = [
            {"limit": limit} | _figures(one(f"at most {limit} of a fetch", _small(work, limit), _limited(limit)))
            for limit in sweep.batch_limits
        ]
    if sweep.nats_loads or sweep.http_loads:
        report(1)("latency under load", 0)
        found["latency"] = _latency(stack, profiles, work, sweep)
    return found


def by_tenants(stack: Stack, sweep: Sweep, report: Report) -> list[dict[str, Any]]:
    """Rates for each number of tenants; the template of another workload must be gone."""
    if not sweep.tenants:
        return []
    found = []
    with rig(Workload(sweep.payments, max(sweep.tenants), _WIDE_ACCOUNTS), stack) as (running, profiles):
        for tenants in sweep.tenants:
            work = Workload(sweep.payments, tenants, _WIDE_ACCOUNTS)
            result = _one(running, profiles, f"{tenants} tenants", work, report)
            found.append({"tenants": tenants} | _figures(result))
    return found


def _one(
    stack: Stack,
    profiles: list[TenantProfile],
    label: str,
    work: Workload,
    report: Report,
    conditions: Conditions = runs.AS_SHIPPED,
) -> Result:
    shown = report(work.payments)

    def progress(_step: str, done: int) -> None:
        shown(label, done)

    return runs.run(stack, profiles, work, MESH, conditions=conditions, progress=progress)


def _small(work: Workload, limit: int) -> Workload:
    """A tenth for limits that make a transaction of each payment."""
    return work._replace(payments=work.payments // 10) if limit < work.tenants else work


def _limited(limit: int) -> Conditions:
    return Conditions(warm_up=min(2_000, limit * 20), env=(("FETCH_BATCH_SIZE", str(limit)),))


def _figures(result: Result) -> dict[str, Any]:
    measured = result.throughput
    return {
        "payments_per_second": round(measured.per_second, 1),
        "cpu_us_per_payment": {name: round(used, 1) for name, used in measured.cpu_us_per_payment.items()},
        "transaction_size": round(result.cost.transaction_size, 1),
        "wal_bytes_per_payment": round(result.cost.wal_bytes),
    }


def _latency(stack: Stack, profiles: list[TenantProfile], work: Workload, sweep: Sweep) -> dict[str, Any]:
    with _loaded(stack, profiles) as mesh:
        return asyncio.run(_loads(mesh, work, sweep))


@contextmanager
def _loaded(stack: Stack, profiles: list[TenantProfile]) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE) as mesh:
        mesh.tenants.add(*profiles)
        yield mesh


async def _loads(mesh: Mesh, work: Workload, sweep: Sweep) -> dict[str, Any]:
    nc = await nats.connect(mesh.nats_url("admin"))
    try:
        await open_loop.over_nats(nc, work, 100, 2.0)  # plans, pools and caches
        over_nats = [await open_loop.over_nats(nc, work, load, sweep.load_seconds) for load in sweep.nats_loads]
        over_http = []
        if sweep.http_loads:
            await open_loop.over_http(mesh, work, 20, 2.0)
            over_http = [await open_loop.over_http(mesh, work, load, sweep.load_seconds) for load in sweep.http_loads]
    finally:
        await nc.close()
    return {"nats": over_nats, "http": over_http}
