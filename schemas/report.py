"""Reports and command status: read models that belong to no single aggregate."""

from datetime import date
from typing import Any
from uuid import UUID

from schemas.base import BusinessDate, Currency, LedgerCode, QueryBody, WireModel
from schemas.outcome import Problem


class Aging(QueryBody):
    """Open invoices by days past due; `as_of` left out is today in the tenant's time zone."""

    as_of: BusinessDate | None = None
    account_id: UUID | None = None


class AgingLine(WireModel):
    """Minor units open, by days past due."""

    currency: Currency
    current_minor: int
    days_1_30_minor: int
    days_31_60_minor: int
    days_61_90_minor: int
    days_91_120_minor: int
    over_120_minor: int
    total_minor: int


class AgingView(WireModel):
    as_of: date
    lines: tuple[AgingLine, ...]


class Revenue(QueryBody):
    starts_on: BusinessDate
    ends_on: BusinessDate


class RevenueLine(WireModel):
    revenue_code: LedgerCode
    currency: Currency
    amount_minor: int


class RevenueView(WireModel):
    starts_on: date
    ends_on: date
    lines: tuple[RevenueLine, ...]


class GetCommand(QueryBody):
    command_id: UUID


class CommandView(WireModel):
    command_id: UUID
    name: str
    status: str
    result: dict[str, Any] | None
    error: Problem | None
    payload_hash: str
    sequence: int
