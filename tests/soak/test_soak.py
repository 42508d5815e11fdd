"""A short soak on the real stack: everything that is to be judged is sampled, and a sound mesh passes."""

import asyncio
from pathlib import Path

import pytest

from tests.fixtures.servers import TEMPLATE
from tools.bench.summary import environment
from tools.soak import report
from tools.soak.run import Plan, Result, document, soak
from tools.soak.sampling import ROLES, SERVERS
from tools.soak.verdicts import Verdict, judge
from tools.stack import Stack
from tools.stack.mesh import Mesh

# Enough for every kind of command, an invoice that is issued, and a request of each kind; not for any figure.
PLAN = Plan(seconds=5, tenants=2, accounts=2, per_second=300)


@pytest.fixture(scope="module")
def soaked(stack: Stack) -> Result:
    with Mesh.isolated(stack, template=TEMPLATE) as mesh:
        return asyncio.run(soak(mesh, PLAN))


@pytest.mark.timeout(240)
def test_every_command_is_answered_and_the_books_hold(soaked: Result) -> None:
    assert not [fact for fact in soaked.facts if fact.state != "holds"]
    assert set(soaked.sent) == {"payment.record", "charge.capture", "invoice.create", "invoice.issue", "account.open"}
    assert sum(soaked.sent.values()) >= PLAN.seconds * 300
    assert not soaked.gave_up


def test_every_process_and_relation_is_sampled(soaked: Result) -> None:
    series = soaked.recording.series
    assert {len(values) for values in series.values()} == {len(soaked.recording.at_seconds)}
    for kind in ("rss_mb", "pss_mb", "uss_mb", "files", "threads"):
        assert all(min(series[f"{kind}.{name}"]) > 0 for name in (*ROLES, *SERVERS))
    assert all(series[f"series.{role}"][-1] > 10 for role in ROLES)
    assert series["connections.billing_app"][-1] > 0 and series["connections.billing_relay"][-1] > 0
    assert series["consumers.BILLING_COMMANDS"][-1] > 0 and series["nats.connections"][-1] > 0
    assert series["messages.BILLING_COMMANDS"][-1] > series["messages.BILLING_COMMANDS"][0]
    assert {"table_mb.outbox", "table_mb.ledger_account", "table_mb.payment"} <= series.keys()
    assert all(soaked.recording.windows.values())


def test_a_sound_mesh_leaks_nothing_and_the_page_says_so(soaked: Result, tmp_path: Path) -> None:
    verdicts = [*soaked.facts, *judge(soaked.recording)]
    counted = [each for each in verdicts if each.state == "BROKEN" and _is_count(each)]
    assert not counted
    found = document(soaked, verdicts, environment("16", "2.15"))
    report.write(found, tmp_path)
    assert "commands" in (tmp_path / "soak.md").read_text() and (tmp_path / "pictures" / report.PICTURE).exists()


def _is_count(verdict: Verdict) -> bool:
    """Of what five seconds can tell: no sizes, no times, and no backlog of a machine that does other things."""
    return verdict.what.startswith(("NATS", "consumers", "PostgreSQL", "ephemeral", "threads", "metric"))
