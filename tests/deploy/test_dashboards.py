"""The dashboards: every metric they name exists, with the labels they sort by, and every query parses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import CHART
from tests.deploy.names import known_series, named_series
from tests.deploy.prometheus_server import needs_prometheus, promtool
from tools.docs.metrics import metrics

BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")
}
QUERIES = [
    (board, panel["title"], target["expr"])
    for board, found in BOARDS.items()
    for panel in found["panels"]
    for target in panel["targets"]
]
# Labels that a scrape adds to what the process says.
SCRAPED = {"pod", "namespace", "app_kubernetes_io_component", "le"}


@pytest.mark.parametrize(("board", "title", "query"), QUERIES)
def test_a_panel_names_metrics_and_labels_that_exist(board: str, title: str, query: str) -> None:
    named = named_series(query)
    assert named and named <= known_series(), f"{board}, {title}"
    labels = {label for metric in metrics() if set(metric.series) & named for label in metric.labels}
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    assert grouped <= labels | SCRAPED, f"{board}, {title}"
    assert "$scope" not in query and 'namespace=~"$namespace"' in query


@needs_prometheus
def test_every_query_parses(tmp_path: Path) -> None:
    filled = [query.replace("$namespace", "billing").replace("$__rate_interval", "1m") for _, _, query in QUERIES]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    result = promtool("check", "rules", tmp_path / "rules.yaml")
    assert result.returncode == 0, result.stderr
    assert f"{len(QUERIES)} rules found" in result.stdout


def test_nearly_every_metric_is_shown_somewhere() -> None:
    """Those that are not: what happens once a day, and what an alert alone is for."""
    shown = {name for _, _, query in QUERIES for name in named_series(query)}
    hidden = {metric.name for metric in metrics() if not shown & set(metric.series)}
    assert hidden <= {
        "billing_audit_kept_total",
        "billing_gateway_circuit_reports_total",
        "billing_gateway_requests_in_flight",
        "billing_http_rate_limit_store_lost_total",
        "billing_inbox_rows_removed_total",
        "billing_invoices_marked_overdue_total",
        "billing_jobs_in_flight",
        "billing_neighbour_cache_entries",
        "billing_neighbour_requests_in_flight",
        "billing_schedule_runs_total",
        "billing_schedules_owned",
        "billing_secret_reads_total",
        "billing_secrets_stale",
        "billing_tls_reloads_total",
    }, "show it in tools/docs/dashboards.py, or say here why not"


@pytest.mark.parametrize("board", BOARDS)
def test_grafana_finds_what_it_needs(board: str) -> None:
    found = BOARDS[board]
    assert found["uid"] == f"billing-{board}" and len(found["uid"]) <= 40  # Grafana's limit
    assert [each["name"] for each in found["templating"]["list"]] == ["datasource", "namespace"]
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"]) > 5
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found["panels"]]
    assert len(set(places)) == len(places) and all(x in (0, 8, 16) for x, _ in places)
    for panel in found["panels"]:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert all(target["legendFormat"] for target in panel["targets"])


def test_the_runbook_names_dashboards_that_exist() -> None:
    runbook = (CHART.parents[1] / "docs" / "runbook.md").read_text(encoding="utf-8")
    named = set(re.findall(r'"(Billing: [^"]+)"', runbook.replace("\n", " ")))
    assert named == {board["title"] for board in BOARDS.values()}
