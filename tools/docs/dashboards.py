"""charts/billing/dashboards: Grafana dashboards from a table of panels. `$scope` is what the dashboard's variables select."""

import json
from typing import Any, NamedTuple

# The chart's PodMonitor and compose's Prometheus give every series its namespace.
SCOPE = 'namespace=~"$namespace"'
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
SCHEMA_VERSION = 39  # Grafana 10 and later; newer ones migrate it when they load it
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """`queries`: (PromQL, legend). Units are Grafana's: s, reqps, percentunit, short, dateTimeAsIso."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    text: str = ""


def _rate(metric: str, by: str, *, where: str = "", legend: str = "") -> tuple[str, str]:
    matchers = ",".join(part for part in ("$scope", where) if part)
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))", legend or f"{{{{{by}}}}}"


def _quantiles(metric: str, *, by: str = "", where: str = "") -> tuple[tuple[str, str], ...]:
    matchers = ",".join(part for part in ("$scope", where) if part)
    labels = f"{by}, le" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))",
            f"{legend}p{q * 100:.0f}",
        )
        for q in (0.5, 0.95, 0.99)
    )


def _max(metric: str, by: str) -> tuple[str, str]:
    return f"max by ({by}) ({metric}{{$scope}})", " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))


def _share(bad: str, all_: str) -> str:
    return f"(sum(rate({bad}[$__rate_interval])) or vector(0)) / (sum(rate({all_}[$__rate_interval])) > 0)"


_HTTP = "billing_http_requests_total"
_KNOWN = 'billing_http_requests_total{$scope,route!="unmatched"}'
_FAILED = 'billing_http_requests_total{$scope,route!="unmatched",status=~"5.."}'
_COMMANDS = "billing_commands_total"
_DEPTH = "max by (group) (billing_consumer_pending{$scope}) + max by (group) (billing_consumer_ack_pending{$scope})"

DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "http": (
        "Billing: HTTP",
        (
            Panel("Requests by route", "reqps", (_rate(_HTTP, "route"),)),
            Panel("Requests by status", "reqps", (_rate(_HTTP, "status"),)),
            Panel(
                "Availability",
                "percentunit",
                ((f"1 - {_share(_FAILED, _KNOWN)}", "no 5xx"),),
                text="Below 99.5 % a canary is rolled back.",
            ),
            Panel("Latency", "s", _quantiles("billing_http_request_duration_seconds")),
            Panel(
                "Latency of POST /v1/payments",
                "s",
                _quantiles("billing_http_request_duration_seconds", where='method="POST",route="/v1/payments"'),
                text="Ends at 2.5 s, where the shim answers 202; how long a payment takes is on Billing: commands.",
            ),
            Panel("Refused as too many", "reqps", (_rate("billing_http_rate_limited_total", "scope"),)),
            Panel(
                "Rate limits counted by",
                "short",
                (("sum by (store) (billing_http_rate_limit_store{$scope})", "{{store}}"),),
                text="Each process for itself while Redis is away: nobody is refused for want of it.",
            ),
            Panel("Webhooks of gateways", "reqps", (_rate("billing_gateway_webhooks_total", "outcome"),)),
            Panel("In flight", "short", (("sum by (pod) (billing_http_requests_in_flight{$scope})", "{{pod}}"),)),
            Panel("Queries", "reqps", (_rate("billing_queries_total", "name"),)),
            Panel("Query latency", "s", _quantiles("billing_query_duration_seconds")),
            Panel(
                "Queries that left the replica", "reqps", (_rate("billing_query_replica_fallbacks_total", "reason"),)
            ),
        ),
    ),
    "commands": (
        "Billing: commands",
        (
            Panel(
                "Queue depth",
                "short",
                ((_DEPTH, "{{group}}"),),
                text="Waiting and in hand: what the autoscaler divides.",
            ),
            Panel("Oldest command", "s", (_max("billing_consumer_oldest_age_seconds", "group"),)),
            Panel("Delivered before", "short", (_max("billing_consumer_redelivered", "group"),)),
            Panel("Commands by outcome", "reqps", (_rate(_COMMANDS, "outcome"),)),
            Panel(
                "Refused and dead-lettered, by code",
                "reqps",
                (_rate(_COMMANDS, "code", where='outcome=~"rejected|dead_lettered"'),),
            ),
            Panel(
                "Payments, stored to answered",
                "s",
                _quantiles("billing_command_duration_seconds", where='group="payments"'),
            ),
            Panel(
                "Batch size",
                "short",
                _quantiles("billing_command_batch_size", by="group"),
                text="One when idle, hundreds under load: the load sets it.",
            ),
            Panel("Commands of a transaction", "short", _quantiles("billing_command_transaction_size", by="group")),
            Panel(
                "Transaction",
                "s",
                _quantiles("billing_command_transaction_duration_seconds", by="group"),
                text="With its wait for the tenant's lock.",
            ),
            Panel("In flight", "short", (("sum by (group) (billing_commands_in_flight{$scope})", "{{group}}"),)),
            Panel("Given back", "reqps", (_rate("billing_command_retries_total", "reason"),)),
            Panel(
                "Bisected, dead-lettered",
                "reqps",
                (
                    _rate("billing_command_bisections_total", "group", legend="{{group}} bisected"),
                    _rate("billing_dead_letters_total", "group", legend="{{group}} dead-lettered"),
                ),
            ),
            Panel("Event loop lag", "s", (_max("billing_event_loop_lag_seconds", "app_kubernetes_io_component, pod"),)),
        ),
    ),
    "ledger-and-relay": (
        "Billing: ledger and relay",
        (
            Panel(
                "Mismatches in the books",
                "short",
                (("max(billing_ledger_integrity_mismatches{$scope})", "all tenants"),),
                "stat",
            ),
            Panel(
                "Last verified",
                "s",
                (("time() - max(billing_ledger_integrity_last_run_timestamp_seconds{$scope})", "ago"),),
                "stat",
            ),
            Panel(
                "Mismatches by tenant and check",
                "short",
                (_max("billing_ledger_integrity_tenant_mismatches", "tenant, check"),),
            ),
            Panel("Unsent", "short", (("sum by (stream) (billing_outbox_backlog{$scope})", "{{stream}}"),)),
            Panel("Oldest unsent", "s", (_max("billing_outbox_oldest_age_seconds", "stream"),)),
            Panel("Sent", "reqps", (_rate("billing_outbox_published_total", "stream"),)),
            Panel("Sent, in batches or singly", "reqps", (_rate("billing_outbox_published_total", "mode"),)),
            Panel("Relay errors", "reqps", (_rate("billing_outbox_errors_total", "kind"),)),
            Panel(
                "Tenants held, shard groups owned",
                "short",
                (
                    ("sum by (stream) (billing_outbox_parked_tenants{$scope})", "{{stream}} held"),
                    ("sum(billing_outbox_owned_shard_groups{$scope})", "groups owned"),
                ),
            ),
        ),
    ),
    "jobs-and-neighbours": (
        "Billing: jobs and neighbours",
        (
            Panel("Job queues", "short", (_max("billing_job_queue_depth", "queue"),)),
            Panel("Oldest job", "s", (_max("billing_job_queue_oldest_age_seconds", "queue"),)),
            Panel(
                "Jobs by outcome",
                "reqps",
                (
                    (
                        "sum by (kind, outcome) (rate(billing_jobs_total{$scope}[$__rate_interval]))",
                        "{{kind}} {{outcome}}",
                    ),
                ),
            ),
            Panel(
                "Statement runs: items",
                "reqps",
                (
                    (
                        "sum by (kind, outcome) (rate(billing_job_items_total{$scope}[$__rate_interval]))",
                        "{{kind}} {{outcome}}",
                    ),
                ),
            ),
            Panel("One statement's PDF", "s", _quantiles("billing_statement_render_seconds")),
            Panel("Jobs, from delivery to end", "s", _quantiles("billing_job_duration_seconds", by="kind")),
            Panel(
                "Schedules: last run",
                "s",
                (("time() - max by (schedule) (billing_schedule_last_run_timestamp_seconds{$scope})", "{{schedule}}"),),
            ),
            Panel(
                "Neighbours by outcome",
                "reqps",
                (
                    (
                        "sum by (neighbour, outcome) (rate(billing_neighbour_requests_total{$scope}[$__rate_interval]))",
                        "{{neighbour}} {{outcome}}",
                    ),
                ),
            ),
            Panel("Neighbours: latency", "s", _quantiles("billing_neighbour_request_duration_seconds", by="neighbour")),
            Panel(
                "Neighbours away",
                "short",
                (_max("billing_neighbour_away", "neighbour"),),
                text="1: nobody waits for the service, because it lately did not answer.",
            ),
            Panel(
                "FHIR: events waiting, resources pushed",
                "short",
                (
                    ("max(billing_fhir_queue_depth{$scope})", "waiting"),
                    _rate("billing_fhir_pushes_total", "outcome"),
                    _rate("billing_fhir_events_total", "outcome", legend="events {{outcome}}"),
                ),
            ),
            Panel(
                "FHIR: behind",
                "s",
                (
                    ("max(billing_fhir_queue_oldest_age_seconds{$scope})", "oldest event"),
                    *_quantiles("billing_fhir_lag_seconds"),
                ),
            ),
            Panel("Neighbours: cache", "reqps", (_rate("billing_neighbour_cache_total", "result"),)),
            Panel(
                "Gateway circuits that are not closed",
                "short",
                (("max by (tenant, adapter) (billing_gateway_circuit_state{$scope}) > 0", "{{tenant}} {{adapter}}"),),
                text="1 half-open: one request tries. 2 open: not asked.",
            ),
            Panel(
                "Gateways by outcome",
                "reqps",
                (
                    (
                        "sum by (adapter, outcome) (rate(billing_gateway_requests_total{$scope}[$__rate_interval]))",
                        "{{adapter}} {{outcome}}",
                    ),
                ),
            ),
            Panel(
                "Charges that are not over",
                "short",
                (("max by (status, fault) (billing_holds{$scope})", "{{status}} {{fault}}"),),
                text="unknown and mismatch are for people.",
            ),
            Panel(
                "Recovery of charges",
                "reqps",
                (
                    _rate("billing_gateway_recovery_looks_total", "outcome", legend="asked: {{outcome}}"),
                    _rate("billing_gateway_jobs_left_total", "code", legend="left to it: {{code}}"),
                    ("sum(rate(billing_holds_expired_total{$scope}[$__rate_interval]))", "expired"),
                ),
            ),
            Panel("Gateways: latency", "s", _quantiles("billing_gateway_request_duration_seconds", by="adapter")),
        ),
    ),
}


def documents() -> dict[str, str]:
    """By file name; the same input gives the same bytes."""
    return {f"{name}.json": _json(name, title, panels) for name, (title, panels) in DASHBOARDS.items()}


def _json(name: str, title: str, panels: tuple[Panel, ...]) -> str:
    board = {
        "uid": f"billing-{name}",
        "title": title,
        "tags": ["billing"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [{"type": "dashboards", "title": "Billing", "tags": ["billing"], "asDropdown": True}],
        "templating": {"list": [_datasource(), _namespace()]},
        "panels": [_panel(index, panel) for index, panel in enumerate(panels)],
    }
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _namespace() -> dict[str, Any]:
    return {
        "name": "namespace",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(billing_event_loop_lag_seconds, namespace)", "refId": "namespace"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, COLUMNS)
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "expr": expression.replace("$scope", SCOPE),
            "legendFormat": legend,
        }
        for number, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "id": index + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }
