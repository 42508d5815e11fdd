"""Accounting periods: open, close, reopen."""

from datetime import date

from domain.calendar import period_bounds
from domain.decision import Accepted, Capability, Command, Decision, Event, rejected
from domain.entities import Period
from domain.lookups import DRAFTS_OF_PERIOD, PERIOD
from domain.snapshot import Needs, Snapshot, drafts
from schemas.codes import Code
from schemas.period import ClosePeriod, OpenPeriod, PeriodResult, PeriodStatus, ReopenPeriod


def _bounds(command: Command[OpenPeriod] | Command[ClosePeriod]) -> tuple[date, date] | None:
    try:
        return period_bounds(command.tenant.fiscal_calendar, command.body.period)
    except ValueError:  # no such month in this calendar
        return None


def needs_period_row(command: Command[OpenPeriod] | Command[ReopenPeriod]) -> Needs:
    return [(PERIOD, command.body.period)]


def decide_open(snapshot: Snapshot, command: Command[OpenPeriod]) -> Decision:
    bounds, stored = _bounds(command), snapshot.get(Period, command.body.period)
    if bounds is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=command.body.period)
    if stored and stored.status == "closed":
        return rejected(Code.PERIOD_CLOSED, period=stored.period)
    if stored:
        return rejected(Code.ALREADY_EXISTS, period=stored.period)
    return _accepted("period.opened", Period(command.body.period, "open", *bounds, command.recorded_at))


def needs_close(command: Command[ClosePeriod]) -> Needs:
    return [(PERIOD, command.body.period), (DRAFTS_OF_PERIOD, command.body.period)]


def decide_close(snapshot: Snapshot, command: Command[ClosePeriod]) -> Decision:
    """A period that nobody opened explicitly is open, and can be closed."""
    key = command.body.period
    bounds, stored = _bounds(command), snapshot.get(Period, key)
    if bounds is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=key)
    if stored and stored.status == "closed":
        return rejected(Code.PERIOD_CLOSED, period=key)
    if left := drafts(snapshot.find(DRAFTS_OF_PERIOD, key)):
        return rejected(Code.PERIOD_HAS_DRAFTS, period=key, drafts=len(left), first=str(min(row.id for row in left)))
    return _accepted(
        "period.closed", _with_status(stored or Period(key, "open", *bounds, command.recorded_at), "closed")
    )


def decide_reopen(snapshot: Snapshot, command: Command[ReopenPeriod]) -> Decision:
    stored = snapshot.get(Period, command.body.period)
    if stored is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=command.body.period)
    if stored.status == "open":
        return rejected(Code.PERIOD_NOT_CLOSED, period=stored.period)
    return _accepted("period.reopened", _with_status(stored, "open"))


def _with_status(period: Period, status: PeriodStatus) -> Period:
    return period._replace(status=status)


def _accepted(event: str, period: Period) -> Accepted:
    result = PeriodResult(
        period=period.period, status=period.status, starts_on=period.starts_on, ends_on=period.ends_on
    )
    return Accepted(result, (Event(event, period.period, result),), (period,))


CAPABILITIES = {
    "period.open": Capability(needs_period_row, decide_open),
    "period.close": Capability(needs_close, decide_close),
    "period.reopen": Capability(needs_period_row, decide_reopen),
}
