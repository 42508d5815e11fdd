"""The load client does what its figures say, over both ways, in an open loop and a closed one. Lone commands: test_bench."""

import pytest

from tests.fixtures.servers import TEMPLATE
from tools.bench import open_loop
from tools.bench.open_loop import Loads
from tools.bench.rig import rig
from tools.bench.workload import Workload
from tools.stack import Stack

WORK = Workload(payments=100, tenants=2, accounts=2)


@pytest.mark.timeout(120)
def test_loads_are_measured_over_both_ways(stack: Stack) -> None:
    loads = Loads(nats=(50,), http=(50,), clients=(4,), seconds=0.5, warm_up_seconds=0.2)
    with rig(WORK, stack, TEMPLATE) as (_, profiles):
        found = open_loop.measure(stack, profiles, WORK, loads, most_per_second=100)
    (closed,) = found["shim"]
    assert closed["ratio"] == pytest.approx(closed["http"]["per_second"] / closed["nats"]["per_second"], abs=0.01)
    assert closed["http"]["cpu_us"]["api"] > closed["nats"]["cpu_us"]["api"]
    offered = [found["half_rate"], *found["latency"]["nats"], *found["latency"]["http"]]
    assert [(each["offered_per_second"], each["count"]) for each in offered] == [(50, 25)] * 3
    assert all(0 < each["p50"] <= each["p95"] <= each["p99"] for each in offered)
