"""The alert rules: each is silent when all is well and without data, fires when it should, and has its page in the runbook."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml

from tests.deploy.chart import CHART
from tests.deploy.names import AWAY, known_series, named_series
from tests.deploy.prometheus_server import needs_prometheus, promtool
from tools.cli.app import app
from tools.stack.paths import PROJECT_ROOT

RULES_FILE = CHART / "rules" / "billing.yaml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
}
RUNBOOK = PROJECT_ROOT / "docs" / "runbook.md"
MINUTES = 90
LAST = 88  # a change this late is seen, and no `for` of a rule that must not fire has passed

Series = dict[str, str]


def _up(role: str, values: str = f"1x{MINUTES}") -> Series:
    return {f'up{{namespace="b",app_kubernetes_io_component="{role}",instance="{role}-0"}}': values}


# What a scrape a minute would have found of a mesh that is well; values as promtool writes them (start+step x times).
HEALTHY: Series = {
    **_up("api"),
    **_up("handlers"),
    **_up("worker"),
    'billing_http_requests_total{namespace="b",route="/v1/payments",method="POST",status="201"}': f"0+120x{MINUTES}",
    'billing_http_requests_total{namespace="b",route="/v1/payments",method="POST",status="503"}': f"0x{MINUTES}",
    'billing_http_requests_total{namespace="b",route="unmatched",method="GET",status="500"}': f"0+500x{MINUTES}",
    'billing_event_loop_lag_seconds{namespace="b",app_kubernetes_io_component="api",instance="api-0"}': f"0.01x{MINUTES}",
    'billing_secrets_stale{namespace="b",app_kubernetes_io_component="api"}': f"0x{MINUTES}",
    'billing_command_duration_seconds_bucket{namespace="b",group="payments",le="0.5"}': f"0+60x{MINUTES}",
    'billing_command_duration_seconds_bucket{namespace="b",group="payments",le="3"}': f"0+60x{MINUTES}",
    'billing_command_duration_seconds_bucket{namespace="b",group="payments",le="10"}': f"0+60x{MINUTES}",
    'billing_command_duration_seconds_bucket{namespace="b",group="payments",le="+Inf"}': f"0+60x{MINUTES}",
    'billing_command_duration_seconds_count{namespace="b",group="payments"}': f"0+60x{MINUTES}",
    'billing_commands_total{namespace="b",command="payment.record",outcome="applied",code=""}': f"0+60x{MINUTES}",
    'billing_commands_total{namespace="b",command="payment.x",outcome="rejected",code="currency_mismatch"}': f"0+9x{MINUTES}",
    'billing_dead_letters_total{namespace="b",group="payments",code="malformed_command"}': f"5x{MINUTES}",
    'billing_consumer_oldest_age_seconds{namespace="b",group="payments"}': f"1x{MINUTES}",
    'billing_ledger_integrity_mismatches{namespace="b"}': f"0x{MINUTES}",
    'billing_ledger_integrity_last_run_timestamp_seconds{namespace="b"}': f"0+60x{MINUTES}",
    'billing_outbox_oldest_age_seconds{namespace="b",stream="events",shard_group="0"}': f"0x{MINUTES}",
    'billing_outbox_owned_shard_groups{namespace="b",pod="w-0"}': f"2x{MINUTES}",
    'billing_outbox_owned_shard_groups{namespace="b",pod="w-1"}': f"0x{MINUTES}",
    'billing_outbox_parked_tenants{namespace="b",stream="events",shard_group="0"}': f"0x{MINUTES}",
    'billing_neighbour_away{namespace="b",neighbour="tenant-service"}': f"0x{MINUTES}",
    'billing_gateway_circuit_state{namespace="b",tenant="kabul",adapter="card"}': f"0x{MINUTES}",
    'billing_holds{namespace="b",status="authorised",fault=""}': f"5x{MINUTES}",
    'billing_query_replica_fallbacks_total{namespace="b",reason="lagging"}': f"3x{MINUTES}",
    'billing_job_queue_oldest_age_seconds{namespace="b",queue="statements"}': f"100x{MINUTES}",
    'billing_jobs_total{namespace="b",kind="statements",outcome="done"}': f"0+1x{MINUTES}",
    'billing_jobs_total{namespace="b",kind="statements",outcome="failed"}': f"1x{MINUTES}",
    'billing_schedules_owned{namespace="b",pod="w-0"}': f"1x{MINUTES}",
    'billing_schedules_owned{namespace="b",pod="w-1"}': f"0x{MINUTES}",
    'billing_schedule_runs_total{namespace="b",schedule="verify",outcome="done"}': f"0+1x{MINUTES}",
    'billing_schedule_runs_total{namespace="b",schedule="verify",outcome="failed"}': f"2x{MINUTES}",
}
_NEW = f"_x{LAST - 1} 1 1 1 1"  # a counter that was not there before


def _gauge(name: str, bad: float) -> Series:
    """`name` in HEALTHY goes bad half-way."""
    (series,) = [each for each in HEALTHY if each.startswith(name + "{")]
    good = HEALTHY[series].split("x")[0]
    return {series: f"{good}x{MINUTES // 2} {bad}x{MINUTES // 2}"}


# scenario → what is different from healthy, and every alert that is then firing at the end.
SCENARIOS: dict[str, tuple[Series, set[str]]] = {
    "healthy": ({}, set()),
    "one-of-two-handlers-gone": (
        {'up{namespace="b",app_kubernetes_io_component="handlers",instance="handlers-1"}': f"1x40 0x{MINUTES}"},
        {"BillingProcessDown"},
    ),
    "no-worker": (_up("worker", "1x40"), {"BillingRoleMissing"}),
    "5xx": (
        {
            'billing_http_requests_total{namespace="b",route="/v1/payments",method="POST",status="503"}': f"0+2x{MINUTES}"
        },
        {"BillingHttpErrors"},
    ),
    "few-5xx": (
        {
            'billing_http_requests_total{namespace="b",route="/v1/payments",method="POST",status="201"}': f"0+1x{MINUTES}",
            'billing_http_requests_total{namespace="b",route="/v1/payments",method="POST",status="503"}': f"0+1x{MINUTES}",
        },
        set(),
    ),
    "busy-loop": (_gauge("billing_event_loop_lag_seconds", 4), {"BillingEventLoopLag"}),
    "stale-secret": (_gauge("billing_secrets_stale", 1), {"BillingSecretsStale"}),
    "slow-payments": (
        {
            'billing_command_duration_seconds_bucket{namespace="b",group="payments",le="0.5"}': f"0+54x{MINUTES}",
            'billing_command_duration_seconds_bucket{namespace="b",group="payments",le="3"}': f"0+54x{MINUTES}",
        },
        {"BillingPaymentsSlow"},
    ),
    "other-groups-slow": (
        {
            f'billing_command_duration_seconds_bucket{{namespace="b",group="jobs",le="{le}"}}': f"0+{count}x{MINUTES}"
            for le, count in (("3", 0), ("10", 60), ("+Inf", 60))
        },
        set(),
    ),
    "dead-letters-at-rate": (
        {
            'billing_commands_total{namespace="b",command="payment.record",outcome="dead_lettered",code="x"}': f"0+4x{MINUTES}",
            'billing_dead_letters_total{namespace="b",group="payments",code="x"}': f"0+4x{MINUTES}",
        },
        {"BillingCommandErrors", "BillingDeadLetters"},
    ),
    "neighbour-refuses": (
        {
            'billing_commands_total{namespace="b",command="payment.x",outcome="rejected",code="circuit_open"}': f"0+4x{MINUTES}",
        },
        {"BillingCommandErrors"},
    ),
    "first-dead-letter": (
        {'billing_dead_letters_total{namespace="b",group="charges",code="command_failed"}': _NEW},
        {"BillingDeadLetters"},
    ),
    "old-queue": (_gauge("billing_consumer_oldest_age_seconds", 90), {"BillingQueueOld"}),
    "stuck-queue": (_gauge("billing_consumer_oldest_age_seconds", 900), {"BillingQueueOld", "BillingQueueStuck"}),
    "mismatch": (_gauge("billing_ledger_integrity_mismatches", 1), {"BillingLedgerMismatch"}),
    "not-verified": (
        {'billing_ledger_integrity_last_run_timestamp_seconds{namespace="b"}': f"0+60x30 1800x{MINUTES}"},
        {"BillingLedgerNotVerified"},
    ),
    "late-relay": (_gauge("billing_outbox_oldest_age_seconds", 120), {"BillingRelayLate"}),
    "nobody-relays": (
        {'billing_outbox_owned_shard_groups{namespace="b",pod="w-0"}': f"2x40 0x{MINUTES}"},
        {"BillingRelayUnowned"},
    ),
    "parked-tenant": (_gauge("billing_outbox_parked_tenants", 1), {"BillingRelayParked"}),
    "neighbour-away": (_gauge("billing_neighbour_away", 1), {"BillingNeighbourAway"}),
    "circuit-open": (_gauge("billing_gateway_circuit_state", 2), {"BillingGatewayCircuitOpen"}),
    "circuit-tries": (_gauge("billing_gateway_circuit_state", 1), set()),
    "unknown-charges": (
        {'billing_holds{namespace="b",status="unknown",fault=""}': f"1x{MINUTES}"},
        {"BillingHoldsForPeople"},
    ),
    "late-capture": (
        {'billing_holds{namespace="b",status="expired",fault="captured_late"}': f"1x{MINUTES}"},
        {"BillingHoldsForPeople"},
    ),
    "replica-lags": (
        {'billing_query_replica_fallbacks_total{namespace="b",reason="lagging"}': f"0+6x{MINUTES}"},
        {"BillingReplicaUnused"},
    ),
    "old-job": (_gauge("billing_job_queue_oldest_age_seconds", 7200), {"BillingJobsOld"}),
    "first-failed-job": (
        {'billing_jobs_total{namespace="b",kind="gl-export",outcome="failed"}': _NEW},
        {"BillingJobsFailed"},
    ),
    "nobody-schedules": (
        {'billing_schedules_owned{namespace="b",pod="w-0"}': f"1x40 0x{MINUTES}"},
        {"BillingSchedulesUnowned"},
    ),
    "first-failed-schedule": (
        {'billing_schedule_runs_total{namespace="b",schedule="overdue",outcome="failed"}': _NEW},
        {"BillingScheduleFailed"},
    ),
}


@needs_prometheus
def test_promtool_finds_the_rules_sound() -> None:
    result = promtool("check", "rules", RULES_FILE)
    assert result.returncode == 0, result.stderr
    assert f"{len(RULES)} rules found" in result.stdout


def test_every_rule_is_breached_once() -> None:
    assert set().union(*(firing for _, firing in SCENARIOS.values())) == set(RULES)


@needs_prometheus
def test_rules_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    tests = [_test(name, HEALTHY | different, firing) for name, (different, firing) in SCENARIOS.items()]
    # Nothing at all: the one rule for that, for each role; every other is silent.
    tests.append(_test("no-data", {}, {"BillingRoleMissing"}, count=3))
    result = _run(tests, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_prometheus
def test_the_test_above_can_fail(tmp_path: Path) -> None:
    assert _run([_test("x", HEALTHY | SCENARIOS["mismatch"][0], set())], tmp_path).returncode == 1
    assert _run([_test("x", HEALTHY, {"BillingLedgerMismatch"})], tmp_path).returncode == 1


def _test(name: str, series: Series, firing: set[str], count: int = 1) -> dict[str, Any]:
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": count} for alert in sorted(firing)]
    check = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{MINUTES}m",
        "exp_samples": expected,
    }
    given = [{"series": each, "values": values} for each, values in series.items()]
    return {"name": name, "interval": "1m", "input_series": given, "promql_expr_test": [check]}


def _run(tests: list[dict[str, Any]], directory: Path) -> "subprocess.CompletedProcess[str]":
    file = directory / "tests.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES_FILE)], "evaluation_interval": "1m", "tests": tests}))
    return promtool("test", "rules", file)


# ---- the rules and the code ----


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_names_metrics_that_exist(alert: str) -> None:
    named = named_series(RULES[alert]["expr"])
    assert named <= known_series() | {"up"}
    assert named or "up{" in RULES[alert]["expr"]


def test_the_scenarios_name_metrics_that_exist() -> None:
    named = {series.partition("{")[0] for different, _ in SCENARIOS.values() for series in HEALTHY | different}
    assert named <= known_series() | {"up"}


def test_codes_are_those_of_what_is_away() -> None:
    (codes,) = re.findall(r'code=~"([a-z_|]+)"', RULES["BillingCommandErrors"]["expr"])
    assert set(codes.split("|")) == AWAY


# ---- the runbook ----


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_says_what_to_do(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == rule["annotations"].keys()
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    section = _sections()[alert]
    for part in ("**Means.**", "**Look.**", "**Do.**", "**Over when.**"):
        assert part in section, part


def test_the_runbook_has_no_page_of_a_rule_that_is_gone() -> None:
    assert set(_sections()) == set(RULES)


def _sections() -> dict[str, str]:
    """By heading; GitHub's anchor of `### BillingQueueOld` is `billingqueueold`."""
    found = re.split(r"^### (\w+)$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_every_metric_of_the_runbook_exists() -> None:
    assert named_series(RUNBOOK.read_text(encoding="utf-8")) <= known_series()


def _command_lines() -> list[str]:
    """What follows `billing` where the runbook shows a command."""
    shown = "\n".join(re.findall(r"`[^`\n]+`", RUNBOOK.read_text(encoding="utf-8")))
    return sorted(set(re.findall(r"(?<![\w./-])billing ([a-z][^`)]*)", shown)))


@pytest.mark.parametrize("line", _command_lines())
def test_every_command_of_the_runbook_exists(line: str) -> None:
    """With its sub-command and every option, asked of the command line itself."""
    command: Any = typer.main.get_command(app)
    words, path = line.split(), list[str]()
    while commands := getattr(command, "commands", None):
        assert words and words[0] in commands, f"`billing {line}`: there are {', '.join(commands)}"
        command = commands[words[0]]
        path.append(words.pop(0))
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}
    assert typer.testing.CliRunner().invoke(app, [*path, "--help"]).exit_code == 0
