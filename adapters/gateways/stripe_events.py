"""Stripe's webhook events, as far as they concern payments that we made (our payment id is in their metadata).

| event | becomes |
|---|---|
| `payment_intent.*` | payment.settle with what the PaymentIntent has |
| `charge.captured`, `charge.refunded`, `charge.updated` | payment.settle: captured, refunded and fee |
| `refund.*`, `charge.refund.updated` | payment.settle_refund |
| `payout.paid` | payment.settle_payout |
| `charge.dispute.*` | nothing: a dispute names Stripe's payment and carries none of our metadata (`unattributed`) |
| `payout.failed` | nothing: there is no command that takes a payout back (`unattributed`) |
| any other | nothing |
"""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from adapters.gateways.facts import Fact, Told, settle, settle_payout, settle_refund
from adapters.gateways.ports import Answer, Unknown
from adapters.gateways.stripe_answers import PAYMENT_ID, REFUND_ID, Intent, StripeRefund
from schemas.base import EXPONENTS, MAX_AMOUNT_MINOR

_Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]
_Id = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
_CHARGES = ("charge.captured", "charge.refunded", "charge.updated", "charge.succeeded")


class _Said(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Data(_Said):
    object: dict[str, Any]


class _Event(_Said):
    id: _Id
    object: Annotated[str, StringConstraints(pattern=r"^event$")]
    type: Annotated[str, StringConstraints(max_length=200)]
    data: _Data

    @property
    def about(self) -> dict[str, Any]:
        return self.data.object


class _Charge(_Said):
    """Its metadata is the PaymentIntent's, copied when it was made."""

    payment_intent: _Id
    currency: str
    amount: _Amount
    amount_captured: _Amount
    amount_refunded: _Amount
    captured: bool


class _Payout(_Said):
    id: _Id
    amount: Annotated[int, Field(ge=1, le=MAX_AMOUNT_MINOR)]
    currency: str
    arrival_date: Annotated[int, Field(ge=0, le=4_000_000_000)]


def read(said: Any) -> Told:
    """Raises pydantic.ValidationError where it is no event, or one about a payment of ours that makes no sense."""
    event = _Event.model_validate(said)
    if event.type.startswith("payment_intent."):
        return Told(event.id, _of_intent(event))
    if event.type in _CHARGES:
        return Told(event.id, _of_charge(event))
    if event.type.startswith("refund.") or event.type == "charge.refund.updated":
        return Told(event.id, _of_refund(event))
    if event.type == "payout.paid":
        return Told(event.id, _of_payout(event))
    if event.type.startswith("charge.dispute.") or event.type == "payout.failed":
        return Told(event.id, unattributed=event.type)
    return Told(event.id)


def _of_intent(event: _Event) -> tuple[Fact, ...]:
    payment_id = _ours(event.about, PAYMENT_ID)
    if payment_id is None:
        return ()
    intent = Intent.model_validate(event.about)
    return (settle(payment_id, _sensible(intent)),)


def _of_charge(event: _Event) -> tuple[Fact, ...]:
    """A charge is told only once it was captured: before that the PaymentIntent says more."""
    payment_id = _ours(event.about, PAYMENT_ID)
    if payment_id is None:
        return ()
    charge = _Charge.model_validate(event.about)
    if not charge.captured or not charge.amount_captured:
        return ()
    refunded = max(0, charge.amount_refunded - (charge.amount - charge.amount_captured))
    answer = Answer(
        state="refunded" if refunded >= charge.amount_captured else "captured",
        reference=charge.payment_intent,
        currency=_currency(charge.currency),
        authorised_minor=charge.amount,
        captured_minor=charge.amount_captured,
        refunded_minor=refunded,
    )
    return (settle(payment_id, answer),)


def _of_refund(event: _Event) -> tuple[Fact, ...]:
    refund_id = _ours(event.about, REFUND_ID)
    if refund_id is None:
        return ()
    return (settle_refund(refund_id, _sensible(StripeRefund.model_validate(event.about))),)


def _of_payout(event: _Event) -> tuple[Fact, ...]:
    paid = _Payout.model_validate(event.about)
    day = datetime.fromtimestamp(paid.arrival_date, UTC).date()
    return (settle_payout("stripe", paid.id, paid.amount, _currency(paid.currency), fee_minor=0, paid_on=day),)


def _ours(about: dict[str, Any], name: str) -> UUID | None:
    """Our id in the metadata; None: somebody else's payment on the same account."""
    metadata = about.get("metadata")
    found = metadata.get(name) if isinstance(metadata, dict) else None
    try:
        return UUID(found) if isinstance(found, str) else None
    except ValueError:
        return None


def _sensible(said: Intent | StripeRefund) -> Answer:
    try:
        return said.answer()
    except Unknown as error:
        raise _invalid(str(error)) from None


def _currency(code: str) -> str:
    if code.upper() not in EXPONENTS:
        raise _invalid("not an ISO 4217 currency")
    return code.upper()


def _invalid(message: str) -> ValidationError:
    error: Any = {"type": "value_error", "loc": ("data", "object"), "input": None, "ctx": {"error": message}}
    return ValidationError.from_exception_data("Event", [error])
