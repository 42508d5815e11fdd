"""A real Prometheus scrapes a whole mesh, every role a process of its own: rules, dashboards, and the canary's verdict."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import nats
import orjson
import pytest
import yaml

from adapters.postgres.database import lock_key
from schemas import headers
from schemas.subjects import command_subject
from tests.deploy.chart import CHART
from tests.deploy.names import known_series, named_series
from tests.deploy.prometheus_server import needs_prometheus, prometheus_server
from tests.deploy.test_dashboards import QUERIES
from tests.fixtures.servers import TEMPLATE, run_async
from tools.docs.metrics import ENTRIES, imported, metrics
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT

pytestmark = needs_prometheus

TENANT, SLOW = "herat-scraped", "kabul-scraped"
# The chart's own queries, limits and minimum samples; only the window is shorter than a canary's 30 minutes.
WINDOW = "60s"
HTTP_PAYMENTS = 300  # above the 200 that availability and error rate want
WAIT_SECONDS = 40.0
# Three seconds are the limit; the client is told nothing before.
LOCK_SECONDS = 4.0
SLOW_PAYMENTS = 100


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    # Everything is verified every second, as if a day had passed.
    env = {"VERIFY_INTERVAL_SECONDS": "1", "VERIFY_FULL_INTERVAL_SECONDS": "0.5"}
    with Mesh.isolated(stack, template=TEMPLATE, tenants=(TENANT, SLOW), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Scrapes and evaluates every half second, with the labels that the chart's PodMonitor gives."""
    directory = tmp_path_factory.mktemp("prometheus")
    targets = [
        {
            "targets": [process.metrics_url.removeprefix("http://")],
            "labels": {"app_kubernetes_io_component": process.role, "namespace": "mesh"},
        }
        for process in mesh
    ]
    configuration = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(CHART / "rules" / "*.yaml")],
        "scrape_configs": [{"job_name": "billing", "static_configs": targets}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(configuration))
    with prometheus_server(directory) as url, httpx.Client(base_url=url, timeout=10) as client:
        _until(lambda: len(_ask(client, "up == 1")) == len(ENTRIES))
        yield client


@pytest.fixture(scope="module")
def paid(mesh: Mesh, prometheus: httpx.Client) -> None:
    """A first payment of each tenant, so that every counter is there, then a few hundred over HTTP."""
    with httpx.Client(base_url=mesh.http_url, timeout=30) as http, ThreadPoolExecutor(8) as threads:
        accounts = {tenant: _open(http, mesh, tenant) for tenant in (TENANT, SLOW)}
        for tenant, account in accounts.items():
            _pay(http, mesh.token(tenant), account)
        for series in ("billing_http_requests_total", 'billing_command_duration_seconds_count{group="payments"}'):
            _until(lambda series=series: _ask(prometheus, series) != [])  # type: ignore[misc]
        token = mesh.token(TENANT)
        list(threads.map(lambda _: _pay(http, token, accounts[TENANT]), range(HTTP_PAYMENTS)))


def _open(http: httpx.Client, mesh: Mesh, tenant: str) -> str:
    account = str(uuid4())
    body = {"account_id": account, "patient": "Patient/1", "currency": "AFN"}
    opened = http.post("/v1/accounts", json=body, headers={"Authorization": f"Bearer {mesh.token(tenant)}"})
    assert opened.status_code == 201, opened.text
    return account


def _pay(http: httpx.Client, token: str, account: str) -> None:
    body = {"account_id": account, "amount": {"amount_minor": 100, "currency": "AFN"}, "method": "cash"}
    given = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
    answered = http.post("/v1/payments", json=body, headers=given)
    assert answered.status_code in (201, 202), answered.text


def _ask(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def _until(condition: Callable[[], bool]) -> None:
    """Prometheus announces nothing: it is asked again."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.25)


def _firing(client: httpx.Client) -> set[str]:
    return {each["metric"]["alertname"] for each in _ask(client, 'ALERTS{alertstate="firing"}')}


def _verdicts(prometheus: httpx.Client) -> tuple[int, dict[str, str], str]:
    """Exit code, verdict by trigger, and everything that was said, of `billing canary check`."""
    command = [sys.executable, "-m", "tools.cli", "canary", "check", "--prometheus", str(prometheus.base_url)]
    result = subprocess.run(
        [*command, "--scope", 'namespace="mesh"', "--window", WINDOW, "--json"],
        capture_output=True, text=True, check=False, timeout=60, cwd=PROJECT_ROOT,
    )  # fmt: skip
    found = json.loads(result.stdout)["triggers"] if result.stdout else []
    return result.returncode, {each["name"]: each["verdict"] for each in found}, result.stdout + result.stderr


@pytest.mark.usefixtures("paid")
def test_every_role_reports_what_the_table_says(mesh: Mesh, prometheus: httpx.Client) -> None:
    for process in mesh:
        families = {line.split()[2] for line in process.metrics().splitlines() if line.startswith("# TYPE billing_")}
        reached = imported(ENTRIES[process.role])
        listed = {metric.name for metric in metrics() if process.role in metric.roles and metric.module in reached}
        assert listed <= families, f"{process.name} does not report {sorted(listed - families)}"
        known = {metric.name for metric in metrics()} | {series for each in metrics() for series in each.series}
        # `_created` are the client library's own.
        assert {family for family in families if not family.endswith("_created")} <= known, process.name
    scraped = {
        each["metric"]["__name__"] for each in _ask(prometheus, 'count by (__name__) ({__name__=~"billing_.+"})')
    }
    assert {name for name in scraped if not name.endswith("_created")} <= known_series()


@pytest.mark.usefixtures("paid")
def test_rules_are_evaluated_and_silent(prometheus: httpx.Client) -> None:
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    expected = yaml.safe_load((CHART / "rules" / "billing.yaml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in expected)
    _until(lambda: all(rule["health"] == "ok" for rule in _rules(prometheus)))
    assert [rule["lastError"] for rule in rules if "lastError" in rule] == []
    assert _firing(prometheus) == set()


def _rules(prometheus: httpx.Client) -> list[dict[str, Any]]:
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.usefixtures("paid")
def test_panels_show_something(prometheus: httpx.Client) -> None:
    """Those that a few payments move; every query of every panel is answered, if with nothing."""
    shown = set()
    for _, title, query in QUERIES:
        if _ask(prometheus, query.replace("$namespace", "mesh").replace("$__rate_interval", WINDOW)):
            shown |= {title} | named_series(query)
    wanted = {
        "Requests by route", "Availability", "Queue depth", "Commands by outcome", "Payments, stored to answered", "Batch size",
        "Transaction", "Mismatches in the books", "Last verified", "Unsent", "Oldest unsent", "Sent", "Event loop lag",
    }  # fmt: skip
    assert wanted <= shown


@pytest.mark.usefixtures("paid")
def test_a_healthy_release_passes(prometheus: httpx.Client) -> None:
    code, verdicts, said = _verdicts(prometheus)
    assert (code, set(verdicts.values())) == (0, {"ok"}), said


def test_a_slow_payment_path_is_rolled_back(mesh: Mesh, prometheus: httpx.Client, paid: None) -> None:
    """Somebody holds one hospital's lock for longer than a payment may take."""
    run_async(_pay_while_locked(mesh))
    _until(lambda: _verdicts(prometheus)[0] == 1)
    _, verdicts, said = _verdicts(prometheus)
    assert verdicts["payment_latency_p95"] == "breached", said
    assert {name for name, verdict in verdicts.items() if verdict == "breached"} == {"payment_latency_p95"}, said


async def _pay_while_locked(mesh: Mesh) -> None:
    connection = await nats.connect(mesh.nats_url())
    holder = await asyncpg.connect(mesh.dsn("postgres"))
    try:
        account = str(await holder.fetchval("SELECT id FROM account WHERE tenant_id = $1", SLOW))
        inbox = connection.new_inbox()
        outcomes = await connection.subscribe(inbox)
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock($1)", lock_key(SLOW))
            for _ in range(SLOW_PAYMENTS):
                body = {"account_id": account, "amount": {"amount_minor": 100, "currency": "AFN"}, "method": "cash"}
                given = {headers.MESSAGE_ID: str(uuid4()), headers.REPLY_TO: inbox}
                subject = command_subject(SLOW, "payment.record")
                await connection.jetstream().publish(subject, orjson.dumps(body), headers=given)
            await asyncio.sleep(LOCK_SECONDS)  # what is shown is that time passes
        for _ in range(SLOW_PAYMENTS):
            await outcomes.next_msg(timeout=WAIT_SECONDS)
    finally:
        await holder.close()
        await connection.close()


def test_a_corrupted_ledger_row_is_rolled_back_and_alerts(mesh: Mesh, prometheus: httpx.Client, paid: None) -> None:
    """Only a superuser can, and the next verification notices."""
    run_async(_corrupt(mesh))
    _until(lambda: "BillingLedgerMismatch" in _firing(prometheus))
    code, verdicts, said = _verdicts(prometheus)
    assert (code, verdicts["ledger_integrity"]) == (1, "breached"), said
    (found,) = _ask(
        prometheus, 'max by (tenant, check) (billing_ledger_integrity_tenant_mismatches{check="hash_chain"})'
    )
    assert found["metric"]["tenant"] == TENANT


async def _corrupt(mesh: Mesh) -> None:
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    try:
        await connection.execute("SET session_replication_role = replica")  # no trigger may object
        changed = await connection.execute(
            "UPDATE ledger_transfer SET amount_minor = amount_minor + 1 WHERE tenant_id = $1 AND sequence = 2", TENANT
        )
        assert changed == "UPDATE 1"
    finally:
        await connection.close()
