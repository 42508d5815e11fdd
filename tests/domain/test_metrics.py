"""The table of metrics: complete, named as Prometheus' conventions want it, and bounded in its labels."""

import re

import pytest

from tools.docs.metrics import ENTRIES, LABELS, PER_TENANT, MetricDocument, document, metrics

METRICS = {metric.name: metric for metric in metrics()}


def test_every_metric_has_a_row_a_meaning_and_a_role() -> None:
    rows = re.findall(r"^\| `(billing_\w+)` \|", document(), flags=re.MULTILINE)
    assert rows == sorted(METRICS) and len(rows) > 40
    for metric in METRICS.values():
        assert metric.text, metric.name
        assert metric.roles and set(metric.roles) <= ENTRIES.keys(), metric.name


def test_roles_are_those_that_report() -> None:
    assert METRICS["billing_http_requests_total"].roles == ("api",)
    assert METRICS["billing_commands_total"].roles == ("handlers",)
    assert METRICS["billing_outbox_backlog"].roles == ("worker",)
    assert METRICS["billing_neighbour_requests_total"].roles == ("handlers", "worker")
    assert METRICS["billing_event_loop_lag_seconds"].roles == ("api", "handlers", "worker")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_follow_the_conventions(metric: MetricDocument) -> None:
    """https://prometheus.io/docs/practices/naming/: base units, `_total` for counters only, no type or label in the name."""
    assert re.fullmatch(r"billing(_[a-z0-9]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert not re.search(
        r"_(ms|milliseconds|minutes|hours|days|kb|mb|percent|count|sum|bucket|gauge)(_|$)", metric.name
    )
    assert not {f"by_{label}" for label in metric.labels} & {metric.name}
    if "_duration" in metric.name or "_age" in metric.name or "_lag" in metric.name:
        assert metric.name.endswith("_seconds")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_labels_are_bounded(metric: MetricDocument) -> None:
    """A new label needs a line that says what keeps it small; a tenant is none of the things to count by."""
    assert set(metric.labels) <= LABELS.keys(), "say in tools/docs/metrics.py what bounds it"
    assert ("tenant" in metric.labels) == (metric.name in PER_TENANT)
