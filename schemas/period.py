"""Accounting periods: months of the tenant's fiscal calendar, `2026-11` or `1405-09`. A month nobody closed is open."""

from datetime import date
from typing import Literal

from schemas.base import CommandBody, Note, PeriodKey, WireModel

PeriodStatus = Literal["open", "closed"]


class OpenPeriod(CommandBody):
    period: PeriodKey


class ClosePeriod(CommandBody):
    period: PeriodKey


class ReopenPeriod(CommandBody):
    period: PeriodKey
    reason: Note


class PeriodResult(WireModel):
    """`starts_on` and `ends_on` are Gregorian and inclusive."""

    period: PeriodKey
    status: PeriodStatus
    starts_on: date
    ends_on: date
