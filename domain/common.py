"""Checks and pieces that several aggregates share."""

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any, cast

from domain.calendar import fiscal_year, period_bounds, tenant_period
from domain.chart import RECEIVABLE, TEMPLATE
from domain.decision import Command, LedgerKey, Rejected, rejected
from domain.entities import ChartEntry, DocumentSeries, Invoice, Period
from domain.lookups import CHART, PERIOD, SERIES, Lookup
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.tenant import TenantProfile


def receivable(invoice: Invoice) -> LedgerKey:
    return LedgerKey(RECEIVABLE, invoice.currency, invoice.account_id, invoice.party_id)


def needs_period(command: Command[Any], day: date) -> tuple[Lookup, str]:
    return PERIOD, tenant_period(command.tenant, day)


def period_refusal(snapshot: Snapshot, command: Command[Any], day: date) -> Rejected | None:
    """Refuses a posting effective in a closed period; a period nobody touched is open."""
    return closed(snapshot.get(Period, tenant_period(command.tenant, day)))


# Further periods that a fact may have to go to: nobody closes more than a few months ahead.
_PERIODS_AHEAD = 3


def needs_open_day(command: Command[Any], day: date | None = None) -> Needs:
    return [needs_period(command, each) for each in _days(command.tenant, day or command.today)]


def open_day(snapshot: Snapshot, command: Command[Any], day: date | None = None) -> date | Rejected:
    """When to post what has happened and cannot be refused: that day, or the first day of the next period that is open
    (DOMAIN rule 10). Refused only where several periods ahead are closed."""
    days = _days(command.tenant, day or command.today)
    refusals = [period_refusal(snapshot, command, each) for each in days]
    return next((each for each, refusal in zip(days, refusals, strict=True) if refusal is None), None) or cast(
        "Rejected", refusals[0]
    )


def _days(tenant: TenantProfile, day: date) -> list[date]:
    """The day itself, and the first of each period after its own."""
    days = [day]
    for _ in range(_PERIODS_AHEAD):
        _, last = period_bounds(tenant.fiscal_calendar, tenant_period(tenant, days[-1]))
        days.append(last + timedelta(days=1))
    return days


def closed(period: Period | None) -> Rejected | None:
    if period is None or period.status == "open":
        return None
    return rejected(Code.PERIOD_CLOSED, period=period.period)


def needs_chart(codes: Iterable[str]) -> Needs:
    """Codes of the template need no look-up: every tenant has them."""
    return [(CHART, code) for code in set(codes) if code not in TEMPLATE]


def unknown_ledger_code(snapshot: Snapshot, codes: Iterable[str], *, revenue: bool = False) -> str | None:
    """The first code that is not in the tenant's chart, or, with `revenue`, is not a revenue account."""
    for code in codes:
        entry = TEMPLATE.get(code) or snapshot.get(ChartEntry, code)
        if entry is None or (revenue and entry.kind != "revenue"):
            return code
    return None


def needs_series(tenant: TenantProfile, series: str, day: date) -> tuple[Lookup, tuple[str, int]]:
    return SERIES, (series, fiscal_year(tenant.fiscal_calendar, day))


def next_number(stored: DocumentSeries | None, series: str, year: int) -> tuple[DocumentSeries, str]:
    """Takes the next number of a series (DOMAIN rule 11): `INV-2026-000001`. Gapless, since the tenant has one writer."""
    number = (stored.last_number if stored else 0) + 1
    return DocumentSeries(series, year, number), f"{series}-{year}-{number:06}"


def restated(invoice: Invoice) -> Invoice:
    """The status that follows from the amounts: settled once nothing is open (DOMAIN rule 5)."""
    return invoice._replace(status="settled" if invoice.open_minor <= 0 else "issued")
