"""Business dates, accounting periods and fiscal years in the tenant's own calendar.

A period is a month: `2026-11` (Gregorian) or `1405-09` (Solar Hijri, whose year begins on 1 Hamal). Dates are stored Gregorian.
"""

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from persiantools.jdatetime import JalaliDate

from schemas.tenant import FiscalCalendar, TenantProfile


def business_date(tenant: TenantProfile, moment: datetime) -> date:
    """The date on the wall calendar of the tenant at that moment."""
    return moment.astimezone(ZoneInfo(tenant.time_zone)).date()


@lru_cache(maxsize=4_096)
def period_key(calendar: FiscalCalendar, day: date) -> str:
    if calendar == "gregorian":
        return f"{day.year:04}-{day.month:02}"
    jalali = _jalali(day)
    return f"{jalali.year:04}-{jalali.month:02}"


@lru_cache(maxsize=4_096)
def period_bounds(calendar: FiscalCalendar, period: str) -> tuple[date, date]:
    """First and last day of a period, Gregorian and inclusive. Raises ValueError where the calendar has no such month."""
    year, month = (int(part) for part in period.split("-"))
    following = (year, month + 1) if month < 12 else (year + 1, 1)
    if calendar == "gregorian":
        return date(year, month, 1), date(*following, 1) - timedelta(days=1)
    starts_on: date = _jalali(year, month, 1).to_gregorian()
    next_starts_on: date = _jalali(*following, 1).to_gregorian()
    return starts_on, next_starts_on - timedelta(days=1)


@lru_cache(maxsize=4_096)
def fiscal_year(calendar: FiscalCalendar, day: date) -> int:
    """The year a document is numbered in."""
    return day.year if calendar == "gregorian" else _jalali(day).year


def tenant_period(tenant: TenantProfile, day: date) -> str:
    return period_key(tenant.fiscal_calendar, day)


def _jalali(*when: Any) -> JalaliDate:
    return JalaliDate(*when)  # type: ignore[no-untyped-call]  # persiantools annotates its results, not its constructor
