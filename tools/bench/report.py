"""What a benchmark's document looks like to people."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from tools.bench import pictures
from tools.bench.findings import sections
from tools.cli.output import note, print_table

_QUIET_LOAD = 0.5
_PROCESSES = ("consumer", "postgres", "nats", "worker", "total")

_METHOD = """\
Written by `make bench`; figures are of the machine below and move with what else it does. Read the ratios, not the rates.

## Method

{busy}- Every run has a fresh database (a copy of a migrated template with {accounts} accounts per tenant), a fresh nats-server
  (`sync_interval: always`) and PostgreSQL with `fsync` and `synchronous_commit` on. All of it, the clients included, shares
  {cores} cores.
- {payments:,} `payment.record` commands of {tenants} tenants, neighbours of different tenants, are published into
  `BILLING_COMMANDS` while its durable is paused. The consumer process and `billing worker` have handled {warm_up:,} others
  before, so pools, plans and caches are warm; then the durable is resumed and the clock runs. The ordinary way, which takes
  ten times as long, gets a fifth of the payments.
- **Headline:** to the last payment acknowledged, by nats-server's clock; an ack follows the commit. Also given: to the last
  event stored in `BILLING_EVENTS`, which is the relay's part.
- **The ordinary way:** FastStream, one message at a time, an ORM session and a transaction per message, on the same tables
  and row-level security, with the same tenant lock, inbox, decoding, admission, pure engine, outbox, relay, pool size and
  uvloop (`tools/bench/ordinary.py`). One process each. Its form here: {ordinary}{how}.
- Runs alternate between the two; figures are medians of {repeat}. After every run the payments, ledger rows, inbox and
  events are counted and each tenant's books are verified; a run that fails this ends the benchmark.
- A lone command is published when the one before it was answered; its time ends with the outcome on its reply inbox. Over
  HTTP and over NATS by turns, by one client process that keeps its connections.
- Rates for other numbers of tenants, and of the database alone, are medians of as many runs as that; a thousand tenants have
  twenty payments each waiting.
- CPU is user and system time of the process and its children, from the first payment to the last event.
"""


def print_summary(document: dict[str, Any]) -> None:
    """Tables on stdout."""
    for title, columns, rows in _tables(document):
        print_table(columns, rows, title=title)


def write_report(document: dict[str, Any], directory: Path) -> None:
    """`benchmarks.json` and `benchmarks.md` in `directory`, which is made when missing."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "benchmarks.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    pictures.write(document, directory / "pictures")
    (directory / "benchmarks.md").write_text(markdown(document), encoding="utf-8")
    note(f"wrote {directory / 'benchmarks.md'} and {directory / 'benchmarks.json'}")


def markdown(document: dict[str, Any]) -> str:
    """The page `docs/benchmarks.md`."""
    environment, work = document["environment"], document["workload"]
    how = " (the fastest of those below, in short runs)" if document["ordinary_variants"] else ""
    method = _METHOD.format(
        **work, cores=environment["cores"], ordinary=environment["ordinary_variant"], how=how, busy=_busy(environment)
    )
    parts = ["# Benchmarks", method.strip(), "## Figures"]
    parts += [f"**{title}**\n\n{_markdown_table(columns, rows)}" for title, columns, rows in _tables(document)]
    parts += sections(document, _markdown_table)
    parts += ["## Environment", _environment(environment)]
    return "\n\n".join(parts) + "\n"


def _tables(document: dict[str, Any]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    work = document["workload"]
    title = f"{work['payments']:,} payments of {work['tenants']} tenants, payments/s"
    tables: list[tuple[str, Sequence[str], list[list[str]]]] = [
        (title, ("", "median#", "least#", "most#", "to the last event#"), _rates(document["end_to_end"])),
        ("A lone command, ms", ("", "p50#", "p99#"), _latencies(document)),
        ("CPU, µs per payment", ("", *(f"{name}#" for name in _PROCESSES)), _cpu(document["cpu_us_per_payment"])),
    ]
    if tried := document["ordinary_variants"]:
        rows = [[each["variant"], f"{each['payments_per_second']:,.0f}"] for each in tried]
        tables.append(("Forms of the ordinary way, short runs, payments/s", ("", "payments/s#"), rows))
    return tables


def _rates(figures: dict[str, Any]) -> list[list[str]]:
    rows = []
    for label, key in (("mesh", "payments_per_second"), ("ordinary", "ordinary_per_second")):
        rates = (figures[key], *figures["spread"][key], figures["to_last_event"][key])
        rows.append([label, *(f"{rate:,.0f}" for rate in rates)])
    events = figures["to_last_event"]
    ratio = events["payments_per_second"] / events["ordinary_per_second"]
    return [*rows, ["ratio", f"{figures['ratio']:.1f}", "", "", f"{ratio:.1f}"]]


def _latencies(document: dict[str, Any]) -> list[list[str]]:
    found = (
        ("mesh, NATS", "lone_command_ms"),
        ("mesh, HTTP", "lone_command_http_ms"),
        ("ordinary, NATS", "ordinary_lone_command_ms"),
    )
    return [[label, f"{document[key]['p50']:.1f}", f"{document[key]['p99']:.1f}"] for label, key in found]


def _cpu(used: dict[str, dict[str, float]]) -> list[list[str]]:
    return [[label, *(f"{used[label][name]:,.0f}" for name in _PROCESSES)] for label in ("mesh", "ordinary")]


def _busy(environment: dict[str, Any]) -> str:
    """A warning where something else ran: half a core is enough to move every figure."""
    if environment["load_average_at_start"] <= _QUIET_LOAD:
        return ""
    return (
        f"- **The machine was busy: load average {environment['load_average_at_start']} at the start. Rates are too low, "
        "latencies too high, and CPU times too large by what caches and cores were shared.**\n"
    )


def _environment(environment: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    return "\n".join(
        (
            f"- {environment['cores']} cores, {environment['machine']}, Linux {environment['kernel']}; load average at the "
            f"start {environment['load_average_at_start']}",
            f"- Python {environment['python']}, PostgreSQL {environment['postgresql']}, nats-server "
            f"{environment['nats_server']}",
            f"- {packages}",
        )
    )


def _markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "| " + " | ".join(column.removesuffix("#") for column in columns) + " |"
    rule = "|" + "|".join("---:" if column.endswith("#") else "---" for column in columns) + "|"
    return "\n".join((head, rule, *("| " + " | ".join(row) + " |" for row in rows)))
