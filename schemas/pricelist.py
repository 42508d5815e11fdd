"""Price lists: code → unit price, tax category and revenue account; effective-dated, immutable once published."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from schemas.base import (
    MAX_PRICES,
    BusinessDate,
    Code,
    CommandBody,
    Currency,
    LedgerCode,
    Name,
    NonNegativeMinor,
    WireModel,
)

TaxCategory = Literal["standard", "zero", "exempt", "health_service"]


class Price(WireModel):
    code: Code
    unit_price_minor: NonNegativeMinor
    tax_category: TaxCategory = "health_service"
    revenue_code: LedgerCode = "4000"
    description: Name | None = None


class PublishPriceList(CommandBody):
    """Publishes the next version of a list. A version is in effect from its date until a later version's date."""

    price_list: Code
    currency: Currency
    effective_from: BusinessDate
    prices: Annotated[tuple[Price, ...], Field(min_length=1, max_length=MAX_PRICES)]


class PriceListResult(WireModel):
    price_list_id: UUID
    price_list: Code
    version: int


class PriceListPublished(WireModel):
    price_list_id: UUID
    price_list: Code
    version: int
    effective_from: date
    currency: Currency
    prices: int
