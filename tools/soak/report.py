"""What a soak looks like to people: a page, a picture, and the table at the end."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from tools.bench.svg import Line, Panel
from tools.bench.svg import document as drawn
from tools.soak.sampling import ROLES, SERVERS
from tools.soak.verdicts import Verdict

PICTURE = "soak.svg"
COLUMNS = ("", "second fifth#", "last fifth#", "limit", "verdict")

_METHOD = """\
Written by `make soak`. Everything runs on one machine of {cores} cores, the load with it.

## Method

- A mesh as shipped: nats-server (`sync_interval: always`), PostgreSQL (`fsync` on), one process each of `billing handlers`,
  `billing worker` and `billing api`; {tenants} tenants with {accounts} accounts each.
- {rate}
- Open loop: a command leaves when its moment comes, and its time runs from that moment. Of a hundred commands some 84 are
  payments, 5 charges, 5 invoice drafts, 5 invoices issued, 1 a new account; beside them {side:.0f} payments and {side:.0f}
  balances a second over HTTP, with a new token each minute, and as many balances over NATS.
- Every {sample_seconds:g} s, {samples} times: memory (PSS: shared pages counted once), open files, threads of every process;
  PostgreSQL's connections by role, sizes and rows of every relation; NATS connections, subscriptions, streams and consumers;
  the number of metric series of every role.
- Limits compare the run with itself: the last fifth of the samples with the second, the first being warm-up; for latency the
  last third of the windows of {window_seconds:g} s with the first. Medians are compared; of NATS connections, subscriptions
  and consumers the least of the last fifth with the most of the second, of sizes the most with the most.
- Servers' memory is judged where their second fifth begins {settle:g} s or more after the load: until then NATS fills its
  windows of message ids and PostgreSQL its shared buffers.
- At the end every command has to have one answer, one effect and its events, and every tenant's books have to verify.
"""


def rows(verdicts: Iterable[Verdict]) -> list[list[str]]:
    return [
        [each.what, "" if each.early is None else _figure(each.early), _figure(each.late), each.limit, each.state]
        for each in verdicts
    ]


def markdown(document: Mapping[str, Any]) -> str:
    """The page `docs/soak.md`."""
    from tools.soak.run import Plan
    from tools.soak.verdicts import SERVERS_SETTLE_SECONDS

    plan, environment = Plan(**document["plan"]), document["environment"]
    verdicts = [Verdict(**each) for each in document["verdicts"]]
    broken = [each.what for each in verdicts if each.state == "BROKEN"]
    commands = sum(document["sent"].values())
    held = "Every limit holds" if not broken else "**Broken: " + "; ".join(broken) + "**"
    summary = f"{plan.seconds / 60:g} minutes, {commands:,} commands, {document['offered_per_second']:,.0f}/s. {held}."
    given_up = "\n\n**Given up: more commands waited than come in half a minute.**" if document["gave_up"] else ""
    method = _METHOD.format(
        **plan._asdict() | {"tenants": plan.tenants},
        cores=environment["cores"],
        rate=_rate(document),
        side=max(1.0, document["offered_per_second"] * 0.01),
        sample_seconds=plan.sample_seconds,
        window_seconds=max(1.0, plan.sample_seconds),
        samples=len(document["at_seconds"]),
        settle=SERVERS_SETTLE_SECONDS,
    )
    used = ", ".join(f"{name} {value:,.0f}" for name, value in document["cpu_us_per_command"].items())
    packages = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    return (
        "\n\n".join(
            (
                "# Soak",
                summary + given_up,
                f"![Memory, latency, backlog and sizes over time](pictures/{PICTURE})",
                method.strip(),
                "## Verdicts",
                _table(COLUMNS, rows(verdicts)),
                "## Environment",
                f"- {environment['cores']} cores, {environment['machine']}, Linux {environment['kernel']}; load average at the "
                f"start {environment['load_average_at_start']}\n"
                f"- Python {environment['python']}, PostgreSQL {environment['postgresql']}, nats-server "
                f"{environment['nats_server']}\n- {packages}\n- CPU µs per command: {used}",
            )
        )
        + "\n"
    )


def picture(document: Mapping[str, Any]) -> str:
    """Memory, latency, backlog and sizes over the seconds of the load."""
    at, series, commands = document["at_seconds"], document["series"], document["windows"]["commands"]

    def lines(names: Mapping[str, str]) -> list[Line]:
        return [
            Line(label, list(zip(at, series[name], strict=True))) for name, label in names.items() if name in series
        ]

    sizes = {
        "table_mb.outbox": "outbox",
        "table_mb.ledger_account": "ledger_account",
        "table_mb.tenant_book": "tenant_book",
    }
    latencies = [
        Line(which, [(each["at_seconds"], each[which]) for each in commands]) for which in ("p50", "p95", "p99")
    ]
    panels = (
        Panel("Memory of roles, MB", lines({f"pss_mb.{name}": name for name in ROLES})),
        Panel("Memory of servers, MB", lines({f"pss_mb.{name}": name for name in SERVERS})),
        Panel("NATS commands, ms", latencies),
        Panel("Waiting", lines({"commands.outstanding": "commands", "outbox.unsent": "events"})),
        Panel("Sizes, MB", lines(sizes)),
    )
    return drawn([panel for panel in panels if panel.lines and all(line.points for line in panel.lines)])


def write(document: Mapping[str, Any], directory: Path) -> None:
    """`soak.md`, `soak.json` and the picture, in `directory` and its `pictures`, which are made when missing."""
    (directory / "pictures").mkdir(parents=True, exist_ok=True)
    (directory / "soak.json").write_bytes(orjson.dumps(document) + b"\n")
    (directory / "pictures" / PICTURE).write_text(picture(document), encoding="utf-8")
    (directory / "soak.md").write_text(markdown(document), encoding="utf-8")


def _rate(document: Mapping[str, Any]) -> str:
    measured = document["measured"]
    if not measured:
        return f"Offered: {document['offered_per_second']:,.0f} commands/s, as asked for."
    return (
        f"Measured first: {measured['sustained_per_second']:,.0f} commands/s of this work with always as many in flight\n"
        f"  ({measured['prefilled_per_second']:,.0f} payments/s from a pre-filled stream, whose publishing and answering take\n"
        f"  nothing of the cores). Offered: half of the former, {document['offered_per_second']:,.0f} commands/s."
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.2f}"


def _table(columns: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    head = "| " + " | ".join(column.removesuffix("#") for column in columns) + " |"
    rule = "|" + "|".join("---:" if column.endswith("#") else "---" for column in columns) + "|"
    return "\n".join((head, rule, *("| " + " | ".join(row) + " |" for row in body)))
