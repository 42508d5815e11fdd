"""The four triggers: their queries in promtool's unit tests, and `billing canary check` against a real Prometheus."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import CHART
from tests.deploy.names import AWAY
from tests.deploy.prometheus_server import needs_prometheus, prometheus_server, promtool
from tools.cli.canary import EVERYTHING, Finding, Selection, exit_code, load_triggers
from tools.docs.metrics import metrics
from tools.stack.paths import PROJECT_ROOT
from tools.stack.ports import free_ports

TRIGGERS = {trigger.name: trigger for trigger in load_triggers()}
MINUTES = 30
# So much is there beforehand, and seen as time reaches it: a test that comes late on a busy machine still finds fresh samples.
AHEAD_MINUTES = 10
STEP_SECONDS = 15

# What every scenario has: per second, over the whole window; a scenario changes some of it.
HEALTHY: dict[str, float] = {
    "http_ok": 2.0,
    "http_5xx": 0.0,
    "payments_fast": 1.0,  # under 0.5 s
    "payments_slow": 0.0,  # 3 to 10 s
    "http_payments_slow": 0.0,
    "applied": 2.0,
    "dead_lettered": 0.0,
    "unavailable": 0.0,
    "refused": 0.5,  # by a business rule: an answer
    "mismatches": 0.0,  # a gauge
    "verifications_every_seconds": 300.0,
}
# scenario → what is different, what each trigger says. Every trigger is breached once, and its neighbours are well meanwhile.
OK = dict.fromkeys(TRIGGERS, "ok")
SCENARIOS: dict[str, tuple[dict[str, float], dict[str, str]]] = {
    "healthy": ({}, OK),
    "many-refusals": ({"refused": 20.0}, OK),
    "few-errors": ({"http_5xx": 0.008, "dead_lettered": 0.02, "unavailable": 0.01, "payments_slow": 0.04}, OK),
    "unavailable-http": ({"http_5xx": 0.02}, OK | {"availability": "breached"}),
    "slow-payments": ({"payments_slow": 0.08}, OK | {"payment_latency_p95": "breached"}),
    "slow-http-payments": ({"http_payments_slow": 0.08}, OK | {"payment_latency_p95": "breached"}),
    "corrupted-ledger": ({"mismatches": 1.0}, OK | {"ledger_integrity": "breached"}),
    "dead-letters": ({"dead_lettered": 0.1}, OK | {"error_rate": "breached"}),
    "neighbour-away": ({"unavailable": 0.1}, OK | {"error_rate": "breached"}),
    "quiet-night": (
        {"http_ok": 0.05, "http_5xx": 0.05, "payments_fast": 0.01, "payments_slow": 0.01, "applied": 0.01, "dead_lettered": 0.05,
         "refused": 0.0},
        OK | dict.fromkeys(("availability", "payment_latency_p95", "error_rate"), "unknown"),
    ),
    "never-verified": ({"verifications_every_seconds": math.inf}, OK | {"ledger_integrity": "unknown"}),
}  # fmt: skip


def samples(
    scenario: str, now: float, minutes: int = MINUTES
) -> Iterator[tuple[str, dict[str, str], list[tuple[float, float]]]]:
    """(metric, labels, points) as the roles would have been scraped until `now`."""
    rates = HEALTHY | SCENARIOS[scenario][0]
    times = [now - minutes * 60 + step * STEP_SECONDS for step in range(minutes * 60 // STEP_SECONDS + 1)]
    own = {"namespace": scenario}

    def counter(name: str, rate: float, **labels: str) -> tuple[str, dict[str, str], list[tuple[float, float]]]:
        return name, own | labels, [(at, rate * (at - times[0])) for at in times]

    api = {"app_kubernetes_io_component": "api"}
    handlers = {"app_kubernetes_io_component": "handlers"}
    http = "billing_http_requests_total"
    yield counter(http, rates["http_ok"], method="GET", route="/v1/accounts/{account_id}", status="200", **api)
    yield counter(http, rates["http_5xx"], method="GET", route="/v1/accounts/{account_id}", status="503", **api)
    yield counter(http, 5.0, method="GET", route="unmatched", status="500", **api)  # somebody else's paths do not count
    for family, fast, slow, labels in (
        ("billing_command_duration_seconds", rates["payments_fast"], rates["payments_slow"], {"group": "payments"} | handlers),
        ("billing_command_duration_seconds", 0.0, 10.0, {"group": "charges"} | handlers),
        ("billing_http_request_duration_seconds", rates["payments_fast"], rates["http_payments_slow"],
         {"method": "POST", "route": "/v1/payments"} | api),
    ):  # fmt: skip
        for edge, rate in (
            ("0.1", 0.0),
            ("0.5", fast),
            ("1", fast),
            ("3", fast),
            ("10", fast + slow),
            ("+Inf", fast + slow),
        ):
            yield counter(f"{family}_bucket", rate, le=edge, **labels)
        yield counter(f"{family}_count", fast + slow, **labels)
    commands = "billing_commands_total"
    for outcome, code in (("applied", ""), ("dead_lettered", "malformed_command")):
        yield counter(commands, rates[outcome], command="payment.record", outcome=outcome, code=code, **handlers)
    rejected = {"command": "payment.record", "outcome": "rejected"} | handlers
    yield counter(commands, rates["unavailable"], code="tenant_service_unavailable", **rejected)
    yield counter(commands, rates["refused"], code="currency_mismatch", **rejected)
    every = rates["verifications_every_seconds"]
    yield (
        "billing_ledger_integrity_last_run_timestamp_seconds",
        own,
        [(at, math.floor(at / every) * every if every < math.inf else 0.0) for at in times],
    )
    yield "billing_ledger_integrity_mismatches", own, [(at, rates["mismatches"]) for at in times]
    # Other workers do not own the schedules and say 0; the owner's word counts.
    idle = own | {"pod": "worker-2"}
    yield "billing_ledger_integrity_last_run_timestamp_seconds", idle, [(at, 0.0) for at in times]
    yield "billing_ledger_integrity_mismatches", idle, [(at, 0.0) for at in times]


# ---- the queries and the code ----


def test_every_metric_of_a_trigger_is_one_the_code_reports() -> None:
    known = {series for metric in metrics() for series in metric.series}
    for trigger in TRIGGERS.values():
        asked = set(re.findall(r"billing_[a-z0-9_]+", f"{trigger.value} {trigger.samples} {trigger.age_seconds}"))
        assert asked and asked <= known, asked - known


def test_labels_and_edges_are_the_codes() -> None:
    from gateway_shim.edge import UNMATCHED
    from gateway_shim.routes import ROUTES
    from handlers.metrics import DURATION_EDGES_SECONDS
    from schemas.registry import GROUPS

    latency, errors = TRIGGERS["payment_latency_p95"], TRIGGERS["error_rate"]
    assert ("POST", "/v1/payments") in {(route.method, route.path) for route in ROUTES}
    assert 'route="/v1/payments"' in latency.value
    assert 'group="payments"' in latency.value and "payments" in GROUPS
    assert latency.limit in DURATION_EDGES_SECONDS, "the limit needs a bucket's edge, or it is a guess between two"
    codes = re.findall(r'code=~"([a-z_|]+)"', errors.value)
    assert [set(each.split("|")) for each in codes] == [AWAY]
    assert f'route!="{UNMATCHED}"' in TRIGGERS["availability"].value


def test_a_breach_outweighs_what_cannot_be_judged() -> None:
    def finding(verdict: Any) -> Finding:
        return Finding("x", verdict, None, 0, "", None, None, "")

    assert exit_code([finding("ok"), finding("ok")]) == 0
    assert exit_code([finding("ok"), finding("unknown")]) == 3
    assert exit_code([finding("unknown"), finding("breached")]) == 1


# ---- promtool ----


@needs_prometheus
def test_promtool_agrees_on_every_scenario(tmp_path: Path) -> None:
    """Each trigger's judged query as a recording rule, evaluated by promtool at the end of each scenario."""
    selection = Selection(window=f"{MINUTES}m")
    rules = [
        {
            "record": f"canary:{name}",
            "expr": selection._replace(scope='namespace="SCENARIO"').fill(trigger.query, trigger),
        }
        for name, trigger in TRIGGERS.items()
    ]
    tests = []
    for scenario, (_, expected) in SCENARIOS.items():
        (tmp_path / f"{scenario}.yaml").write_text(
            json.dumps({"groups": [{"name": "canary", "rules": rules}]}).replace("SCENARIO", scenario)
        )
        checks = [
            {"expr": _verdict_expression(name), "eval_time": f"{MINUTES}m", "exp_samples": _expected(expected[name])}
            for name in TRIGGERS
        ]
        series = [
            {"series": _series(name, labels), "values": " ".join(f"{value:.6g}" for _, value in points)}
            for name, labels, points in samples(scenario, MINUTES * 60)
        ]
        tests.append((scenario, {"interval": f"{STEP_SECONDS}s", "input_series": series, "promql_expr_test": checks}))
    for scenario, test in tests:
        file = tmp_path / f"{scenario}.test.yaml"
        file.write_text(
            json.dumps({"rule_files": [f"{scenario}.yaml"], "evaluation_interval": f"{STEP_SECONDS}s", "tests": [test]})
        )
        result = promtool("test", "rules", file)
        assert result.returncode == 0, f"{scenario}\n{result.stdout}\n{result.stderr}"


@needs_prometheus
def test_promtool_notices_a_wrong_expectation(tmp_path: Path) -> None:
    """The test above can fail: a breached scenario is not taken for a healthy one."""
    trigger = TRIGGERS["availability"]
    query = Selection(scope='namespace="unavailable-http"', window="30m").fill(trigger.query, trigger)
    rules = {"groups": [{"name": "canary", "rules": [{"record": "canary:availability", "expr": query}]}]}
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    series = [
        {"series": _series(name, labels), "values": " ".join(f"{value:.6g}" for _, value in points)}
        for name, labels, points in samples("unavailable-http", MINUTES * 60)
    ]
    check = {
        "expr": _verdict_expression("availability"),
        "eval_time": "30m",
        "exp_samples": [{"labels": "{}", "value": 0}],
    }
    test = {"interval": f"{STEP_SECONDS}s", "input_series": series, "promql_expr_test": [check]}
    (tmp_path / "test.yaml").write_text(
        json.dumps({"rule_files": ["rules.yaml"], "evaluation_interval": f"{STEP_SECONDS}s", "tests": [test]})
    )
    result = promtool("test", "rules", tmp_path / "test.yaml")
    assert result.returncode == 1, result.stdout


def _expected(verdict: str) -> list[dict[str, Any]]:
    """1 where it is breached, 0 where not, nothing where it cannot be judged."""
    return [] if verdict == "unknown" else [{"labels": "{}", "value": int(verdict == "breached")}]


def _verdict_expression(name: str) -> str:
    trigger = TRIGGERS[name]
    sign = "<" if trigger.breached == "below" else ">"
    return f"sum(canary:{name} {sign} bool {trigger.limit})"


def _series(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


# ---- a real Prometheus ----


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's Prometheus over half an hour of each scenario, told apart by namespace."""
    directory = tmp_path_factory.mktemp("prometheus")
    now = time.time()
    lines: dict[str, list[str]] = {}
    for scenario in SCENARIOS:
        for name, labels, points in samples(scenario, now + AHEAD_MINUTES * 60, MINUTES + AHEAD_MINUTES):
            family = lines.setdefault(name, [f"# TYPE {name} unknown"])
            family += [f"{_series(name, labels)} {value:.6f} {at:.3f}" for at, value in points]
    (directory / "data.om").write_text("\n".join(line for family in lines.values() for line in family) + "\n# EOF\n")
    made = promtool("tsdb", "create-blocks-from", "openmetrics", directory / "data.om", directory / "tsdb")
    assert made.returncode == 0, made.stderr
    (directory / "prometheus.yml").write_text("global: {scrape_interval: 15s}\n")
    with prometheus_server(directory) as url:
        yield url


def _check(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.cli", "canary", "check", "--prometheus", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=PROJECT_ROOT)


@needs_prometheus
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_check_against_a_real_prometheus(prometheus: str, scenario: str) -> None:
    expected = SCENARIOS[scenario][1]
    result = _check(prometheus, "--scope", f'namespace="{scenario}"', "--json")
    document = json.loads(result.stdout)
    assert {each["name"]: each["verdict"] for each in document["triggers"]} == expected, result.stdout
    wanted = 1 if "breached" in expected.values() else 3 if "unknown" in expected.values() else 0
    assert result.returncode == wanted
    for each in document["triggers"]:
        assert (each["value"] is None) == (each["verdict"] == "unknown")
        assert bool(each["reason"]) == (each["verdict"] == "unknown")


@needs_prometheus
def test_no_data_is_neither_pass_nor_failure(prometheus: str) -> None:
    result = _check(prometheus, "--scope", 'namespace="nowhere"')
    assert result.returncode == 3
    assert result.stdout.count("no data") == len(TRIGGERS)
    assert "cannot be judged" in result.stderr


@needs_prometheus
def test_only_the_canarys_pods_are_judged(prometheus: str) -> None:
    arguments = ("--scope", 'namespace="healthy"', "--json")
    everything = json.loads(_check(prometheus, *arguments).stdout)["triggers"][0]
    canary = json.loads(_check(prometheus, *arguments, "--api", 'rollouts_pod_template_hash="5d8f"').stdout)[
        "triggers"
    ][0]
    assert (everything["verdict"], canary["verdict"], canary["reason"]) == ("ok", "unknown", "no data")


@needs_prometheus
def test_wrong_labels_are_said_so(prometheus: str) -> None:
    result = _check(prometheus, "--scope", "namespace=")
    assert result.returncode == 2
    assert "refuses a query" in result.stderr


def test_prometheus_away() -> None:
    (port,) = free_ports(1)
    result = _check(f"http://127.0.0.1:{port}")
    assert (result.returncode, result.stdout) == (3, "")
    assert "check --prometheus" in result.stderr


def test_placeholders_leave_no_gap() -> None:
    for trigger in TRIGGERS.values():
        query = Selection().fill(trigger.query, trigger)
        assert "$" not in query
        assert ",," not in query.replace(" ", "")
        assert EVERYTHING in query
    assert set(json.loads((CHART / "canary.json").read_text())["placeholders"]) == {
        "$scope", "$api", "$handlers", "$window", "$minimum",
    }  # fmt: skip
