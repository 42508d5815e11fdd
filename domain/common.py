"""Checks and pieces that several aggregates share."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from domain.calendar import fiscal_year, tenant_period
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
