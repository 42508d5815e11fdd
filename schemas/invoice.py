"""Invoices (FHIR Invoice): one document per responsible party, a legal number at issue."""

from datetime import date, datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from schemas.base import (
    MAX_LINES,
    AmountMinor,
    BusinessDate,
    Code,
    CommandBody,
    Currency,
    Cursor,
    LedgerCode,
    Name,
    NonNegativeMinor,
    Note,
    Quantity,
    QueryBody,
    WireModel,
)
from schemas.pricelist import TaxCategory

InvoiceStatus = Literal["draft", "issued", "settled", "void"]


class ExplicitLine(WireModel):
    """A line that no charge stands behind (a room deposit, a package)."""

    description: Name
    quantity: Quantity
    unit_price_minor: NonNegativeMinor
    tax_category: TaxCategory = "health_service"
    revenue_code: LedgerCode = "4000"


class CreateInvoice(CommandBody):
    """Drafts one document per responsible party with a share, from charges or explicit lines."""

    invoice_group_id: UUID | None = None
    account_id: UUID
    charge_ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_LINES)] | None = None
    lines: Annotated[tuple[ExplicitLine, ...], Field(min_length=1, max_length=MAX_LINES)] | None = None
    invoice_date: BusinessDate | None = None
    due_on: BusinessDate | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.charge_ids is None) == (self.lines is None):
            raise ValueError("give either charge_ids or lines")
        return self


class IssueInvoice(CommandBody):
    invoice_id: UUID


class VoidInvoice(CommandBody):
    invoice_id: UUID
    reason: Note


class WriteOffInvoice(CommandBody):
    """`amount_minor` left out writes off everything that is open."""

    invoice_id: UUID
    amount_minor: AmountMinor | None = None
    reason: Note


class MarkOverdue(CommandBody):
    """Internal: the schedule found these invoices open and past due on that date."""

    as_of: BusinessDate
    invoice_ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_LINES)]


class OverdueResult(WireModel):
    """How many were marked: those that are still open, past due and not marked yet."""

    marked: int


class InvoiceDocument(WireModel):
    """One party's document, amounts in minor units of `currency`."""

    invoice_id: UUID
    party_id: Code
    status: InvoiceStatus
    number: str | None
    currency: Currency
    net_minor: NonNegativeMinor
    tax_minor: NonNegativeMinor
    total_minor: NonNegativeMinor
    open_minor: NonNegativeMinor


class InvoicesResult(WireModel):
    """The documents of a new invoice group."""

    invoice_group_id: UUID
    documents: tuple[InvoiceDocument, ...]


class InvoiceEvent(InvoiceDocument):
    invoice_group_id: UUID
    account_id: UUID
    invoice_date: date
    due_on: date
    paid_minor: NonNegativeMinor
    credited_minor: NonNegativeMinor
    written_off_minor: NonNegativeMinor


class GetInvoice(QueryBody):
    invoice_id: UUID


class ListInvoices(QueryBody, Cursor):
    account_id: UUID | None = None
    status: InvoiceStatus | None = None


class InvoiceLineView(WireModel):
    line_number: int
    charge_id: UUID | None
    description: Name
    quantity: Quantity
    net_minor: NonNegativeMinor
    tax_category: TaxCategory
    tax_rate_basis_points: int
    tax_minor: NonNegativeMinor
    revenue_code: LedgerCode
    credited_net_minor: NonNegativeMinor
    credited_tax_minor: NonNegativeMinor


class InvoiceSummary(InvoiceEvent):
    recorded_at: datetime


class InvoiceView(InvoiceSummary):
    lines: tuple[InvoiceLineView, ...]


class InvoicePage(WireModel):
    items: tuple[InvoiceSummary, ...]
    next_cursor: str | None
