"""The generic protocol's words (docs/payment-gateway-protocol.md): what a bridge answers, and what it tells by webhook."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from adapters.gateways.ports import Answer
from schemas.base import MAX_AMOUNT_MINOR, BusinessDate, Currency
from schemas.gateway import DeclineCode, GatewayFact, GatewayReference, GatewayState

_Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]
_Positive = Annotated[int, Field(ge=1, le=MAX_AMOUNT_MINOR)]
# JSON has no identifiers and no times: text is what these are made of.
_Id = Annotated[UUID, Field(strict=False)]
_Time = Annotated[AwareDatetime, Field(strict=False)]


class Said(BaseModel):
    """Unknown fields are ignored, so that a bridge may say more; known ones are of the right kind."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class PaymentSaid(Said):
    """A payment as the gateway has it. Strict JSON: `"12"` is no amount."""

    payment_id: _Id
    reference: GatewayReference
    state: GatewayState
    currency: Currency
    authorised_minor: _Amount
    captured_minor: _Amount = 0
    refunded_minor: _Amount = 0
    fee_minor: _Amount | None = None
    expires_at: _Time | None = None
    decline_code: DeclineCode | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.refunded_minor <= self.captured_minor <= self.authorised_minor:
            raise ValueError("more was refunded than captured, or captured than authorised")
        if self.state in ("captured", "refunded") and not self.captured_minor:
            raise ValueError("captured, but nothing")
        if self.state == "authorised" and (not self.authorised_minor or self.captured_minor):
            raise ValueError("authorised, but nothing, or captured already")
        if self.state in ("pending", "declined", "cancelled", "expired") and self.captured_minor:
            raise ValueError("captured although it never came to that")
        return self

    def answer(self) -> Answer:
        return Answer(
            state=self.state,
            reference=self.reference,
            currency=self.currency,
            authorised_minor=self.authorised_minor,
            captured_minor=self.captured_minor,
            refunded_minor=self.refunded_minor,
            fee_minor=self.fee_minor,
            expires_at=self.expires_at,
            decline_code=self.decline_code,
        )


class RefundSaid(Said):
    """A refund as the gateway has it."""

    payment_id: _Id
    refund_id: _Id
    reference: GatewayReference
    state: Literal["pending", "refunded", "declined"]
    currency: Currency
    amount_minor: _Positive
    decline_code: DeclineCode | None = None

    def answer(self) -> Answer:
        return Answer(
            state=self.state,
            reference=self.reference,
            currency=self.currency,
            authorised_minor=0,
            refunded_minor=self.amount_minor,
            decline_code=self.decline_code,
        )


class DisputeSaid(Said):
    """`amount_minor` is what is, or would be, taken back; `fee_minor` what the gateway takes for it besides."""

    payment_id: _Id
    dispute_id: GatewayReference
    currency: Currency
    amount_minor: _Positive
    fee_minor: _Amount = 0


class PayoutSaid(Said):
    """`amount_minor` arrives at the bank; `fee_minor` was kept at the payout, beside the fees that payments had told."""

    payout_id: GatewayReference
    currency: Currency
    amount_minor: _Positive
    fee_minor: _Amount = 0
    paid_on: Annotated[BusinessDate, Field(strict=False)] | None = None


_ABOUT: dict[GatewayFact, str] = {"state": "payment", "refund": "refund", "payout": "payout"}


class EventSaid(Said):
    """A webhook's body. Exactly the part that goes with `fact` counts; `event_id` is the same when it is sent again."""

    event_id: GatewayReference
    fact: GatewayFact
    payment: PaymentSaid | None = None
    refund: RefundSaid | None = None
    dispute: DisputeSaid | None = None
    payout: PayoutSaid | None = None

    @model_validator(mode="after")
    def _says_what_it_is_about(self) -> Self:
        part = _ABOUT.get(self.fact, "dispute")
        if getattr(self, part) is None:
            raise ValueError(f"an event of fact {self.fact} needs `{part}`")
        return self
