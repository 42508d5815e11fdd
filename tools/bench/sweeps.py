"""What moves the rate: tenants, replicas, the batch limit, a hot account, the relay; and what the parts do by themselves."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from schemas.tenant import TenantProfile
from tools.bench import ceiling, open_loop, pgbench, raw, runs
from tools.bench.rig import rig
from tools.bench.runs import Conditions, Result
from tools.bench.variants import MESH
from tools.bench.workload import Workload
from tools.stack import Stack

# A tenth of the accounts each, so that laying a thousand tenants down takes seconds and not minutes.
_WIDE_ACCOUNTS = 10
_PGBENCH_SECONDS = 8
_FETCH = 2_000  # FETCH_BATCH_SIZE as shipped

_EACH = 20  # payments of a tenant, where there are many

Report = Callable[[int], Callable[[str, int], None]]


class Sweep(NamedTuple):
    """What is measured. Empty fields are left out. `rounds`: runs by turns over the numbers of tenants, and of the ceiling, of
    which medians are taken. `replicas`: processes of a role, for handlers and for workers; the headline has one of each."""

    payments: int
    tenants: tuple[int, ...] = ()
    rounds: int = 1
    replicas: tuple[int, ...] = ()
    batch_limits: tuple[int, ...] = ()
    hot: bool = True
    parts: bool = True
    loads: open_loop.Loads | None = None


QUICK = Sweep(
    payments=3_000, tenants=(1, 100), loads=open_loop.Loads(nats=(200, 1_000), http=(100,), clients=(64,), seconds=3.0)
)
FULL = Sweep(
    payments=10_000,
    tenants=(1, 100, 1_000),
    rounds=3,
    replicas=(2, 3, 4),
    batch_limits=(1, 10, 50, 100, 500, 2_000),
    loads=open_loop.Loads(
        nats=(100, 500, 1_000, 2_000, 3_000), http=(50, 100, 200, 400, 800), clients=(1, 256), rounds=3, seconds=3.0
    ),
)
NOTHING = Sweep(payments=0, hot=False, parts=False)


def measure(
    stack: Stack, profiles: list[TenantProfile], work: Workload, sweep: Sweep, most_per_second: float, report: Report
) -> dict[str, Any]:
    """Figures by name, for the JSON document. `stack` has the template of `work`; `most_per_second` is the rate of the headline.

    Raises as `runs.run` does.
    """
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
        ceilings = [ceiling.measure(stack, profiles, work, _FETCH) for _ in range(sweep.rounds)]
        found["ceiling_per_second"] = round(median(ceilings), 1)
        found["raw_jetstream"] = {name: round(rate, 1) for name, rate in raw.measure(stack, work)._asdict().items()}
        found["pgbench_per_second"] = round(pgbench.measure(stack, _PGBENCH_SECONDS), 1)
    if sweep.batch_limits:
        found["batch_limits"] = [
            {"limit": limit} | _figures(one(f"at most {limit} of a fetch", _small(work, limit), _limited(limit)))
            for limit in sweep.batch_limits
        ]
    if sweep.replicas:
        found["replicas"] = {
            role: [
                {"processes": number} | _figures(one(f"{number} × {role}", work, _replicas(role, number)))
                for number in sweep.replicas
            ]
            for role in ("handlers", "workers")
        }
    if sweep.loads is not None:
        report(1)("latency under load", 0)
        found |= open_loop.measure(stack, profiles, work, sweep.loads, most_per_second)
    return found


def by_tenants(stack: Stack, sweep: Sweep, report: Report) -> list[dict[str, Any]]:
    """Rates for each number of tenants; the template of another workload must be gone.

    Each tenant has at least so many payments waiting that how they are batched can show.
    """
    if not sweep.tenants:
        return []
    found = []
    for tenants in sweep.tenants:
        work = Workload(max(sweep.payments, tenants * _EACH), tenants, _WIDE_ACCOUNTS)
        with rig(work, stack) as (running, profiles):
            figures = [
                _figures(_one(running, profiles, f"{tenants} tenants", work, report)) for _ in range(sweep.rounds)
            ]
        found.append({"tenants": tenants} | _medians(figures))
    return found


def _medians(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of runs of one kind, figure by figure; `least` and `most` of the rates."""
    rates = [each["payments_per_second"] for each in figures]
    used = [each["cpu_us_per_payment"] for each in figures]
    found = {
        name: round(median(each[name] for each in figures), 1) for name in figures[0] if name != "cpu_us_per_payment"
    }
    found["cpu_us_per_payment"] = {name: round(median(each[name] for each in used), 1) for name in used[0]}
    return found | {"least": min(rates), "most": max(rates)}


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


def _replicas(role: str, processes: int) -> Conditions:
    return Conditions(handlers=processes) if role == "handlers" else Conditions(workers=processes)


def _limited(limit: int) -> Conditions:
    return Conditions(
        warm_up=min(2_000, limit * 20),
        env=tuple((name, str(limit)) for name in ("FETCH_BATCH_SIZE", "FETCH_BATCH_MAX")),
    )


def _figures(result: Result) -> dict[str, Any]:
    measured = result.throughput
    return {
        "payments_per_second": round(measured.per_second, 1),
        "cpu_us_per_payment": {name: round(used, 1) for name, used in measured.cpu_us_per_payment.items()},
        "transaction_size": round(result.cost.transaction_size, 1),
        "wal_bytes_per_payment": round(result.cost.wal_bytes),
    }
