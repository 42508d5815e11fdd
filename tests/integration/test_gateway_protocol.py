"""docs/payment-gateway-protocol.md, executed: requests against the sandbox, answers and events as we read them."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, get_args
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.gateways import webhooks
from adapters.gateways.generic import believed, refusal
from adapters.gateways.generic_answers import PaymentSaid, RefundSaid
from adapters.gateways.ports import Answer, Refused, Unknown
from adapters.gateways.stripe_answers import Intent, StripeRefund, read
from adapters.gateways.wire import Reply
from adapters.tls import client_context
from schemas.gateway import GatewayAdapter
from tests.fixtures.sandbox import sandbox
from tools.sandbox.process import Sandbox

__all__ = ["sandbox"]  # fixture

PAGE = Path(__file__).parents[2] / "docs" / "payment-gateway-protocol.md"
VOLATILE = {"reference", "expires_at"}  # the gateway's own


ADAPTERS: tuple[GatewayAdapter, ...] = get_args(GatewayAdapter)


class Message(NamedTuple):
    first: str
    headers: dict[str, str]
    body: bytes


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def message(text: str) -> Message:
    head, _, body = text.partition("\n\n")
    first, *lines = head.strip().splitlines()
    return Message(first, dict(line.split(": ", 1) for line in lines), body.strip().encode())


HTTP = [message(block) for block in blocks("http")]
WEBHOOK = next(each for each in HTTP if each.first.startswith("POST /v1/webhooks/"))
CALLS = [each for each in HTTP if each is not WEBHOOK]
EXCHANGES = list(zip(CALLS[::2], CALLS[1::2], strict=True))


def test_every_request_of_the_page_is_answered_as_the_page_says(sandbox: Sandbox) -> None:
    merchant = f"{sandbox.url('payment-gateway')}/{uuid4().hex[:8]}"
    with httpx.Client(verify=client_context(sandbox.tls_files), trust_env=False) as http:
        for asked, expected in EXCHANGES:
            method, path = asked.first.split()
            for _ in range(2):  # asked twice, it is the same
                answered = http.request(method, merchant + path, headers=asked.headers, content=asked.body)
                assert answered.status_code == int(expected.first), (asked.first, answered.text)
                said, promised = answered.json(), json.loads(expected.body)
                for name in promised.keys() - VOLATILE:
                    assert said[name] == promised[name], (asked.first, name)


def answer_of(body: bytes, *, refund: bool) -> Answer:
    if refund:
        return believed(body, RefundSaid, lambda _said: True).answer()
    return believed(body, PaymentSaid, lambda _said: True).answer()


def test_every_answer_of_the_page_is_believed() -> None:
    kinds = set()
    for asked, expected in EXCHANGES:
        if int(expected.first) >= 400:
            assert isinstance(refusal(Reply(int(expected.first), {}, expected.body)), Refused)
            continue
        kinds.add(answer_of(expected.body, refund="/refunds" in asked.first).state)
    assert kinds == {"authorised", "declined", "captured", "refunded"}


def test_the_signature_and_the_events_of_the_page() -> None:
    signature = WEBHOOK.headers[webhooks.SIGNATURE_HEADERS["generic"]]
    webhooks.verify("generic", signature, WEBHOOK.body, ("whsec_example",), now=1_795_460_400)
    for late in (1_795_460_400 - 301, 1_795_460_400 + 301):
        with pytest.raises(webhooks.Forged):
            webhooks.verify("generic", signature, WEBHOOK.body, ("whsec_example",), now=late)
    bodies = [WEBHOOK.body, *(block.encode() for block in blocks("json"))]
    commands = [fact.command for body in bodies for fact in webhooks.read("generic", body).facts]
    assert commands == ["payment.settle", "payment.dispute", "payment.settle_payout", "payment.settle_refund"]


# --- whatever comes -------------------------------------------------------------------------------------------------

SAMPLES = [json.loads(expected.body) for _, expected in EXCHANGES] + [json.loads(block) for block in blocks("json")]
STRIPE_SAMPLES: list[dict[str, Any]] = [
    {
        "id": "pi_1", "object": "payment_intent", "status": "succeeded", "amount": 900, "amount_received": 700,
        "currency": "aed", "metadata": {"payment_id": str(UUID(int=7))},
        "latest_charge": {"amount": 900, "amount_refunded": 200, "balance_transaction": {"currency": "aed", "fee": 3}},
    },
    {"id": "re_1", "object": "refund", "amount": 1, "currency": "aed", "status": "succeeded", "metadata": {}},
    {
        "id": "evt_1", "object": "event", "type": "charge.refunded",
        "data": {"object": {"payment_intent": "pi_1", "currency": "aed", "amount": 9, "amount_captured": 9, "captured": True,
                            "amount_refunded": 9, "metadata": {"payment_id": str(UUID(int=7))}}},
    },
    {
        "id": "evt_2", "object": "event", "type": "payout.paid",
        "data": {"object": {"id": "po_1", "amount": 5, "currency": "usd", "arrival_date": 1_795_000_000}},
    },
]  # fmt: skip
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20), st.just(10**15 + 1),
    st.just("payment_intent"), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, samples: list[dict[str, Any]]) -> Any:
    """A sample with one to three places replaced by something odd, or taken away."""
    said = json.loads(json.dumps(draw(st.sampled_from(samples))))
    for _ in range(draw(st.integers(1, 3))):
        place = said
        while True:
            if not isinstance(place, dict) or not place:
                break
            name = draw(st.sampled_from(sorted(place)))
            if isinstance(place[name], dict) and draw(st.booleans()):
                place = place[name]
                continue
            if draw(st.booleans()):
                place[name] = draw(ODD)
            else:
                del place[name]
            break
    return said


@settings(max_examples=150, deadline=None)
@given(said=spoiled(SAMPLES) | ODD)
def test_a_spoiled_answer_is_believed_or_unknown(said: Any) -> None:
    body = json.dumps(said).encode()
    for refund in (False, True):
        with contextlib.suppress(Unknown):
            answer_of(body, refund=refund)
    with contextlib.suppress(Unknown):
        refusal(Reply(422, {}, body))


@settings(max_examples=150, deadline=None)
@given(said=spoiled(STRIPE_SAMPLES) | ODD)
def test_a_spoiled_stripe_object_is_believed_or_unknown(said: Any) -> None:
    with contextlib.suppress(Unknown):
        read(Intent, said).answer()
    with contextlib.suppress(Unknown):
        read(StripeRefund, said).answer()


@settings(max_examples=200, deadline=None)
@given(said=spoiled(SAMPLES) | spoiled(STRIPE_SAMPLES) | ODD)
def test_a_spoiled_event_is_told_or_malformed(said: Any) -> None:
    body = json.dumps(said).encode()
    for adapter in ADAPTERS:
        try:
            told = webhooks.read(adapter, body)
        except webhooks.Malformed:
            continue
        for fact in told.facts:  # whatever passes is a command the handlers can read
            type(fact.body).model_validate_json(fact.payload())


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=60), header=st.text(max_size=80) | st.from_regex(r"t=[0-9]{1,12},v1=[0-9a-f]{64}"))
def test_no_guess_is_a_signature(body: bytes, header: str) -> None:
    for adapter in ADAPTERS:
        with pytest.raises(webhooks.Forged):
            webhooks.verify(adapter, header, body, ("whsec",), now=1_795_460_400)
        with contextlib.suppress(webhooks.Malformed):
            webhooks.read(adapter, body)
