"""The page's sections beside the headline: what is there is shown, a quick run has fewer."""

from collections.abc import Callable, Sequence
from typing import Any

from tools.bench import pictures

Table = Callable[[Sequence[str], list[list[str]]], str]

_TARGETS = (
    ("end to end, 10 tenants, payments/s", 5_000.0, True),
    ("against the ordinary way", 10.0, True),
    ("end to end, 100 tenants, payments/s", 4_000.0, True),
    ("end to end, 1,000 tenants, payments/s", 2_000.0, True),
    ("one account of each tenant against a hundred", 0.9, True),
    ("of the database-only ceiling", 0.5, True),
    ("relay, events/s", 15_000.0, True),
    ("lone command p50, ms", 10.0, False),
    ("lone command p99, ms", 30.0, False),
    ("shim over direct NATS, p50, ms more", 1.5, False),
    ("memory of the largest role, MB", 250.0, False),
)


def sections(document: dict[str, Any], table: Table) -> list[str]:
    """Markdown, one part each."""
    parts = ["## Against the targets", table(("", "measured#", "target#", ""), _against_targets(document))]
    parts += ["## What a payment costs", _cost(document["cost"])]
    if rows := _conditions(document):
        parts += ["## Other conditions", table(("", "payments/s#", "CPU, µs#", "commands a transaction#"), rows)]
    if rows := _parts(document):
        parts += ["## The parts by themselves", table(("", "per second#"), rows)]
    if rows := _latencies(document):
        columns = ("", "offered/s#", "p50 ms#", "p95 ms#", "p99 ms#")
        parts += ["## Latency under load", _OPEN_LOOP, table(columns, rows)]
    return [*parts, *_pictures(document)]


_OPEN_LOOP = (
    "Commands leave when they are due, whether or not those before were answered, and their time runs from when they were due. "
    "The client shares the cores."
)


def figures(document: dict[str, Any]) -> list[float | None]:
    """What `_TARGETS` asks for, in its order; None where it was not measured."""
    rate = document["end_to_end"]["payments_per_second"]
    by_tenants = {each["tenants"]: each["payments_per_second"] for each in document.get("tenants", [])}
    hot, ceiling = document.get("hot_account"), document.get("ceiling_per_second")
    lone, over_http = document["lone_command_ms"], document["lone_command_http_ms"]
    roles = {name: used for name, used in document["cost"]["memory_mb"].items() if name not in ("nats", "postgres")}
    return [
        rate,
        document["end_to_end"]["ratio"],
        by_tenants.get(100),
        by_tenants.get(1_000),
        hot["payments_per_second"] / rate if hot else None,
        rate / ceiling if ceiling else None,
        document.get("relay_events_per_second"),
        lone["p50"],
        lone["p99"],
        over_http["p50"] - lone["p50"],
        max(roles.values()),
    ]


def _against_targets(document: dict[str, Any]) -> list[list[str]]:
    rows = []
    for (name, target, at_least), measured in zip(_TARGETS, figures(document), strict=True):
        if measured is not None:
            met = measured >= target if at_least else measured <= target
            sign = "≥" if at_least else "≤"
            rows.append([name, _number(measured), f"{sign} {_number(target)}", "met" if met else "**missed**"])
    return rows


def _cost(cost: dict[str, Any]) -> str:
    memory = ", ".join(f"{name} {used:,.0f} MB" for name, used in cost["memory_mb"].items())
    return (
        f"{cost['wal_bytes_per_payment']:,} bytes of write-ahead log; {cost['round_trips_per_payment']} round trips to "
        f"PostgreSQL (four a transaction; {cost['batch_size']:,.0f} messages a fetch, {cost['transaction_size']:,.0f} commands "
        f"a transaction). CPU is in the table above. Memory at the end: {memory}."
    )


def _conditions(document: dict[str, Any]) -> list[list[str]]:
    named = (("one account of each tenant", "hot_account"), ("nine of ten to one account", "hot_tenant"))
    found = [
        (label, document[key]) for label, key in (*named, ("without the relay", "handlers_alone")) if key in document
    ]
    found += [(f"{each['tenants']:,} tenants", each) for each in document.get("tenants", [])]
    found += [(f"at most {each['limit']:,} of a fetch", each) for each in document.get("batch_limits", [])]
    return [_condition(label, measured) for label, measured in found]


def _condition(label: str, measured: dict[str, Any]) -> list[str]:
    used = measured["cpu_us_per_payment"]
    total = used.get("total", sum(used.values()))
    size = measured.get("transaction_size")
    return [label, f"{measured['payments_per_second']:,.0f}", f"{total:,.0f}", "" if size is None else f"{size:,.1f}"]


def _parts(document: dict[str, Any]) -> list[list[str]]:
    jetstream = document.get("raw_jetstream", {})
    found = (
        ("database only: the same transactions without NATS, payments", document.get("ceiling_per_second")),
        ("`pgbench`, one transaction of single rows a payment, 8 clients", document.get("pgbench_per_second")),
        ("nats-py: fetched 500 at a time and acknowledged, messages", jetstream.get("fetch_per_second")),
        ("nats-py: published asynchronously, `sync_interval: always`, messages", jetstream.get("publish_per_second")),
        ("the relay, from a full outbox, events", document.get("relay_events_per_second")),
    )
    return [[label, f"{rate:,.0f}"] for label, rate in found if rate is not None]


def _latencies(document: dict[str, Any]) -> list[list[str]]:
    return [
        [way.upper(), f"{each['offered_per_second']:,}", *(f"{each[p]:,.1f}" for p in ("p50", "p95", "p99"))]
        for way, loads in document.get("latency", {}).items()
        for each in loads
    ]


def _pictures(document: dict[str, Any]) -> list[str]:
    return [f"![{chart.title}](pictures/{name})" for name, chart in pictures.charts(document).items()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")
