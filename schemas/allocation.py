"""Which invoices a payment settles, and with how much of it."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.base import AmountMinor, SignedMinor, WireModel

MAX_ALLOCATIONS = 200  # invoices settled by one payment: bounds the rows one command can touch


class AllocationItem(WireModel):
    invoice_id: UUID
    amount_minor: AmountMinor


Allocations = Annotated[tuple[AllocationItem, ...], Field(max_length=MAX_ALLOCATIONS)]


class AllocationChange(WireModel):
    """Negative: taken back."""

    invoice_id: UUID
    amount_minor: SignedMinor
