"""What the sandbox's payment gateway has done, per merchant: the money side of docs/payment-gateway-protocol.md.

| source | what becomes of the charge |
|---|---|
| `tok_ok` | authorised, or captured |
| `tok_declined`, `tok_insufficient`, `tok_expired` | declined: `card_declined`, `insufficient_funds`, `expired_card` |
| `tok_pending` | pending until the admin endpoint resolves it |
| `tok_short` | authorised for one second |
| `tok_norefund` | captured, but refunds fail |
| any other | refused: `invalid_source` |
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

FEE_BASIS_POINTS = 250
HOLD_DAYS = 7
DECLINES = {"tok_declined": "card_declined", "tok_insufficient": "insufficient_funds", "tok_expired": "expired_card"}
SOURCES = frozenset({"tok_ok", "tok_pending", "tok_short", "tok_norefund", *DECLINES})


class Refusal(Exception):
    """Nothing was done: the HTTP status and the error's code."""

    def __init__(self, status: int, code: str, message: str = "", *, retryable: bool = False) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.retryable = status, code, message or code, retryable

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "retryable": self.retryable}}


@dataclass(slots=True)
class Payment:
    payment_id: str
    currency: str
    amount_minor: int
    source: str
    capture: bool
    reference: str = field(default_factory=lambda: f"sbx_{uuid4().hex}")
    state: str = "pending"
    authorised_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    fee_minor: int | None = None
    expires_at: datetime | None = None
    decline_code: str | None = None
    paid_out: bool = False

    def shown(self) -> dict[str, Any]:
        expires_at = self.expires_at.isoformat() if self.expires_at else None
        kept = ("payment_id", "reference", "state", "currency", "authorised_minor", "captured_minor")
        more = ("refunded_minor", "fee_minor", "decline_code")
        return {name: getattr(self, name) for name in (*kept, *more)} | {"expires_at": expires_at}


@dataclass(slots=True)
class Refund:
    payment_id: str
    refund_id: str
    currency: str
    amount_minor: int
    state: str
    reference: str = field(default_factory=lambda: f"sbr_{uuid4().hex}")
    decline_code: str | None = None

    def shown(self) -> dict[str, Any]:
        names = ("payment_id", "refund_id", "reference", "state", "currency", "amount_minor", "decline_code")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class Book:
    """One merchant. `captures`, `refunds_done` and `releases` count what moved money, by id: what tests assert on."""

    payments: dict[str, Payment] = field(default_factory=dict)
    refunds: dict[str, Refund] = field(default_factory=dict)
    captures: Counter[str] = field(default_factory=Counter)
    refunds_done: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    keys: dict[str, Any] = field(default_factory=dict)

    def once(self, key: str, request: Any) -> None:
        """Notes the idempotency key. Raises Refusal where it was used for another request."""
        if self.keys.setdefault(key, request) != request:
            raise Refusal(409, "idempotency_key_reused", "this key was used for another request")

    def payment(self, payment_id: str) -> Payment:
        found = self.payments.get(payment_id)
        if found is None:
            raise Refusal(404, "payment_not_found")
        if found.state == "authorised" and found.expires_at is not None and found.expires_at <= datetime.now(UTC):
            found.state = "expired"
        return found

    def charge(self, wanted: Payment) -> Payment:
        """The payment, made now or made before."""
        if wanted.payment_id in self.payments:
            return self.payment(wanted.payment_id)
        if wanted.source not in SOURCES:
            raise Refusal(422, "invalid_source", "no such card or wallet token")
        made = replace(wanted)
        self.payments[made.payment_id] = made
        if made.source in DECLINES:
            made.state, made.decline_code = "declined", DECLINES[made.source]
        elif made.source != "tok_pending":
            self.resolve(made)
        return made

    def resolve(self, payment: Payment) -> None:
        """The authorisation succeeds."""
        life = timedelta(seconds=1) if payment.source == "tok_short" else timedelta(days=HOLD_DAYS)
        payment.state, payment.authorised_minor = "authorised", payment.amount_minor
        payment.expires_at = datetime.now(UTC) + life
        if payment.capture:
            self._take(payment, payment.amount_minor)

    def capture(self, payment_id: str, amount_minor: int) -> Payment:
        payment = self.payment(payment_id)
        if payment.state in ("captured", "refunded") and payment.captured_minor == amount_minor:
            return payment
        if payment.state != "authorised":
            raise Refusal(422, "not_capturable", f"the payment is {payment.state}")
        if amount_minor > payment.authorised_minor:
            raise Refusal(422, "amount_exceeds_authorised")
        self._take(payment, amount_minor)
        return payment

    def _take(self, payment: Payment, amount_minor: int) -> None:
        self.captures[payment.payment_id] += 1
        payment.state, payment.captured_minor, payment.expires_at = "captured", amount_minor, None
        payment.fee_minor = amount_minor * FEE_BASIS_POINTS // 10_000

    def cancel(self, payment_id: str) -> Payment:
        payment = self.payment(payment_id)
        if payment.state in ("cancelled", "expired", "declined"):
            return payment
        if payment.state not in ("authorised", "pending"):
            raise Refusal(422, "not_cancellable", f"the payment is {payment.state}")
        self.releases[payment_id] += 1
        payment.state, payment.expires_at = "cancelled", None
        return payment

    def refund(self, payment_id: str, refund_id: str, amount_minor: int) -> Refund:
        payment = self.payment(payment_id)
        if refund_id in self.refunds:
            return self.refunds[refund_id]
        if payment.state != "captured":
            raise Refusal(422, "not_refundable", f"the payment is {payment.state}")
        if amount_minor > payment.captured_minor - payment.refunded_minor:
            raise Refusal(422, "amount_exceeds_captured")
        failed = payment.source == "tok_norefund"
        made = Refund(payment_id, refund_id, payment.currency, amount_minor, "declined" if failed else "refunded")
        self.refunds[refund_id] = made
        if failed:
            made.decline_code = "refund_failed"
            return made
        self.refunds_done[refund_id] += 1
        payment.refunded_minor += amount_minor
        if payment.refunded_minor == payment.captured_minor:
            payment.state = "refunded"
        return made

    def found_refund(self, payment_id: str, refund_id: str) -> Refund:
        found = self.refunds.get(refund_id)
        if found is None or found.payment_id != payment_id:
            raise Refusal(404, "refund_not_found")
        return found

    def payouts(self) -> Iterator[dict[str, Any]]:
        """Pays out what was captured and not paid out yet: one payout per currency."""
        due: dict[str, list[Payment]] = {}
        for payment in self.payments.values():
            if payment.captured_minor and not payment.paid_out:
                due.setdefault(payment.currency, []).append(payment)
        for currency, payments in sorted(due.items()):
            fees = sum(payment.fee_minor or 0 for payment in payments)
            gross = sum(payment.captured_minor - payment.refunded_minor for payment in payments)
            for payment in payments:
                payment.paid_out = True
            yield {
                "payout_id": f"sbp_{uuid4().hex}",
                "currency": currency,
                "amount_minor": gross - fees,
                "fee_minor": 0,  # payments have told theirs
                "paid_on": datetime.now(UTC).date().isoformat(),
            }
