"""Webhooks: who sent it (the signature, over body and time), and what it says, as the commands that say it to the ledger.

    verify("generic", headers, body, secrets, now)      # Forged
    told = read("generic", body)                        # Malformed
    told.facts                                          # commands: payment.settle, payment.settle_refund, …

Nothing here looks anything up: what a gateway has is told as often and in whatever order it comes, and applied as far as it is
news.
"""

import hashlib
import hmac
import re
import secrets as randomness
from collections.abc import Mapping, Sequence
from uuid import UUID, uuid5

import orjson
from pydantic import ValidationError

from adapters.gateways import stripe_events
from adapters.gateways.facts import Fact, Told, settle, settle_payout, settle_refund
from adapters.gateways.generic_answers import EventSaid
from schemas.gateway import GatewayAdapter
from schemas.hold import DisputePayment, DisputeStage

SIGNATURE_HEADERS: Mapping[GatewayAdapter, str] = {"generic": "Billing-Signature", "stripe": "Stripe-Signature"}
SECRET_PREFIX = "PAYMENT_GATEWAY_WEBHOOK_SECRET_"
MAX_SECRETS = 4  # lines of the file: the new one, the old one while it is still in use, and no long history
TOLERANCE_SECONDS = (
    300  # Stripe's own; what is older is a replay, what is younger than now a wrong clock or a forged one
)
# Never change it: an event that is sent again must mean the same command.
COMMAND_ID_NAMESPACE = UUID("1d0a4f0e-6a57-5a2b-9c3b-5d4f0b8a7c21")

_TIME = re.compile(r"(?:^|,) *t=([0-9]{1,12})(?=,|$)")
_GENERIC = re.compile(r"t=([0-9]{1,12})((?:,v1=[0-9a-f]{64}){1,4})")
_NOBODYS = (randomness.token_hex(32),)  # so that a tenant we do not know takes the same steps as one we do


class Forged(Exception):
    """No signature of any secret of this tenant, or not of now. Says no more: whoever asks need not learn who is a tenant."""


class Malformed(Exception):
    """Signed, but not what was agreed. `cause` has the fields, where it is about fields."""

    def __init__(self, detail: str, cause: ValidationError | None = None) -> None:
        self.detail, self.cause = detail, cause
        super().__init__(detail)


def command_id(tenant_id: str, adapter: GatewayAdapter, told: Told, fact: Fact) -> UUID:
    """The same whenever the same event comes."""
    return uuid5(COMMAND_ID_NAMESPACE, f"{tenant_id}\n{adapter}\n{told.event_id}\n{fact.command}")


def secrets_of(text: str | None) -> tuple[str, ...]:
    """The secrets in a secret file: one per line, the newest first."""
    lines = (line.strip() for line in (text or "").splitlines())
    return tuple(line for line in lines if line)[:MAX_SECRETS]


def verify(adapter: GatewayAdapter, signature: str | None, body: bytes, secrets: Sequence[str], *, now: float) -> None:
    """Raises Forged. `now` in Unix seconds."""
    check = _stripe_signature if adapter == "stripe" else _generic_signature
    # Each secret, also after one that fits: how long it takes tells nothing.
    fitting = [check(signature or "", body, secret, now) for secret in secrets or _NOBODYS]
    if not secrets or not any(fitting):
        raise Forged


def read(adapter: GatewayAdapter, body: bytes) -> Told:
    """Raises Malformed."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error.msg} at character {error.pos}") from None
    try:
        return _generic(EventSaid.model_validate(said)) if adapter == "generic" else stripe_events.read(said)
    except ValidationError as error:
        raise Malformed("the event is not as the protocol has it", error) from None
    except RecursionError:
        raise Malformed("nested too deeply") from None


def _generic(said: EventSaid) -> Told:
    if said.payment is not None and said.fact == "state":
        payment = said.payment
        return Told(said.event_id, (settle(payment.payment_id, payment.answer()),))
    if said.refund is not None and said.fact == "refund":
        return Told(said.event_id, (settle_refund(said.refund.refund_id, said.refund.answer()),))
    if said.payout is not None and said.fact == "payout":
        paid = said.payout
        told = settle_payout(
            "generic", paid.payout_id, paid.amount_minor, paid.currency, fee_minor=paid.fee_minor, paid_on=paid.paid_on
        )
        return Told(said.event_id, (told,))
    if said.dispute is None:
        raise Malformed(f"an event of fact {said.fact} says nothing about it")
    stages: dict[str, DisputeStage] = {"dispute_opened": "opened", "dispute_won": "won", "dispute_lost": "lost"}
    dispute = DisputePayment(
        payment_id=said.dispute.payment_id,
        stage=stages[said.fact],
        amount_minor=said.dispute.amount_minor,
        fee_minor=said.dispute.fee_minor,
        reference=said.dispute.dispute_id,
    )
    return Told(said.event_id, (Fact("payment.dispute", dispute),))


def _generic_signature(signature: str, body: bytes, secret: str, now: float) -> bool:
    match = _GENERIC.fullmatch(signature)
    if match is None:
        return False
    expected = hmac.new(secret.encode(), match[1].encode() + b"." + body, hashlib.sha256).hexdigest()
    given = match[2].split(",v1=")[1:]
    fitting = [hmac.compare_digest(expected, each) for each in given]
    return any(fitting) and abs(now - int(match[1])) <= TOLERANCE_SECONDS


def _stripe_signature(signature: str, body: bytes, secret: str, now: float) -> bool:
    times = _TIME.findall(signature)
    if len(times) != 1 or not signature.isascii():
        return False
    import stripe

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret)
    except (stripe.SignatureVerificationError, ValueError):  # ValueError: the body is not UTF-8
        return False
    return abs(now - int(times[0])) <= TOLERANCE_SECONDS
