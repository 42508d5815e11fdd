"""Queries about charges."""

from typing import Any

from sqlalchemy import Row, bindparam, select

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import charge
from schemas.charge import ChargePage, ChargeView, GetCharge, ListCharges
from schemas.codes import Code
from schemas.outcome import Problem, problem

_CHARGES = select(charge).where(owned(charge))
_CHARGE = _CHARGES.where(charge.c.id == bindparam("charge_id"))
_OF_ACCOUNT = _CHARGES.where(charge.c.account_id == bindparam("account_id"))
_NEWEST_FIRST = Keyset.by_time(charge.c.recorded_at, charge.c.id)


async def get(asking: Asking, query: GetCharge) -> ChargeView | Problem:
    found = await asking.connection.execute(_CHARGE, {**asking.parameters, "charge_id": query.charge_id})
    row = found.one_or_none()
    return _view(row) if row is not None else problem(Code.CHARGE_NOT_FOUND)


async def listed(asking: Asking, query: ListCharges) -> ChargePage | Problem:
    """An account nobody opened has no charges: an empty page, like every list of nothing."""
    statement, parameters = _OF_ACCOUNT, dict[str, Any](asking.parameters, account_id=query.account_id)
    if query.status is not None:
        statement = statement.where(charge.c.status == bindparam("status"))
        parameters["status"] = query.status
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    return ChargePage(items=tuple(_view(row) for row in found.rows), next_cursor=found.next_cursor)


def _view(row: Row[Any]) -> ChargeView:
    return ChargeView(
        charge_id=row.id,
        account_id=row.account_id,
        code_system=row.code_system,
        code=row.code,
        description=row.description,
        quantity=row.quantity,
        unit_price_minor=row.unit_price_minor,
        net_minor=row.net_minor,
        currency=row.currency,
        tax_category=row.tax_category,
        revenue_code=row.revenue_code,
        service_date=row.service_date,
        encounter=row.encounter,
        performer=row.performer,
        status=row.status,
        recorded_at=row.recorded_at,
    )
