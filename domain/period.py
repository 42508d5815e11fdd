"""Accounting periods: open, close, reopen."""

from datetime import date
from typing import Any

from domain.calendar import period_bounds
from domain.decision import Accepted, Capability, Command, Decision, Event, Rejected, rejected
from domain.entities import Period
from domain.lookups import DRAFTS_OF_PERIOD, PERIOD
from domain.snapshot import Needs, Snapshot, drafts
from schemas.codes import Code
from schemas.period import ClosePeriod, OpenPeriod, PeriodResult, PeriodStatus, ReopenPeriod
from schemas.tenant import TenantProfile


def bounds_of(tenant: TenantProfile, period: str) -> tuple[date, date] | None:
    """First and last day of a period, or None where the tenant's calendar has no such month."""
    try:
        return period_bounds(tenant.fiscal_calendar, period)
    except ValueError:
        return None


def needs_period_row(command: Command[OpenPeriod] | Command[ReopenPeriod]) -> Needs:
    return [(PERIOD, command.body.period)]


def decide_open(snapshot: Snapshot, command: Command[OpenPeriod]) -> Decision:
    bounds, stored = bounds_of(command.tenant, command.body.period), snapshot.get(Period, command.body.period)
    if bounds is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=command.body.period)
    if stored and stored.status == "closed":
        return rejected(Code.PERIOD_CLOSED, period=stored.period)
    if stored:
        return rejected(Code.ALREADY_EXISTS, period=stored.period)
    return _accepted("period.opened", Period(command.body.period, "open", *bounds, command.recorded_at))


def needs_close(command: Command[ClosePeriod]) -> Needs:
    return needs_closing(command.body.period)


def needs_closing(period: str) -> Needs:
    return [(PERIOD, period), (DRAFTS_OF_PERIOD, period)]


def decide_close(snapshot: Snapshot, command: Command[ClosePeriod]) -> Decision:
    """A period that nobody opened explicitly is open, and can be closed."""
    stored = snapshot.get(Period, command.body.period)
    if stored and stored.status == "closed":
        return rejected(Code.PERIOD_CLOSED, period=stored.period)
    period = closing(snapshot, command, command.body.period)
    if isinstance(period, Rejected):
        return period
    return _accepted("period.closed", period)


def closing(snapshot: Snapshot, command: Command[Any], key: str) -> Period | Rejected:
    """A period that is not closed as it is once closed, or why it cannot be. Reads what `needs_closing` asks for."""
    bounds, stored = bounds_of(command.tenant, key), snapshot.get(Period, key)
    if bounds is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=key)
    if left := drafts(snapshot.find(DRAFTS_OF_PERIOD, key)):
        return rejected(Code.PERIOD_HAS_DRAFTS, period=key, drafts=len(left), first=str(min(row.id for row in left)))
    return _with_status(stored or Period(key, "open", *bounds, command.recorded_at), "closed")


def decide_reopen(snapshot: Snapshot, command: Command[ReopenPeriod]) -> Decision:
    stored = snapshot.get(Period, command.body.period)
    if stored is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=command.body.period)
    if stored.status == "open":
        return rejected(Code.PERIOD_NOT_CLOSED, period=stored.period)
    return _accepted("period.reopened", _with_status(stored, "open"))


def _with_status(period: Period, status: PeriodStatus) -> Period:
    return period._replace(status=status)


def period_event(name: str, period: Period) -> Event:
    return Event(name, period.period, period_result(period))


def period_result(period: Period) -> PeriodResult:
    return PeriodResult(period=period.period, status=period.status, starts_on=period.starts_on, ends_on=period.ends_on)


def _accepted(event: str, period: Period) -> Accepted:
    return Accepted(period_result(period), (period_event(event, period),), (period,))


CAPABILITIES = {
    "period.open": Capability(needs_period_row, decide_open),
    "period.close": Capability(needs_close, decide_close),
    "period.reopen": Capability(needs_period_row, decide_reopen),
}
