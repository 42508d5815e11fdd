"""Charges (FHIR ChargeItem): care that was given and will be billed."""

from datetime import date, datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from schemas.base import (
    BasisPoints,
    BusinessDate,
    Code,
    CodeSystem,
    CommandBody,
    Currency,
    Cursor,
    FhirReference,
    LedgerCode,
    Money,
    Name,
    NonNegativeMinor,
    Note,
    Quantity,
    QueryBody,
    WireModel,
)
from schemas.pricelist import TaxCategory

ChargeStatus = Literal["open", "invoiced", "void"]
DisabledReason = Literal["not_configured", "unavailable"]


class CaptureCharge(CommandBody):
    """Priced by `unit_price` (then `tax_category` and `revenue_code` apply) or by `price_list` on the service date."""

    charge_id: UUID | None = None
    account_id: UUID
    code_system: CodeSystem
    code: Code
    description: Name | None = None
    quantity: Quantity
    unit_price: Money | None = None
    tax_category: TaxCategory = "health_service"
    revenue_code: LedgerCode = "4000"
    price_list: Code | None = None
    service_date: BusinessDate | None = None
    encounter: FhirReference | None = None
    performer: FhirReference | None = None

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        if (self.unit_price is None) == (self.price_list is None):
            raise ValueError("give either unit_price or price_list")
        return self


class VoidCharge(CommandBody):
    charge_id: UUID
    reason: Note


class ChargeResult(WireModel):
    charge_id: UUID
    status: ChargeStatus
    net_minor: NonNegativeMinor
    currency: Currency


class ChargeEvent(WireModel):
    charge_id: UUID
    account_id: UUID
    code_system: CodeSystem
    code: Code
    quantity: Quantity
    unit_price_minor: NonNegativeMinor
    net_minor: NonNegativeMinor
    currency: Currency
    service_date: date
    status: ChargeStatus
    encounter: FhirReference | None
    performer: FhirReference | None


class GetCharge(QueryBody):
    charge_id: UUID


class ListCharges(QueryBody, Cursor):
    account_id: UUID
    status: ChargeStatus | None = None


class ChargeView(ChargeEvent):
    description: Name | None
    tax_category: TaxCategory
    revenue_code: LedgerCode
    recorded_at: datetime


class ChargePage(WireModel):
    items: tuple[ChargeView, ...]
    next_cursor: str | None


class SuggestCodes(QueryBody):
    """`text` describes the care that was given. It leaves the service: it must not say who received it."""

    text: Note
    code_system: CodeSystem | None = None
    limit: Annotated[int, Field(ge=1, le=20)] = 5


class CodeSuggestion(WireModel):
    code_system: CodeSystem
    code: Code
    display: Name | None
    confidence_basis_points: BasisPoints


class CodeSuggestions(WireModel):
    """Best first. Not `enabled`: the AI gateway is not there, or not now; nothing is wrong with the question."""

    enabled: bool
    disabled_reason: DisabledReason | None = None
    suggestions: tuple[CodeSuggestion, ...] = ()
