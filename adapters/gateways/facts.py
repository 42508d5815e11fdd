"""What a gateway has, as the internal commands that tell it: the words of answers and webhooks in those of schemas/hold.py."""

from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from adapters.gateways.ports import Answer
from schemas.base import CommandBody, Money
from schemas.gateway import GatewayAdapter
from schemas.hold import SettlePayment, SettlePayout, SettleRefund

# What a webhook may become. The shim's NATS user may publish these, and no other internal command.
WEBHOOK_COMMANDS = ("payment.settle", "payment.settle_refund", "payment.settle_payout", "payment.dispute")


class Fact(NamedTuple):
    """One command and its body."""

    command: str
    body: CommandBody

    def payload(self) -> bytes:
        said: dict[str, Any] = self.body.model_dump(mode="json", exclude_none=True)
        return orjson.dumps(said)


class Told(NamedTuple):
    """An event in a gateway's own words, read. `unattributed`: why nobody can tell which payment it is about."""

    event_id: str
    facts: tuple[Fact, ...] = ()
    unattributed: str | None = None


def settle(payment_id: UUID, answer: Answer) -> Fact:
    body = SettlePayment(
        payment_id=payment_id,
        state=answer.state,
        reference=answer.reference,
        currency=answer.currency,
        authorised_minor=answer.authorised_minor,
        captured_minor=answer.captured_minor,
        refunded_minor=answer.refunded_minor,
        fee_minor=answer.fee_minor,
        expires_at=answer.expires_at,
        decline_code=answer.decline_code,
    )
    return Fact("payment.settle", body)


def settle_refund(refund_id: UUID, answer: Answer) -> Fact:
    """Raises pydantic's ValidationError for a state that no refund has."""
    said = {
        "refund_id": refund_id,
        "state": answer.state,
        "reference": answer.reference,
        "decline_code": answer.decline_code,
    }
    return Fact("payment.settle_refund", SettleRefund.model_validate(said))


def settle_payout(
    adapter: GatewayAdapter, payout_id: str, amount_minor: int, currency: str, *, fee_minor: int, paid_on: date | None
) -> Fact:
    money = Money(amount_minor=amount_minor, currency=currency)
    body = SettlePayout(payout_id=payout_id, adapter=adapter, amount=money, fee_minor=fee_minor, paid_on=paid_on)
    return Fact("payment.settle_payout", body)
