"""Credit notes: full or partial, per line; each references its invoice."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.base import MAX_LINES, AmountMinor, CommandBody, Currency, NonNegativeMinor, Note, WireModel


class CreditLine(WireModel):
    """`net_minor` left out credits what is left of the line; its tax follows in proportion, the last one taking the residue."""

    line_number: Annotated[int, Field(ge=1, le=MAX_LINES)]
    net_minor: AmountMinor | None = None


class IssueCreditNote(CommandBody):
    """`lines` left out credits everything that is left of the invoice."""

    credit_note_id: UUID | None = None
    invoice_id: UUID
    lines: Annotated[tuple[CreditLine, ...], Field(min_length=1, max_length=MAX_LINES)] | None = None
    reason: Note


class CreditNoteResult(WireModel):
    """`released_minor`: the part of the credit that was already paid and is unapplied credit of its payments again."""

    credit_note_id: UUID
    number: str
    invoice_id: UUID
    currency: Currency
    net_minor: NonNegativeMinor
    tax_minor: NonNegativeMinor
    total_minor: NonNegativeMinor
    released_minor: NonNegativeMinor


class CreditNoteIssued(CreditNoteResult):
    account_id: UUID
