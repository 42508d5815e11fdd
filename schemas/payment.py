"""Payments (FHIR PaymentNotice): money already received, and what became of it."""

from datetime import date, datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from schemas.allocation import MAX_ALLOCATIONS, AllocationChange, AllocationItem, Allocations
from schemas.base import (
    AmountMinor,
    BusinessDate,
    Code,
    CommandBody,
    Currency,
    Cursor,
    Money,
    NonNegativeMinor,
    Note,
    QueryBody,
    WireModel,
)
from schemas.hold import HoldItem, HoldStatus, RefundStatus

ReceivedMethod = Literal["cash", "bank", "mobile_money", "cheque", "insurer_remittance"]
PaymentMethod = Literal[ReceivedMethod, "gateway"]  # through a gateway: charged, never recorded by hand
PaymentStatus = Literal["recorded", "reversed"]
MAX_CASH_ROUNDING_MINOR = 100  # one major unit: more than the smallest coin of any two-decimal currency


class RecordPayment(CommandBody):
    """What the allocations leave is unapplied credit. `cash_rounding_minor` (cash only) is added to what the payer gets
    credit for: +12 where AED 100.25 was taken for AED 100.37, −13 where AED 100.50 was."""

    payment_id: UUID | None = None
    account_id: UUID
    amount: Money
    method: ReceivedMethod
    received_on: BusinessDate | None = None
    reference: Code | None = None
    party_id: Code | None = None
    cash_rounding_minor: Annotated[int, Field(ge=-MAX_CASH_ROUNDING_MINOR, le=MAX_CASH_ROUNDING_MINOR)] = 0
    allocations: Allocations = ()

    @model_validator(mode="after")
    def _only_cash_is_rounded(self) -> Self:
        if self.cash_rounding_minor and self.method != "cash":
            raise ValueError("cash_rounding_minor goes with method cash")
        return self


class AllocatePayment(CommandBody):
    payment_id: UUID
    allocations: Annotated[tuple[AllocationItem, ...], Field(min_length=1, max_length=MAX_ALLOCATIONS)]


class UnallocatePayment(CommandBody):
    """Takes back an allocation, wholly or in part; the original row stays and a new one offsets it."""

    payment_id: UUID
    invoice_id: UUID
    amount_minor: AmountMinor | None = None
    reason: Note


class RefundPayment(CommandBody):
    """Pays unapplied credit back. `method` left out is the payment's own: one that came through a gateway goes back through it,
    `pending` until the gateway has done it."""

    refund_id: UUID | None = None
    payment_id: UUID
    amount_minor: AmountMinor
    method: ReceivedMethod | None = None
    refunded_on: BusinessDate | None = None
    reason: Note


class ReversePayment(CommandBody):
    """A bounced cheque or a returned transfer: every effect of the payment is mirrored, in the current open period."""

    payment_id: UUID
    effective_on: BusinessDate | None = None
    reason: Note


class PaymentResult(WireModel):
    """`refunding_minor`: reserved for refunds that the gateway has not made yet. `charged_back_minor`: lost in disputes."""

    payment_id: UUID
    status: PaymentStatus
    currency: Currency
    amount_minor: NonNegativeMinor
    allocated_minor: NonNegativeMinor
    refunded_minor: NonNegativeMinor
    refunding_minor: NonNegativeMinor = 0
    charged_back_minor: NonNegativeMinor = 0
    unapplied_minor: NonNegativeMinor


class RefundResult(PaymentResult):
    refund_id: UUID
    refund_status: RefundStatus = "done"


class PaymentEvent(PaymentResult):
    account_id: UUID
    method: PaymentMethod
    received_on: date
    party_id: Code | None
    cash_rounding_minor: int
    allocations: tuple[AllocationChange, ...]
    refund_id: UUID | None = None


class GetPayment(QueryBody):
    payment_id: UUID


class ListPayments(QueryBody, Cursor):
    account_id: UUID | None = None


class PaymentSummary(PaymentResult):
    account_id: UUID
    method: PaymentMethod
    received_on: date
    reference: Code | None
    party_id: Code | None
    cash_rounding_minor: int
    recorded_at: datetime


class PaymentView(WireModel):
    """A payment; or a charge that the gateway has not captured (yet), which has the status of its hold, nothing allocated and no
    day of receipt. `hold` is there for whatever went through a gateway."""

    payment_id: UUID
    status: PaymentStatus | HoldStatus
    currency: Currency
    amount_minor: NonNegativeMinor
    allocated_minor: NonNegativeMinor
    refunded_minor: NonNegativeMinor
    refunding_minor: NonNegativeMinor = 0
    charged_back_minor: NonNegativeMinor = 0
    unapplied_minor: NonNegativeMinor
    account_id: UUID
    method: PaymentMethod
    received_on: date | None
    reference: Code | None
    party_id: Code | None
    cash_rounding_minor: int
    recorded_at: datetime
    allocations: tuple[AllocationChange, ...]
    hold: HoldItem | None = None


class PaymentPage(WireModel):
    items: tuple[PaymentSummary, ...]
    next_cursor: str | None
