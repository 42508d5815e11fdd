"""Stripe's PaymentIntents and refunds in our words. Nothing of them is believed that was not checked."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from adapters.gateways.ports import Answer, Unknown
from schemas.base import EXPONENTS, MAX_AMOUNT_MINOR
from schemas.gateway import GatewayState

PAYMENT_ID, REFUND_ID = "payment_id", "refund_id"  # in the metadata of what we make
# Stripe counts these in other units than ISO 4217 does (its "special cases"): rather none than a hundred times too much.
UNSUPPORTED = frozenset({"ISK", "MGA", "UGX"})
THREE_DECIMALS = 3  # of such a currency Stripe takes no amount that does not end in 0

M = TypeVar("M", bound=BaseModel)

_Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]
_Id = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")]
_Metadata = dict[str, Any]


class _Said(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _BalanceTransaction(_Said):
    currency: str
    fee: int


class _Card(_Said):
    capture_before: int | None = None


class _MethodDetails(_Said):
    card: _Card | None = None


class _Charge(_Said):
    amount: _Amount
    amount_refunded: _Amount = 0
    balance_transaction: _BalanceTransaction | str | None = None
    payment_method_details: _MethodDetails | None = None


class _PaymentError(_Said):
    code: _Word | None = None
    decline_code: _Word | None = None


class Intent(_Said):
    """A PaymentIntent, its charge expanded. `amount_received` is what was captured."""

    id: _Id
    object: Literal["payment_intent"]
    status: Literal[
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "processing",
        "requires_capture",
        "canceled",
        "succeeded",
    ]
    amount: _Amount
    amount_received: _Amount = 0
    currency: str
    metadata: _Metadata = {}
    latest_charge: _Charge | str | None = None
    last_payment_error: _PaymentError | None = None
    cancellation_reason: str | None = None

    def is_of(self, payment_id: UUID) -> bool:
        return self.metadata.get(PAYMENT_ID) == str(payment_id)

    def answer(self) -> Answer:
        """Raises Unknown where the amounts make no sense together."""
        charge = self.latest_charge if isinstance(self.latest_charge, _Charge) else None
        captured = self.amount_received if self.status == "succeeded" else 0
        refunded = self._refunded(charge, captured)
        currency = self.currency.upper()
        if currency not in EXPONENTS or captured > self.amount or (self.status == "succeeded" and not captured):
            raise Unknown("amounts or currency that cannot be")
        held = self.amount if self.status in ("requires_capture", "succeeded") else 0
        state = self._state()
        return Answer(
            state="refunded" if captured and refunded == captured else state,
            reference=self.id,
            currency=currency,
            authorised_minor=held,
            captured_minor=captured,
            refunded_minor=refunded,
            fee_minor=self._fee(charge),
            expires_at=_capture_before(charge) if state == "authorised" else None,
            decline_code=self.decline_code() if state == "declined" else None,
        )

    def decline_code(self) -> str:
        error = self.last_payment_error
        return (error.decline_code or error.code if error else None) or "declined"

    def _state(self) -> GatewayState:
        if self.status == "canceled":
            return "expired" if self.cancellation_reason == "automatic" else "cancelled"
        if self.status == "requires_payment_method" and self.last_payment_error is not None:
            return "declined"
        states: dict[str, GatewayState] = {"requires_capture": "authorised", "succeeded": "captured"}
        return states.get(self.status, "pending")

    def _refunded(self, charge: _Charge | None, captured: int) -> int:
        """The part of a hold that a smaller capture released counts as refunded with Stripe: it never was the payer's loss."""
        if charge is None or not captured:
            return 0
        refunded = charge.amount_refunded - (charge.amount - captured)
        if refunded > captured:
            raise Unknown("more refunded than captured")
        return max(0, refunded)

    def _fee(self, charge: _Charge | None) -> int | None:
        """Known only once there is a balance transaction, and of use only in the payment's own currency."""
        transaction = charge.balance_transaction if charge is not None else None
        if not isinstance(transaction, _BalanceTransaction) or transaction.currency != self.currency:
            return None
        return transaction.fee if 0 <= transaction.fee <= self.amount else None


class StripeRefund(_Said):
    id: _Id
    object: Literal["refund"]
    amount: Annotated[int, Field(ge=1, le=MAX_AMOUNT_MINOR)]
    currency: str
    status: Literal["pending", "requires_action", "succeeded", "failed", "canceled"] | None = None
    metadata: _Metadata = {}
    failure_reason: _Word | None = None

    def answer(self) -> Answer:
        """Raises Unknown."""
        states: dict[str | None, GatewayState] = {"succeeded": "refunded", "failed": "declined", "canceled": "declined"}
        state, currency = states.get(self.status, "pending"), self.currency.upper()
        if currency not in EXPONENTS:
            raise Unknown("a currency that is none")
        declined = (self.failure_reason or "refund_failed") if state == "declined" else None
        return Answer(state, self.id, currency, 0, refunded_minor=self.amount, decline_code=declined)


class Found(_Said):
    """A page of a list or of search results."""

    data: list[dict[str, Any]]
    has_more: bool = False


class ErrorSaid(_Said):
    """The `error` of an error's body."""

    code: _Word | None = None
    decline_code: _Word | None = None
    charge: _Id | None = None
    payment_intent: dict[str, Any] | None = None


def intent_of(said: Any, payment_id: UUID) -> Intent:
    """The PaymentIntent, if it is this payment's. Raises Unknown."""
    found = read(Intent, said)
    if not found.is_of(payment_id):
        raise Unknown("an answer about another payment")
    return found


def read(model: type[M], said: Any) -> M:
    """Raises Unknown."""
    try:
        return model.model_validate(said)
    except ValidationError as error:
        raise Unknown(f"not an answer: {error.title}") from None


def takes(amount_minor: int, currency: str) -> bool:
    """Whether Stripe counts this amount as we do."""
    whole = EXPONENTS.get(currency) != THREE_DECIMALS or amount_minor % 10 == 0
    return currency not in UNSUPPORTED and whole


def _capture_before(charge: _Charge | None) -> datetime | None:
    details = charge.payment_method_details if charge is not None else None
    until = details.card.capture_before if details is not None and details.card is not None else None
    try:
        return datetime.fromtimestamp(until, UTC) if until else None
    except (OverflowError, ValueError, OSError):
        return None
