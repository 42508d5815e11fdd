"""What the demo prints: tables of what happened, never logs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from schemas.base import EXPONENTS
from schemas.ledger import TrialBalanceLine
from tools.cli.output import table
from tools.demo.checks import Books, Check
from tools.demo.hospital import Hospital


def amount(minor: int, currency: str) -> str:
    """Minor units as a person reads them: 125000 fils are 1,250.00."""
    digits = EXPONENTS[currency]
    major, rest = divmod(abs(minor), 10**digits)
    text = f"{major:,}" + (f".{rest:0{digits}}" if digits else "")
    return f"-{text}" if minor < 0 else text


def commands_table(hospitals: Sequence[Hospital]) -> Any:
    """Commands by tenant: how many, over which channel, and how they ended."""
    rows = []
    for hospital in hospitals:
        channels = Counter(entry.channel for entry in hospital.diary)
        outcomes = Counter(entry.outcome for entry in hospital.diary)
        refused = ", ".join(
            f"{code} {count}" if count > 1 else code
            for code, count in sorted(outcomes.items())
            if code not in ("applied", "duplicate")
        )
        rows.append(
            (
                hospital.tenant_id,
                channels["nats"],
                channels["http"],
                outcomes["applied"],
                outcomes["duplicate"],
                refused or "-",
            )
        )
    return table(("tenant", "NATS#", "HTTP#", "applied#", "duplicate#", "refused"), rows, title="Commands")


def trial_balance_table(books: Books) -> Any:
    """A tenant's trial balance: balances on their side, totals below."""
    lines = [line for line in books.trial_balance.lines if line.debits_minor or line.credits_minor]
    rows = [(line.code, line.name, *_sides(line)) for line in lines]
    currency = lines[0].currency if lines else "AFN"
    debits = sum(max(0, line.debits_minor - line.credits_minor) for line in lines)
    credits = sum(max(0, line.credits_minor - line.debits_minor) for line in lines)
    rows.append(("", "Total", amount(debits, currency), amount(credits, currency)))
    title = f"Trial balance: {books.tenant_id} ({currency}, {books.transfers} ledger entries)"
    return table(("code", "account", "debit#", "credit#"), rows, title=title)


def _sides(line: TrialBalanceLine) -> tuple[str, str]:
    balance = line.debits_minor - line.credits_minor
    text = amount(abs(balance), line.currency)
    return (text, "") if balance > 0 else ("", text) if balance < 0 else ("", "")


def events_table(all_books: Sequence[Books]) -> Any:
    names = sorted({name for books in all_books for name in books.events})
    rows = [(name, *(books.events.get(name, 0) or "" for books in all_books)) for name in names]
    rows.append(("all", *(sum(books.events.values()) for books in all_books)))
    columns = ("event", *(f"{books.tenant_id}#" for books in all_books))
    return table(columns, rows, title="Events in BILLING_EVENTS")


def checks_panel(checks: Sequence[Check], seconds: float) -> Panel:
    lines = []
    for check in checks:
        line = Text("✔ " if check.holds else "✘ ", style="green" if check.holds else "bold red")
        line.append(check.promise, style="default")
        line.append(f"  {check.evidence}", style="dim")
        lines.append(line)
    kept = all(check.holds for check in checks)
    title = f"every promise kept, {seconds:.0f} s" if kept else "a promise was broken"
    return Panel(Group(*lines), title=title, title_align="left", border_style="green" if kept else "red")


def show(console: Console, hospitals: Sequence[Hospital], all_books: Sequence[Books]) -> None:
    console.print(commands_table(hospitals))
    for books in all_books:
        console.print(trial_balance_table(books))
    console.print(events_table(all_books))


def as_json(hospitals: Sequence[Hospital], all_books: Sequence[Books], checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "commands": {
            hospital.tenant_id: dict(Counter(entry.outcome for entry in hospital.diary)) for hospital in hospitals
        },
        "trial_balances": {books.tenant_id: books.trial_balance.model_dump(mode="json") for books in all_books},
        "events": {books.tenant_id: books.events for books in all_books},
        "checks": [check._asdict() for check in checks],
        "kept": all(check.holds for check in checks),
    }
