"""What the gateway schedules look for: holds and refunds that nobody has heard of for a while, and holds whose time is over."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import BindParameter, and_, bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.gateway_tables import gateway_refund, hold
from domain.gateway_entities import LIVE, GatewayRefund, Hold

_TENANT: BindParameter[str] = bindparam("tenant")
_LIMIT: BindParameter[int] = bindparam("limit")
# `unknown` is asked about soon; what waits for its job message only when that must have been lost.
_SILENT_STATES = ("pending", "capturing", "cancelling")

# The list of live states lets the planner use ix_hold_live, whose predicate it is.
_LIVE = hold.c.status.in_(sorted(LIVE))
_UNSETTLED = (
    select(hold)
    .where(
        hold.c.tenant_id == _TENANT,
        _LIVE,
        or_(
            and_(hold.c.status == "unknown", hold.c.changed_at < bindparam("unknown_before")),
            and_(hold.c.status.in_(_SILENT_STATES), hold.c.changed_at < bindparam("silent_before")),
        ),
    )
    .order_by(hold.c.changed_at, hold.c.id)
    .limit(_LIMIT)
)
_REFUNDS = (
    select(gateway_refund)
    .where(
        gateway_refund.c.tenant_id == _TENANT,
        gateway_refund.c.status.in_(("pending", "unknown")),
        or_(
            and_(gateway_refund.c.status == "unknown", gateway_refund.c.changed_at < bindparam("unknown_before")),
            gateway_refund.c.changed_at < bindparam("silent_before"),
        ),
    )
    .order_by(gateway_refund.c.changed_at, gateway_refund.c.id)
    .limit(_LIMIT)
)
_EXPIRED = (
    select(hold.c.id)
    .where(
        hold.c.tenant_id == _TENANT,
        _LIVE,
        hold.c.status.in_(("pending", "authorised", "unknown")),
        hold.c.intent == "charge",
        hold.c.expires_at <= bindparam("now"),
        hold.c.id > bindparam("after"),
    )
    .order_by(hold.c.id)
    .limit(_LIMIT)
)
_COUNTS = (
    select(hold.c.status, hold.c.fault, func.count().label("holds"))
    .where(hold.c.tenant_id == _TENANT, or_(_LIVE, hold.c.fault.is_not(None)))
    .group_by(hold.c.status, hold.c.fault)
)
_HOLD = select(hold).where(hold.c.tenant_id == _TENANT, hold.c.id == bindparam("id"))
_REFUND = select(gateway_refund).where(gateway_refund.c.tenant_id == _TENANT, gateway_refund.c.id == bindparam("id"))


class Silence(NamedTuple):
    """Since when nothing may have been heard of what is looked for."""

    unknown_before: datetime
    silent_before: datetime


async def unsettled(connection: AsyncConnection, tenant_id: str, silence: Silence, limit: int) -> list[Hold]:
    """Holds to ask the gateway about, the longest silent first."""
    parameters = {"tenant": tenant_id, "limit": limit, **silence._asdict()}
    return [Hold._make(row[1:]) for row in await connection.execute(_UNSETTLED, parameters)]


async def unsettled_refunds(
    connection: AsyncConnection, tenant_id: str, silence: Silence, limit: int
) -> list[GatewayRefund]:
    parameters = {"tenant": tenant_id, "limit": limit, **silence._asdict()}
    return [GatewayRefund._make(row[1:]) for row in await connection.execute(_REFUNDS, parameters)]


async def expired(connection: AsyncConnection, tenant_id: str, now: datetime, after: UUID, limit: int) -> list[UUID]:
    """The next holds in order of id whose time is over and that nobody has asked to release."""
    parameters = {"tenant": tenant_id, "now": now, "after": after, "limit": limit}
    return list((await connection.execute(_EXPIRED, parameters)).scalars())


async def counts(connection: AsyncConnection, tenant_id: str) -> dict[tuple[str, str], int]:
    """How many holds are in each (state, fault), the ended ones without a fault left out; a fault that is none is ''."""
    rows = await connection.execute(_COUNTS, {"tenant": tenant_id})
    return {(row.status, row.fault or ""): int(row.holds) for row in rows}


async def hold_of(connection: AsyncConnection, tenant_id: str, payment_id: UUID) -> Hold | None:
    row = (await connection.execute(_HOLD, {"tenant": tenant_id, "id": payment_id})).one_or_none()
    return Hold._make(row[1:]) if row is not None else None


async def refund_of(connection: AsyncConnection, tenant_id: str, refund_id: UUID) -> GatewayRefund | None:
    row = (await connection.execute(_REFUND, {"tenant": tenant_id, "id": refund_id})).one_or_none()
    return GatewayRefund._make(row[1:]) if row is not None else None
