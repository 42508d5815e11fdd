"""Webhooks of payment gateways through the real shim and NATS: forged, replayed, stale, huge, malformed ones."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import nats
import nats.errors
import pytest
import stripe

from adapters.gateways import webhooks
from adapters.gateways.facts import WEBHOOK_COMMANDS
from schemas import headers as names
from schemas.hold import SettlePayment
from schemas.registry import COMMANDS
from schemas.subjects import command_subject
from tests.fixtures.sandbox import control, sandbox
from tests.integration.shim_peer import Peer, Received, peer
from tests.integration.shim_support import Api, api
from tools.sandbox.control import Control
from tools.sandbox.gateway_control import GatewayControl
from tools.sandbox.gateway_world import signature
from tools.sandbox.issuer import Issuer
from tools.stack import NatsServer

__all__ = ["control", "sandbox"]  # fixtures

SECRET, OLD_SECRET, STRIPE_SECRET = "whsec_new_one", "whsec_old_one", "whsec_of_stripe"
WAIT_SECONDS = 20.0
BODY_MAX_BYTES = 16_384


class Hooked(NamedTuple):
    """A shim with secrets for its tenant, `other` (a tenant with another secret) and nobody else."""

    shim: Api
    secrets: Path
    handlers: Peer

    async def post(
        self, body: bytes, *, tenant: str | None = None, adapter: str = "generic", **sign: Any
    ) -> httpx.Response:
        headers: Any = {"Content-Type": "application/json"} | _signature(adapter, body, **sign)
        path = f"/v1/webhooks/{adapter}/{tenant or self.shim.tenant}"
        return await self.shim.http.post(path, content=body, headers=headers)

    def commands(self) -> list[Received]:
        return [each for each in self.handlers.received if each.tenant_id == self.shim.tenant]

    async def told(self, count: int = 1) -> list[Received]:
        """The commands that came of webhooks of this tenant, once there are `count`."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = self.commands()
                if len(found) >= count:
                    return found
                self.handlers.arrived.clear()
                await self.handlers.arrived.wait()


def _signature(
    adapter: str, body: bytes, secret: str = SECRET, at: int | None = None, header: str | bytes | None = None
) -> dict[str, str | bytes]:
    at = int(time.time()) if at is None else at
    name = webhooks.SIGNATURE_HEADERS["stripe" if adapter == "stripe" else "generic"]
    if header is not None:
        return {name: header} if header else {}
    if adapter == "stripe":
        text = body.decode(errors="replace")
        return {name: stripe.WebhookSignature.generate_signature_header(text, secret, at)}
    return {name: signature(secret, body, at)}


def event(fact: str = "state", **about: Any) -> dict[str, Any]:
    payment = {
        "payment_id": str(uuid4()),
        "reference": "sbx_1",
        "state": "captured",
        "currency": "AED",
        "authorised_minor": 12_500,
        "captured_minor": 12_500,
        "fee_minor": 312,
    }
    part = {"payment": payment | about} if fact == "state" else about
    return {"event_id": f"evt_{uuid4().hex}", "created_at": "2026-11-23T10:00:00Z", "fact": fact, **part}


def encoded(said: Any) -> bytes:
    return json.dumps(said).encode()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as one:
        yield one


@pytest.fixture
async def hooked(nats_server: NatsServer, issuer: Issuer, tenant: str, tmp_path: Path) -> AsyncIterator[Hooked]:
    (tmp_path / f"{webhooks.SECRET_PREFIX}{tenant}").write_text(f"{SECRET}\n{OLD_SECRET}\n{STRIPE_SECRET}\n")
    (tmp_path / f"{webhooks.SECRET_PREFIX}other").write_text("whsec_of_the_other")
    async with peer(nats_server) as handlers:
        async with api(nats_server, issuer, tenant, secrets_dir=tmp_path, body_max_bytes=BODY_MAX_BYTES) as shim:
            yield Hooked(shim, tmp_path, handlers)


async def test_what_a_gateway_tells_becomes_its_commands(hooked: Hooked) -> None:
    payment_id, refund_id = str(uuid4()), str(uuid4())
    dispute = {"payment_id": payment_id, "dispute_id": "d1", "currency": "AED", "amount_minor": 700, "fee_minor": 50}
    refund = {
        "payment_id": payment_id,
        "refund_id": refund_id,
        "reference": "r1",
        "state": "refunded",
        "currency": "AED",
    }
    payout = {"payout_id": "po1", "currency": "AED", "amount_minor": 900, "paid_on": "2026-11-23"}
    events = [
        event(payment_id=payment_id),
        event("refund", refund=refund | {"amount_minor": 500}),
        event("dispute_opened", dispute=dispute),
        event("dispute_lost", dispute=dispute),
        event("payout", payout=payout),
    ]
    for said in events:
        answered = await hooked.post(encoded(said))
        assert answered.status_code == 200, answered.text
        assert answered.json()["status"] == "queued"
    told = {(each.name, each.body.get("stage")): each for each in await hooked.told(len(events))}
    assert told["payment.settle", None].body == {
        "payment_id": payment_id,
        "state": "captured",
        "reference": "sbx_1",
        "currency": "AED",
        "authorised_minor": 12_500,
        "captured_minor": 12_500,
        "refunded_minor": 0,
        "fee_minor": 312,
    }
    assert told["payment.settle_refund", None].body == {
        "refund_id": refund_id,
        "state": "refunded",
        "reference": "r1",
    }
    assert told["payment.dispute", "lost"].body["amount_minor"] == 700
    assert told["payment.dispute", "opened"].body["payment_id"] == payment_id
    assert told["payment.settle_payout", None].body["amount"] == {"amount_minor": 900, "currency": "AED"}
    for (name, _), command in told.items():
        COMMANDS[name].payload.model_validate_json(json.dumps(command.body))
        assert command.headers[names.ACTOR] == "gateway:generic"
        assert names.REPLY_TO not in command.headers


async def test_a_replay_is_the_same_command(hooked: Hooked) -> None:
    body = encoded(event())
    first, again = await hooked.post(body), await hooked.post(body)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    other = await hooked.post(encoded(event()))
    assert other.json()["command_ids"] != first.json()["command_ids"]
    (one, two) = await hooked.told(2)  # JetStream dropped the replay; had it not, the inbox would have
    assert [str(one.command_id), str(two.command_id)] == first.json()["command_ids"] + other.json()["command_ids"]


async def test_old_and_new_secret_are_good_until_the_old_one_is_taken_away(hooked: Hooked) -> None:
    body = encoded(event())
    assert [(await hooked.post(body, secret=secret)).status_code for secret in (SECRET, OLD_SECRET)] == [200, 200]
    file = hooked.secrets / f"{webhooks.SECRET_PREFIX}{hooked.shim.tenant}"
    replaced = file.with_suffix(".new")
    replaced.write_text(SECRET)
    replaced.replace(file)
    assert [(await hooked.post(body, secret=secret)).status_code for secret in (SECRET, OLD_SECRET)] == [200, 401]


FORGED: dict[str, dict[str, Any]] = {
    "no signature": {"header": ""},
    "nonsense": {"header": "v1=deadbeef"},
    "not ASCII": {"header": "t=1,v1=é".encode()},
    "wrong secret": {"secret": "whsec_guessed"},
    "empty secret": {"secret": ""},
    "the other tenant's secret": {"secret": "whsec_of_the_other"},
    "stale": {"at_offset": -webhooks.TOLERANCE_SECONDS - 5},
    "from the future": {"at_offset": webhooks.TOLERANCE_SECONDS + 60},
    "an unknown tenant": {"tenant": "nobody"},
    "no tenant at all": {"tenant": "a.b"},
}


@pytest.mark.parametrize("adapter", ["generic", "stripe"])
async def test_what_is_forged_is_refused_alike(hooked: Hooked, adapter: str) -> None:
    answers = {}
    for why, how in FORGED.items():
        offset = {"at": int(time.time()) + how["at_offset"]} if "at_offset" in how else how
        answers[why] = await hooked.post(encoded(event()), adapter=adapter, **offset)
    assert {why: answer.status_code for why, answer in answers.items()} == dict.fromkeys(FORGED, 401)
    told = [{**answer.json(), "correlation_id": ""} for answer in answers.values()]
    assert all(each == told[0] for each in told), "who is a tenant must not show"
    assert told[0]["code"] == "signature_invalid"
    assert await hooked.shim.metric("billing_gateway_webhooks_total", adapter=adapter, outcome="forged") >= len(FORGED)
    assert hooked.commands() == []


async def test_a_signature_is_of_one_body_and_one_time(hooked: Hooked) -> None:
    body, now = encoded(event()), int(time.time())
    valid = signature(SECRET, body, now)
    for changed, header in [
        (body + b" ", valid),
        (body.replace(b"12500", b"99900"), valid),
        (body, valid.replace(f"t={now}", f"t={now + 1}")),
        (body, f"t={now}," + valid),
        (body, valid.replace("v1", "v0")),
    ]:
        assert (await hooked.post(changed, header=header)).status_code == 401, header
    twice = [(webhooks.SIGNATURE_HEADERS["generic"], valid)] * 2
    path = f"/v1/webhooks/generic/{hooked.shim.tenant}"
    assert (await hooked.shim.http.post(path, content=body, headers=twice)).status_code == 401
    assert (await hooked.post(body, header=valid + ",v1=" + "0" * 64)).status_code == 200  # one that fits is enough


MALFORMED = {
    "not JSON": b"{",
    "no object": b"[]",
    "nothing": b"",
    "no fields": b"{}",
    "no such fact": encoded(event() | {"fact": "gift"}),
    "without its part": encoded(event() | {"payment": None}),
    "text as amount": encoded(event(captured_minor="12500")),
    "more captured than authorised": encoded(event(captured_minor=99_999)),
    "no currency": encoded(event(currency="XXX")),
    "an amount beyond bounds": encoded(event(authorised_minor=10**18)),
    "bottomless": b'{"a":' * 2000 + b"1" + b"}" * 2000,
    "not UTF-8": b'{"event_id":"\xff"}',
}


async def test_signed_but_malformed_says_what_is_wrong(hooked: Hooked) -> None:
    answers = {why: await hooked.post(body) for why, body in MALFORMED.items()}
    assert {why: answer.status_code for why, answer in answers.items()} == dict.fromkeys(MALFORMED, 400)
    for answer in answers.values():
        found = answer.json()
        assert found["code"] == "webhook_malformed"
        assert found.get("errors") or found.get("detail")
    errors = answers["text as amount"].json()["errors"]
    assert [(each["field"], each["rule"]) for each in errors] == [("payment.captured_minor", "int_type")]
    assert hooked.commands() == []


async def test_a_huge_body_and_other_adapters_and_methods(hooked: Hooked) -> None:
    assert (await hooked.post(b" " * (BODY_MAX_BYTES + 1))).status_code == 413
    path = f"/v1/webhooks/paypal/{hooked.shim.tenant}"
    assert (await hooked.shim.http.post(path, content=b"{}")).status_code == 404
    got = await hooked.shim.http.get(f"/v1/webhooks/generic/{hooked.shim.tenant}")
    assert (got.status_code, got.headers["allow"]) == (405, "POST")


async def test_without_nats_the_gateway_is_asked_to_come_again(hooked: Hooked, nats_server: NatsServer) -> None:
    body = encoded(event())
    nats_server.stop()
    try:
        answered = await hooked.post(body)
    finally:
        nats_server.start()
    assert answered.status_code == 503
    assert answered.headers["retry-after"]
    async with asyncio.timeout(WAIT_SECONDS):
        while (again := await hooked.post(body)).status_code != 200:
            assert again.status_code == 503
            await asyncio.sleep(0.05)
    assert str((await hooked.told())[0].command_id) == again.json()["command_ids"][0]


def stripe_event(kind: str, about: dict[str, Any]) -> bytes:
    made = {"id": f"evt_{uuid4().hex}", "object": "event", "type": kind, "api_version": "2026-01-28", "livemode": False}
    return encoded(made | {"data": {"object": about}})


async def test_stripes_events(hooked: Hooked) -> None:
    payment_id, refund_id = str(uuid4()), str(uuid4())
    mine = {"payment_id": payment_id}
    intent = {"id": "pi_1", "object": "payment_intent", "amount": 900, "currency": "aed", "metadata": mine}
    charge = {
        "id": "ch_1",
        "payment_intent": "pi_1",
        "currency": "aed",
        "amount": 900,
        "metadata": mine,
        "captured": True,
    }
    told: list[tuple[str, dict[str, Any]]] = [
        ("payment_intent.amount_capturable_updated", intent | {"status": "requires_capture", "latest_charge": "ch_1"}),
        ("payment_intent.succeeded", intent | {"status": "succeeded", "amount_received": 700}),
        (
            "charge.refunded",
            charge | {"amount_captured": 700, "amount_refunded": 300},
        ),  # 200 were released, 100 refunded
        (
            "payment_intent.payment_failed",
            intent | {"status": "requires_payment_method", "last_payment_error": {"code": "card_declined"}},
        ),
        ("payment_intent.canceled", intent | {"status": "canceled", "cancellation_reason": "automatic"}),
        (
            "refund.updated",
            {"id": "re_1", "object": "refund", "amount": 100, "currency": "aed", "status": "succeeded"}
            | {"metadata": mine | {"refund_id": refund_id}},
        ),
        ("payout.paid", {"id": "po_1", "amount": 600, "currency": "aed", "arrival_date": 1_795_000_000}),
    ]
    others: list[tuple[str, dict[str, Any]]] = [
        ("payment_intent.succeeded", intent | {"status": "succeeded", "amount_received": 900, "metadata": {}}),
        ("customer.created", {"id": "cus_1"}),
        ("charge.dispute.created", {"id": "dp_1", "object": "dispute", "payment_intent": "pi_1"}),
        ("payout.failed", {"id": "po_1"}),
    ]
    for kind, about in told + others:
        answered = await hooked.post(stripe_event(kind, about), adapter="stripe", secret=STRIPE_SECRET)
        assert answered.status_code == 200, (kind, answered.text)
        assert answered.json()["status"] == ("queued" if (kind, about) in told else "ignored"), kind
    commands = await hooked.told(len(told))
    found = [
        (each.name, each.body.get("state"), each.body.get("captured_minor"), each.body.get("refunded_minor"))
        for each in commands
    ]
    assert sorted(found, key=str) == sorted(
        [
            ("payment.settle", "authorised", 0, 0),
            ("payment.settle", "captured", 700, 0),
            ("payment.settle", "captured", 700, 100),
            ("payment.settle", "declined", 0, 0),
            ("payment.settle", "expired", 0, 0),
            ("payment.settle_refund", "refunded", None, None),
            ("payment.settle_payout", None, None, None),
        ],
        key=str,
    )
    wrong = stripe_event("payment_intent.succeeded", intent | {"status": "succeeded", "amount_received": "900"})
    assert (await hooked.post(wrong, adapter="stripe", secret=STRIPE_SECRET)).json()["code"] == "webhook_malformed"


async def test_the_sandboxs_own_webhooks_arrive(hooked: Hooked, control: Control) -> None:
    """Another program's request, over real HTTP; sent again as long as it is not taken."""
    merchant = control.gateway(hooked.shim.tenant)
    url = f"{hooked.shim.base_url}/v1/webhooks/generic/{hooked.shim.tenant}"
    merchant.webhooks(url, SECRET)
    said = event()
    await asyncio.to_thread(merchant.send_event, said)
    (command,) = await hooked.told()
    assert SettlePayment.model_validate_json(json.dumps(command.body)).captured_minor == 12_500
    merchant.webhooks(url, "whsec_wrong")
    await asyncio.to_thread(merchant.send_event, event())
    async with asyncio.timeout(WAIT_SECONDS):
        async for first, second in _deliveries(merchant):
            if len(second["statuses"]) > 1:
                assert (first["statuses"], second["statuses"][:2]) == ([200], [401, 401])
                break


async def _deliveries(merchant: GatewayControl) -> AsyncIterator[Sequence[dict[str, Any]]]:
    while True:
        yield await asyncio.to_thread(merchant.deliveries)
        await asyncio.sleep(0.05)


async def test_the_shims_nats_user_may_send_these_internal_commands_and_no_others(nats_server: NatsServer) -> None:
    denied: list[str] = []
    refused = asyncio.Event()

    async def on_error(error: Exception) -> None:
        denied.append(str(error))
        refused.set()

    client = await nats.connect(nats_server.url("shim"), error_cb=on_error)
    try:
        for name, spec in COMMANDS.items():
            refused.clear()
            headers = {names.MESSAGE_ID: str(uuid4())}
            await client.publish(command_subject("t-permissions", name), b"{}", headers=headers)
            await client.flush()
            if spec.internal and name not in WEBHOOK_COMMANDS:
                async with asyncio.timeout(WAIT_SECONDS):
                    await refused.wait()
        assert len(denied) == sum(spec.internal and name not in WEBHOOK_COMMANDS for name, spec in COMMANDS.items())
        assert all("permissions violation" in each.lower() for each in denied), denied
    finally:
        await client.close()


def test_the_generic_signature_is_what_the_protocol_says() -> None:
    body, now = b'{"a":1}', 1_795_000_000
    digest = hmac.new(b"s3cret", b"1795000000." + body, hashlib.sha256).hexdigest()
    webhooks.verify("generic", f"t={now},v1={digest}", body, ("s3cret",), now=now)
    assert webhooks.secrets_of(" new \n\nold\n") == ("new", "old")
