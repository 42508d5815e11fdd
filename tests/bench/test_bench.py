"""The benchmark itself works: both ways keep every promise on a small run, and its document has the agreed shape.

No time is asserted: the ratio of two ways that were measured in turn is all that a busy machine leaves standing.
"""

from pathlib import Path

import orjson
import pytest

from tests.fixtures.servers import TEMPLATE, Database
from tools.bench.command import Plan, measure
from tools.bench.observe import BenchError
from tools.bench.proof import prove
from tools.bench.report import write_report
from tools.stack import Stack

PLAN = Plan(payments=200, tenants=2, repeat=1, lone=5, trial_payments=0, warm_up=20, sweep="NOTHING")


@pytest.mark.timeout(300)
def test_a_small_run_verifies_both_ways_and_reports_them(stack: Stack, tmp_path: Path) -> None:
    document = measure(PLAN, stack=stack, template=TEMPLATE)

    end_to_end = document["end_to_end"]
    assert end_to_end["ratio"] > 1
    assert end_to_end["payments_per_second"] > end_to_end["ordinary_per_second"] > 0
    assert end_to_end["to_last_event"]["payments_per_second"] <= end_to_end["payments_per_second"]
    assert document["lone_command_ms"]["p50"] <= document["lone_command_ms"]["p99"]
    assert document["lone_command_http_ms"]["count"] == PLAN.lone
    assert document["books_verified"]
    for used in document["cpu_us_per_payment"].values():
        assert used["total"] == pytest.approx(sum(value for name, value in used.items() if name != "total"), abs=0.5)

    write_report(document, tmp_path)
    assert orjson.loads((tmp_path / "benchmarks.json").read_bytes()) == document
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert f"{end_to_end['payments_per_second']:,.0f}" in page
    assert "{" not in page  # every placeholder of the text was filled


async def test_a_run_that_lost_a_payment_has_no_figures(database: Database) -> None:
    with pytest.raises(BenchError, match="rows after the run"):
        await prove(database.dsn, [], payments=1)
