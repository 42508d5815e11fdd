"""The page's sections beside the headline: what is there is shown, a quick run has fewer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tools.bench import limits, pictures

Table = Callable[[Sequence[str], list[list[str]]], str]

# As CPU is shown; what the consumer is called depends on who measured it.
_COMPONENTS = ("client", "api", "nats", "handlers", "postgres", "worker", "total")


class Target(NamedTuple):
    """`figure` of a document, None where it was not measured; `why` is asked where it misses."""

    name: str
    target: float
    at_least: bool
    figure: Callable[[Mapping[str, Any]], float | None]
    why: Callable[[Mapping[str, Any]], str]

    def met(self, measured: float) -> bool:
        return measured >= self.target if self.at_least else measured <= self.target


def _rate(document: Mapping[str, Any]) -> float:
    return float(document["end_to_end"]["payments_per_second"])


def _of_tenants(number: int) -> Callable[[Mapping[str, Any]], float | None]:
    def figure(document: Mapping[str, Any]) -> float | None:
        found = {each["tenants"]: each["payments_per_second"] for each in document.get("tenants", [])}
        return found.get(number)

    return figure


def _hot(document: Mapping[str, Any]) -> float | None:
    return document["hot_account"]["payments_per_second"] / _rate(document) if "hot_account" in document else None


def _of_ceiling(document: Mapping[str, Any]) -> float | None:
    return _rate(document) / document["ceiling_per_second"] if "ceiling_per_second" in document else None


def _largest(document: Mapping[str, Any]) -> float:
    used = document["cost"]["memory_mb"].items()
    return max(float(megabytes) for name, megabytes in used if name not in ("nats", "postgres"))


def _shim_more(document: Mapping[str, Any]) -> float:
    return float(document["lone_command_http_ms"]["p50"] - document["lone_command_ms"]["p50"])


TARGETS = (
    Target("end to end, 10 tenants, payments/s", 5_000, True, _rate, limits.throughput),
    Target("against the ordinary way", 10, True, lambda found: found["end_to_end"]["ratio"], limits.throughput),
    Target("end to end, 100 tenants, payments/s", 4_000, True, _of_tenants(100), limits.tenants(100)),
    Target("end to end, 1,000 tenants, payments/s", 2_000, True, _of_tenants(1_000), limits.tenants(1_000)),
    Target("one account of each tenant against a hundred", 0.9, True, _hot, limits.throughput),
    Target("of the database-only ceiling", 0.5, True, _of_ceiling, limits.ceiling),
    Target("relay, events/s", 15_000, True, lambda found: found.get("relay_events_per_second"), limits.relay),
    Target("lone command p50, ms", 10, False, lambda found: found["lone_command_ms"]["p50"], limits.lone),
    Target("lone command p99, ms", 30, False, lambda found: found["lone_command_ms"]["p99"], limits.lone),
    Target(
        "p99 at half of the maximum rate, ms",
        100,
        False,
        lambda found: found.get("half_rate", {}).get("p99"),
        limits.half_rate,
    ),
    Target("shim over direct NATS, p50, ms more", 1.5, False, _shim_more, limits.shim),
    Target(
        "replay of applied commands against their first application",
        3,
        True,
        lambda found: found.get("replay", {}).get("ratio"),
        limits.replay,
    ),
    Target("memory of the largest role, MB", 250, False, _largest, limits.memory),
)


def sections(document: dict[str, Any], table: Table) -> list[str]:
    """Markdown, one part each."""
    parts = ["## Against the targets", table(("", "measured#", "target#", ""), _against_targets(document))]
    parts += ["## What limits it", _limits(document)]
    parts += ["## What a payment costs", _cost(document["cost"])]
    if rows := _conditions(document):
        parts += ["## Other conditions", table(("", "payments/s#", "CPU, µs#", "commands a transaction#"), rows)]
    if rows := _parts(document):
        parts += ["## The parts by themselves", table(("", "per second#"), rows)]
    if shim := document.get("shim"):
        rates = ("clients", "NATS, commands/s#", "HTTP, requests/s#", "ratio#", "NATS p50 ms#", "HTTP p50 ms#")
        parts += ["## The HTTP shim", _CLOSED_LOOP, table(rates, _shim(shim))]
        used = ("clients", "", *(f"{_LABELS.get(name, name)}#" for name in _COMPONENTS))
        parts += ["CPU, µs per command or request:", table(used, _shim_cpu(shim))]
    if rows := _latencies(document):
        columns = ("", "offered/s#", "answered/s#", "p50 ms#", "p95 ms#", "p99 ms#")
        parts += ["## Latency under load", _OPEN_LOOP, table(columns, rows)]
    parts += _pictures(document)
    if rows := _offline(document):
        parts += ["## Workers and replay", table(("", "rate#", "beside it"), rows)]
    return parts


_LABELS = {"api": "shim", "nats": "nats-server", "postgres": "PostgreSQL"}
_OPEN_LOOP = (
    "Commands leave when they are due, whether or not those before were answered, and their time runs from when they "
    "were due. The clients are a process of their own, which shares the cores."
)
_CLOSED_LOOP = (
    "So many clients, each with one command under way, ask one shim process, or NATS directly; by turns, medians. "
    "The client is the same for both; over HTTP it keeps its connections and costs little, as Kong does "
    "(`tools/bench/http_client.py`). The more commands are under way, the larger the handlers' batches. A single "
    "client that asks without a pause meets what the shim still has to do for its last request; the lone command of "
    "the target, asked by turns with one over NATS, does not."
)


def _against_targets(document: dict[str, Any]) -> list[list[str]]:
    rows = []
    for each in TARGETS:
        if (measured := each.figure(document)) is not None:
            sign, verdict = "≥" if each.at_least else "≤", "met" if each.met(measured) else "**missed**"
            rows.append([each.name, _number(measured), f"{sign} {_number(each.target)}", verdict])
    return rows


def _limits(document: dict[str, Any]) -> str:
    """Of the headline, and of each target that is missed, with the figures that explain it."""
    found: dict[str, list[str]] = {limits.throughput(document): []}
    for each in TARGETS:
        if (measured := each.figure(document)) is not None and not each.met(measured):
            found.setdefault(each.why(document), []).append(f"{each.name}: {_number(measured)}")
    return "\n".join(f"- **{'; '.join(names) or 'end to end'}.** {why}" for why, names in found.items())


def _cost(cost: dict[str, Any]) -> str:
    memory = ", ".join(f"{name} {used:,.0f} MB" for name, used in cost["memory_mb"].items())
    return (
        f"{cost['wal_bytes_per_payment']:,} bytes of write-ahead log; {cost['round_trips_per_payment']} round trips "
        f"to PostgreSQL (four a transaction; {cost['batch_size']:,.0f} messages a fetch, "
        f"{cost['transaction_size']:,.0f} commands a transaction). CPU is in the table above. Memory at the end: "
        f"{memory}; over half an hour of load: `make soak`."
    )


def _conditions(document: dict[str, Any]) -> list[list[str]]:
    named = (("one account of each tenant", "hot_account"), ("nine of ten to one account", "hot_tenant"))
    found = [
        (label, document[key]) for label, key in (*named, ("without the relay", "handlers_alone")) if key in document
    ]
    found += [
        (f"{each['tenants']:,} tenant{'s' * (each['tenants'] > 1)}", each) for each in document.get("tenants", [])
    ]
    headline = {"processes": 1, "payments_per_second": _rate(document)}
    headline |= {"cpu_us_per_payment": document["cpu_us_per_payment"]["mesh"]}
    headline |= {"transaction_size": document["cost"]["transaction_size"]}
    for role, measured in document.get("replicas", {}).items():
        runs = [headline, *measured]
        found += [(f"{role}: {each['processes']} process{'es' * (each['processes'] > 1)}", each) for each in runs]
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
        [way.upper(), *(f"{each[name]:,.0f}" for name in ("offered_per_second", "per_second")), *_cuts(each)]
        for way, loads in document.get("latency", {}).items()
        for each in loads
    ]


def _cuts(figures: dict[str, Any]) -> list[str]:
    return [f"{figures[name]:,.1f}" for name in ("p50", "p95", "p99")]


def _shim(measured: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            str(each["clients"]),
            *(f"{each[way]['per_second']:,.0f}" for way in ("nats", "http")),
            f"{each['ratio']:.2f}",
            *(f"{each[way]['p50']:,.1f}" for way in ("nats", "http")),
        ]
        for each in measured
    ]


def _shim_cpu(measured: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [str(each["clients"]), way.upper(), *(f"{each[way]['cpu_us'].get(name, 0):,.0f}" for name in _COMPONENTS)]
        for each in measured
        for way in ("nats", "http")
    ]


def _offline(document: dict[str, Any]) -> list[list[str]]:
    """What `tools/bench/offline.py` adds."""
    rows = []
    if statements := document.get("statements"):
        memory = f"{statements['rss_start_mib']} MiB at first, {statements['rss_peak_mib']} MiB at most"
        rows.append(
            [
                f"statements of {statements['rows']} rows rendered by one core, PDF",
                f"{statements['documents_per_second']:,.1f}/s",
                f"{statements['documents']:,} documents of {statements['median_kib']} KiB; memory {memory}",
            ]
        )
    if export := document.get("gl_export"):
        formats = " and ".join(each.upper() if each == "csv" else each.capitalize() for each in export["formats"])
        memory = f"{export['memory_before_mib']} MiB before, {export['memory_peak_mib']} MiB at most"
        rows.append(
            [
                f"GL export of {export['entries']:,} entries, {export['form']}, as {formats}",
                f"{export['entries_per_second']:,} entries/s",
                f"{export['seconds']:,.1f} s, {export['bytes'] / 1e6:,.0f} MB of files; the worker's memory {memory}",
            ]
        )
    if replay := document.get("replay"):
        same = "ledgers unchanged" if replay["same_ledgers"] else "**ledgers changed**"
        rows.append(
            [
                f"replay of {replay['payments']:,} payments that were applied",
                f"{replay['replay_per_second']:,}/s",
                f"first application {replay['first_per_second']:,}/s: {replay['ratio']} times as fast; {same}",
            ]
        )
    return rows


def _pictures(document: dict[str, Any]) -> list[str]:
    return [f"![{chart.title}](pictures/{name})" for name, chart in pictures.charts(document).items()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")
