"""Webhooks: accepted with the right signature of this moment only, and read as facts or refused as malformed."""

import hashlib
import hmac
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.gateways import webhooks
from adapters.gateways.facts import WEBHOOK_COMMANDS, Told
from adapters.gateways.webhooks import Forged, Malformed
from gateway_shim import problems
from gateway_shim.problems import ShimCode
from schemas.gateway import GatewayAdapter
from schemas.registry import COMMANDS
from tests.fuzz.mangling import cut, examples, json_bytes, mangled

SECRETS = ("whsec_new", "whsec_old")
NOW = 1_764_000_000
ADAPTERS: tuple[GatewayAdapter, ...] = ("generic", "stripe")
ID = "0b9d1c1e-6d0a-4f7a-9f5e-2b8f0c1d2e3f"


def signed(body: bytes, secret: str = SECRETS[0], at: int = NOW) -> str:
    return f"t={at},v1={hmac.new(secret.encode(), str(at).encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def is_accepted(
    adapter: GatewayAdapter, signature: str | None, body: bytes, secrets: tuple[str, ...] = SECRETS
) -> bool:
    try:
        webhooks.verify(adapter, signature, body, secrets, now=NOW)
    except Forged:
        return False
    return True


adapters = st.sampled_from(ADAPTERS)
bodies = st.binary(max_size=60)


@examples(50)
@given(adapters, st.text(max_size=40), st.sampled_from(SECRETS), st.integers(-299, 299))
def test_the_right_signature_is_accepted(adapter: GatewayAdapter, text: str, secret: str, off: int) -> None:
    body = text.encode()
    assert is_accepted(adapter, signed(body, secret, NOW + off), body)


@examples(300)
@given(adapters, bodies, st.data())
def test_no_other_is(adapter: GatewayAdapter, body: bytes, data: st.DataObject) -> None:
    right = signed(body)
    digest = right.rpartition("=")[2]
    changed = data.draw(cut(right.encode())).decode("latin-1")
    if is_accepted(adapter, changed, body):
        # Whatever else stands there, the very signature of the very time has to.
        assert digest in changed and f"t={NOW}" in changed
    assert not is_accepted(adapter, changed.replace(digest, "0" * 64), body)
    assert not is_accepted(adapter, changed, body + b"x")
    assert not is_accepted(adapter, changed, body, ("whsec_other",))
    assert not is_accepted(adapter, right, body, ())


@examples(200)
@given(adapters, st.text(max_size=80) | st.just(None), bodies)
def test_any_text_for_a_signature_is_refused(adapter: GatewayAdapter, text: str | None, body: bytes) -> None:
    assert not is_accepted(adapter, text, body)
    assert not is_accepted(adapter, f"t={text},v1={text}", body)
    assert not is_accepted(adapter, f"t={NOW},v1={text}", body)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "at", [NOW - 301, NOW + 301, 0, 10**11, -NOW], ids=["old", "early", "epoch", "far", "before the epoch"]
)
def test_another_time_is_refused(adapter: GatewayAdapter, at: int) -> None:
    assert not is_accepted(adapter, signed(b"{}", at=at), b"{}")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_second_time_in_the_header_is_no_way_round_the_first(adapter: GatewayAdapter) -> None:
    old = signed(b"{}", at=NOW - 10_000)
    for forged in (f"{old},t={NOW}", f"t={NOW},{old}", f"{old}, t={NOW}", f" {old};t={NOW}"):
        assert not is_accepted(adapter, forged, b"{}")


PAYMENT = {
    "payment_id": ID,
    "state": "captured",
    "reference": "g-1",
    "currency": "AED",
    "authorised_minor": 100,
    "captured_minor": 100,
    "refunded_minor": 0,
    "fee_minor": 3,
}
REFUND = {
    "payment_id": ID,
    "refund_id": ID,
    "reference": "r-1",
    "state": "refunded",
    "currency": "AED",
    "amount_minor": 5,
}
GENERIC: tuple[dict[str, Any], ...] = (
    {"event_id": "evt-1", "fact": "state", "payment": PAYMENT},
    {"event_id": "evt-2", "fact": "refund", "refund": REFUND},
    {
        "event_id": "evt-3",
        "fact": "payout",
        "payout": {"payout_id": "po-1", "amount_minor": 5, "currency": "AED", "fee_minor": 0, "paid_on": "2026-11-01"},
    },
    {
        "event_id": "evt-4",
        "fact": "dispute_opened",
        "dispute": {"dispute_id": "d-1", "payment_id": ID, "currency": "AED", "amount_minor": 5, "fee_minor": 1},
    },
)
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "status": "succeeded",
    "amount": 100,
    "amount_capturable": 0,
    "amount_received": 100,
    "currency": "aed",
    "metadata": {"billing_payment_id": ID, "billing_refund_id": ID, "payment_id": ID, "refund_id": ID},
    "latest_charge": None,
    "payment_intent": "pi_1",
    "amount_captured": 100,
    "amount_refunded": 0,
    "captured": True,
    "arrival_date": 1_764_000_000,
    "last_payment_error": None,
    "failure_reason": None,
}
TYPES = ("payment_intent.succeeded", "charge.captured", "refund.updated", "payout.paid", "charge.dispute.created", "x")
STRIPE = tuple(
    {
        "id": "evt_1",
        "object": "event",
        "type": each,
        "data": {"object": INTENT | ({"object": "refund"} if each == "refund.updated" else {})},
    }
    for each in TYPES
)


@examples(400)
@given(adapters, st.data())
def test_any_body_is_read_or_malformed(adapter: GatewayAdapter, data: st.DataObject) -> None:
    body = data.draw(json_bytes(*(GENERIC if adapter == "generic" else STRIPE)))
    try:
        told = webhooks.read(adapter, body)
    except Malformed as error:
        if error.cause is not None:
            problems.of_validation(error.cause, ShimCode.WEBHOOK_MALFORMED)
        return
    assert isinstance(told, Told)
    for fact in told.facts:
        assert fact.command in WEBHOOK_COMMANDS
        COMMANDS[fact.command].payload.model_validate_json(fact.payload())
        assert webhooks.command_id("clinic", adapter, told, fact) == webhooks.command_id("clinic", adapter, told, fact)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_some_of_them_are_facts(adapter: GatewayAdapter) -> None:
    """Else the one above would see refusals only."""
    read = [webhooks.read(adapter, orjson.dumps(each)) for each in (GENERIC if adapter == "generic" else STRIPE)]
    assert sum(bool(told.facts) for told in read) == 4


@examples(100)
@given(st.text(max_size=60))
def test_a_secret_file_is_secrets_or_none(text: str) -> None:
    found = webhooks.secrets_of(text)
    assert len(found) <= webhooks.MAX_SECRETS and all(found)


@examples(50)
@given(mangled(list(GENERIC)))
def test_a_list_of_events_is_malformed(said: Any) -> None:
    if isinstance(said, dict):
        return
    with pytest.raises(Malformed):
        webhooks.read("generic", orjson.dumps(said))
