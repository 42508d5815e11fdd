"""Queries about charges through a payment gateway."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, func, select

from adapters.postgres.gateway_tables import hold, hold_allocation
from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from domain.gateway_entities import LIVE, Hold
from domain.hold import hold_view
from schemas.allocation import AllocationItem
from schemas.hold import HoldItem, HoldPage, HoldView, ListHolds
from schemas.outcome import Problem

_HOLDS = select(hold).where(owned(hold))
_HOLD = _HOLDS.where(hold.c.id == bindparam("payment_id"))
_INTENDED = (
    select(hold_allocation.c.invoice_id, hold_allocation.c.amount_minor)
    .where(owned(hold_allocation), hold_allocation.c.payment_id == bindparam("payment_id"))
    .order_by(hold_allocation.c.position)
)
_HELD = select(func.coalesce(func.sum(hold.c.amount_minor), 0)).where(
    owned(hold), hold.c.account_id == bindparam("account_id"), hold.c.status.in_(sorted(LIVE))
)
_NEWEST_FIRST = Keyset.by_time(hold.c.recorded_at, hold.c.id)


async def item(asking: Asking, payment_id: UUID) -> HoldItem | None:
    """The hold of a payment or charge, with what it is meant for."""
    parameters = {**asking.parameters, "payment_id": payment_id}
    row = (await asking.connection.execute(_HOLD, parameters)).one_or_none()
    if row is None:
        return None
    intended = (await asking.connection.execute(_INTENDED, parameters)).all()
    meant = tuple(AllocationItem(invoice_id=each.invoice_id, amount_minor=each.amount_minor) for each in intended)
    return HoldItem(**_view(row).model_dump(), intended=meant)


async def held_minor(asking: Asking, account_id: UUID) -> int:
    """What an account's charges ask for that are not decided yet."""
    parameters = {**asking.parameters, "account_id": account_id}
    return int((await asking.connection.execute(_HELD, parameters)).scalar_one())


async def listed(asking: Asking, query: ListHolds) -> HoldPage | Problem:
    statement, parameters = _HOLDS, dict[str, Any](asking.parameters)
    if query.account_id is not None:
        statement = statement.where(hold.c.account_id == bindparam("account_id"))
        parameters["account_id"] = query.account_id
    if query.status is not None:
        statement = statement.where(hold.c.status == bindparam("status"))
        parameters["status"] = query.status
    if query.faulty:
        statement = statement.where(hold.c.fault.is_not(None))
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    return HoldPage(items=tuple(_view(row) for row in found.rows), next_cursor=found.next_cursor)


def _view(row: Row[Any]) -> HoldView:
    return hold_view(Hold._make(row[1:]))
