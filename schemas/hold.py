"""Payments through a gateway, until their money is in the books and after (docs/decisions/0031, docs/payment-gateway.md).

A charge is a *hold* until the gateway has captured it; then a payment of the same id. What anybody learns of a gateway, by an
answer, by asking or by a webhook, is reported as what the gateway *has*, by one internal command each for a payment, a refund
and a payout.
"""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, model_validator

from schemas.allocation import AllocationItem, Allocations
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
from schemas.gateway import (
    CaptureMode,
    DeclineCode,
    GatewayAdapter,
    GatewayReference,
    GatewaySource,
    GatewayState,
)

# pending: the gateway was not asked yet, or has not decided. capturing, cancelling: asked for, not answered yet.
# unknown: asked, and money may have moved; being found out. mismatch: the gateway has something else than what was asked.
HoldStatus = Literal[
    "pending",
    "authorised",
    "capturing",
    "cancelling",
    "unknown",
    "captured",
    "declined",
    "cancelled",
    "expired",
    "mismatch",
]
HoldIntent = Literal["charge", "capture", "cancel", "expire"]  # what was last asked of the gateway, or is to be
# What a person should look at. `captured_late`: money came in after the hold had ended. `refund_mismatch`: the gateway gave back
# something that was never asked of it. `absent`: the gateway no longer knows what it had authorised.
HoldFault = Literal[
    "currency_mismatch",
    "amount_mismatch",
    "captured_late",
    "capture_refused",
    "cancel_refused",
    "refund_mismatch",
    "absent",
]
DisputeStage = Literal["opened", "won", "lost"]
RefundStatus = Literal["done", "pending", "unknown", "failed"]
CircuitState = Literal["open", "closed"]
SettledState = Literal[GatewayState, "unknown", "absent"]

# --- commands ---------------------------------------------------------------------------------------------------------


class ChargePayment(CommandBody):
    """Takes money through the tenant's gateway. The answer is `pending`; what becomes of it comes as events.

    `source` is the gateway's token; what looks like a card number is refused. `capture` left out is what the tenant's gateway
    profile says. `allocations` are meant: what is no longer open on an invoice when the money comes is unapplied credit.
    """

    payment_id: UUID | None = None
    account_id: UUID
    amount: Money
    source: GatewaySource
    capture: CaptureMode | None = None
    party_id: Code | None = None
    allocations: Allocations = ()


class CapturePayment(CommandBody):
    """Takes what is held, or a part of it: the rest is released. Once only."""

    payment_id: UUID
    amount_minor: AmountMinor | None = None


class CancelPayment(CommandBody):
    """Releases what is held, or gives up a charge the gateway has not decided yet. Money that came in all the same is kept as
    unapplied credit, and flagged."""

    payment_id: UUID
    reason: Note


class DisputePayment(CommandBody):
    """A payer took, or tries to take, money back through the bank. `lost` posts it: what is taken back, and the gateway's fee.

    `amount_minor` left out is all that is left of the payment.
    """

    payment_id: UUID
    stage: DisputeStage
    amount_minor: AmountMinor | None = None
    fee_minor: NonNegativeMinor = 0
    reference: GatewayReference | None = None


class SettlePayment(CommandBody):
    """Internal: what a gateway has for a payment, not what changed; told as often as anybody learns of it, in any order.

    `unknown`: it was asked and gave no answer. `absent`: it has never heard of the payment. `refusal`: it has said no to what
    was asked last (a capture, a cancellation), and has what is told here. `fee_minor` None: not known.
    """

    payment_id: UUID
    state: SettledState
    reference: GatewayReference | None = None
    currency: Currency | None = None
    authorised_minor: NonNegativeMinor = 0
    captured_minor: NonNegativeMinor = 0
    refunded_minor: NonNegativeMinor = 0
    fee_minor: NonNegativeMinor | None = None
    expires_at: AwareDatetime | None = None
    decline_code: DeclineCode | None = None
    refusal: DeclineCode | None = None

    @model_validator(mode="after")
    def _money_has_a_currency(self) -> Self:
        amount = {"authorised": self.authorised_minor, "captured": self.captured_minor, "refunded": self.captured_minor}
        if self.state in amount and not (self.currency and amount[self.state]):
            raise ValueError("authorised, captured and refunded need their amount and its currency")
        return self


class SettleRefund(CommandBody):
    """Internal: what became of a refund at the gateway, in the words of `SettlePayment`. `refunded`: it was made."""

    refund_id: UUID
    state: Literal["pending", "refunded", "declined", "unknown", "absent"]
    reference: GatewayReference | None = None
    decline_code: DeclineCode | None = None


class SettlePayout(CommandBody):
    """Internal: the gateway paid out to the bank. `amount_minor` is what arrives there; `fee_minor` what was kept at the payout
    beside the fees told with payments."""

    payout_id: GatewayReference
    adapter: GatewayAdapter
    amount: Money
    fee_minor: NonNegativeMinor = 0
    paid_on: BusinessDate | None = None


class ExpirePayment(CommandBody):
    """Internal: a hold's time is over; it is released at the gateway."""

    payment_id: UUID


class ReportCircuit(CommandBody):
    """Internal: a gateway has stopped answering, or answers again. Charges are refused until `open_until`."""

    adapter: GatewayAdapter
    state: CircuitState
    open_until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _open_ends(self) -> Self:
        if (self.state == "open") != (self.open_until is not None):
            raise ValueError("open_until goes with state open")
        return self


# --- results and events -----------------------------------------------------------------------------------------------


class HoldResult(WireModel):
    """`amount_minor` was asked for; `captured_minor` is what the gateway says it took."""

    payment_id: UUID
    status: HoldStatus
    currency: Currency
    amount_minor: NonNegativeMinor
    captured_minor: NonNegativeMinor


class HoldView(HoldResult):
    """`intent`: what the gateway was last asked for. `requested_minor`: how much of it to capture, None while nothing is.
    `gateway_currency`: what the gateway says it took, where that is another."""

    account_id: UUID
    party_id: Code | None
    adapter: GatewayAdapter
    capture: CaptureMode
    intent: HoldIntent
    requested_minor: NonNegativeMinor | None
    authorised_minor: NonNegativeMinor
    refunded_minor: NonNegativeMinor
    fee_minor: NonNegativeMinor
    gateway_currency: Currency | None
    reference: GatewayReference | None
    decline_code: DeclineCode | None
    fault: HoldFault | None
    dispute: DisputeStage | None
    expires_at: datetime
    recorded_at: datetime
    changed_at: datetime


class RefundChanged(WireModel):
    refund_id: UUID
    payment_id: UUID
    status: RefundStatus
    currency: Currency
    amount_minor: NonNegativeMinor
    decline_code: DeclineCode | None


class PayoutResult(WireModel):
    payout_id: GatewayReference
    adapter: GatewayAdapter
    currency: Currency
    amount_minor: NonNegativeMinor
    fee_minor: NonNegativeMinor
    paid_on: BusinessDate


class CircuitResult(WireModel):
    adapter: GatewayAdapter
    state: CircuitState
    open_until: datetime | None


# --- queries ----------------------------------------------------------------------------------------------------------


class ListHolds(QueryBody, Cursor):
    """`status` left out: all of them, the ended ones too."""

    status: HoldStatus | None = None
    account_id: UUID | None = None
    faulty: bool = False


class HoldItem(HoldView):
    intended: tuple[AllocationItem, ...]


class HoldPage(WireModel):
    items: tuple[HoldView, ...]
    next_cursor: str | None


# --- the job ----------------------------------------------------------------------------------------------------------


class GatewayJob(WireModel):
    """What travels on `billing.v1.job.<tenant>.gateway`: look at this hold, or this refund, and ask the gateway for what it
    wants. `revision` is the row's when it was said: an older row is behind, a newer one has a message of its own."""

    payment_id: UUID
    refund_id: UUID | None = None
    revision: Annotated[int, Field(ge=1)]
