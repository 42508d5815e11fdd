"""Reports: read models over several aggregates."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, cast, func, select

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.ledger import chart_of, per_code, postings
from adapters.postgres.tables import invoice, ledger_account, ledger_transfer
from schemas.report import Aging, AgingLine, AgingView, Revenue, RevenueLine, RevenueView

_OPEN = invoice.c.total_minor - invoice.c.paid_minor - invoice.c.credited_minor - invoice.c.written_off_minor
_DAYS_PAST_DUE = bindparam("as_of", type_=invoice.c.due_on.type) - invoice.c.due_on


def _minor(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
    total = func.sum(_OPEN)
    return cast(func.coalesce(total.filter(and_(*conditions)) if conditions else total, 0), BigInteger)


def _days(first: int, last: int) -> ColumnElement[int]:
    return _minor(_DAYS_PAST_DUE.between(first, last))


_AGING = (
    select(
        invoice.c.currency,
        _minor(_DAYS_PAST_DUE <= 0).label("current_minor"),
        _days(1, 30).label("days_1_30_minor"),
        _days(31, 60).label("days_31_60_minor"),
        _days(61, 90).label("days_61_90_minor"),
        _days(91, 120).label("days_91_120_minor"),
        _minor(_DAYS_PAST_DUE > 120).label("over_120_minor"),
        _minor().label("total_minor"),
    )
    .where(owned(invoice), invoice.c.status == "issued")
    .group_by(invoice.c.currency)
    .order_by(invoice.c.currency)
)
_POSTED = postings(ledger_transfer.c.effective_on.between(bindparam("starts_on"), bindparam("ends_on")))
_REVENUE = (
    per_code(_POSTED)
    .join(_POSTED, _POSTED.c.ledger_account_id == ledger_account.c.id)
    .where(ledger_account.c.code.in_(bindparam("codes", expanding=True)))
)


async def aging(asking: Asking, query: Aging) -> AgingView:
    """What is open now, by how long past due it is on `as_of`; the total is the receivable, whatever the date."""
    as_of = query.as_of or asking.today
    statement, parameters = _AGING, {**asking.parameters, "as_of": as_of}
    if query.account_id is not None:
        statement = statement.where(invoice.c.account_id == bindparam("account_id"))
        parameters["account_id"] = query.account_id
    rows = (await asking.connection.execute(statement, parameters)).all()
    return AgingView(as_of=as_of, lines=tuple(AgingLine(**row._mapping) for row in rows))


async def revenue(asking: Asking, query: Revenue) -> RevenueView:
    """Credits less debits per revenue account, by effective date; adjustments and allowances (4900) are negative."""
    codes = [code for code, (_, kind) in (await chart_of(asking)).items() if kind == "revenue"]
    parameters: dict[str, Any] = dict(asking.parameters, codes=codes, starts_on=query.starts_on, ends_on=query.ends_on)
    rows = (await asking.connection.execute(_REVENUE, parameters)).all()
    lines = tuple(
        RevenueLine(revenue_code=row.code, currency=row.currency, amount_minor=row.credits_minor - row.debits_minor)
        for row in rows
    )
    return RevenueView(starts_on=query.starts_on, ends_on=query.ends_on, lines=lines)
