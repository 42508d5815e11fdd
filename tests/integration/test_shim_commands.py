"""Commands over HTTP: what is published, and what each outcome becomes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4, uuid5

import pytest

from gateway_shim.requests import COMMAND_ID_NAMESPACE
from schemas.codes import Code
from schemas.outcome import Outcome
from tests.integration.shim_peer import Peer, Received, applied, peer, refused, silent
from tests.integration.shim_support import Api, account, api, payment
from tools.sandbox.issuer import Issuer
from tools.stack import NatsServer


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as one:
        yield one


@pytest.fixture
async def handlers(nats_server: NatsServer) -> AsyncIterator[Peer]:
    async with peer(nats_server) as one:
        yield one


@pytest.fixture
async def shim(nats_server: NatsServer, issuer: Issuer, tenant: str) -> AsyncIterator[Api]:
    async with api(nats_server, issuer, tenant, reply_timeout_seconds=5) as one:
        yield one


@pytest.fixture
async def hasty_shim(nats_server: NatsServer, issuer: Issuer, tenant: str) -> AsyncIterator[Api]:
    """Gives up on an outcome after 300 ms."""
    async with api(nats_server, issuer, tenant, reply_timeout_seconds=0.3) as one:
        yield one


async def test_an_applied_command_is_201_with_its_outcome(shim: Api, handlers: Peer) -> None:
    body = payment()
    response = await shim.post("/v1/payments", body, key="k1")
    assert response.status_code == 201
    outcome = response.json()
    assert outcome["status"] == "applied" and set(outcome) == {"command_id", "status", "result", "position"}
    assert response.headers["Billing-Position"] == outcome["position"]
    [command] = handlers.received
    assert (command.tenant_id, command.name, command.body) == (shim.tenant, "payment.record", body)
    assert command.headers["Billing-Actor"] == f"user-of-{shim.tenant}"
    assert command.headers["Billing-Reply-To"].startswith("_INBOX.")


async def test_an_update_is_200(shim: Api, handlers: Peer) -> None:
    headers = shim.headers()
    response = await shim.http.patch(f"/v1/accounts/{uuid4()}", json={"locale": "fa-AF"}, headers=headers)
    assert response.status_code == 200
    assert handlers.received[0].name == "account.update"


async def test_the_key_is_the_command_id_of_this_tenant(shim: Api, handlers: Peer) -> None:
    response = await shim.post("/v1/payments", payment(), key="order 17")
    assert UUID(response.json()["command_id"]) == uuid5(COMMAND_ID_NAMESPACE, f"{shim.tenant}\norder 17")
    other = shim.issuer.mint("another", ["billing.payments.write"])
    response = await shim.http.post("/v1/payments", json=payment(), headers=shim.headers(key="order 17", token=other))
    assert response.status_code == 201, "the same key of another tenant is another command"
    assert len({command.command_id for command in handlers.received}) == 2


async def test_a_retry_gets_the_stored_outcome(shim: Api, handlers: Peer) -> None:
    """JetStream drops the second publish (its PubAck says duplicate); the attempt after it reaches the inbox."""
    body = payment()
    first = await shim.post("/v1/payments", body, key="same")
    again = await shim.post("/v1/payments", body, key="same")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"status": "duplicate"}
    assert [command.message_id.count(":") for command in handlers.received] == [0, 1]
    third = await shim.post("/v1/payments", body, key="same")
    assert third.json() == again.json()
    assert len({command.message_id for command in handlers.received}) == 3


async def test_a_key_with_another_body_is_refused(shim: Api, handlers: Peer) -> None:
    await shim.post("/v1/payments", payment(), key="reused")
    response = await shim.post("/v1/payments", payment(), key="reused")
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert handlers.received


async def test_a_stored_refusal_stays_a_refusal(shim: Api, handlers: Peer) -> None:
    handlers.decide = refused(Code.ACCOUNT_CLOSED)
    body = payment()
    responses = [await shim.post("/v1/payments", body, key="refused") for _ in range(2)]
    assert [(each.status_code, each.json()["code"]) for each in responses] == [(409, "account_closed")] * 2


async def test_every_code_is_a_problem_document(shim: Api, handlers: Peer) -> None:
    for code in Code:
        handlers.decide = refused(code, invoice_id="i-1")
        response = await shim.post("/v1/payments", payment(), key=code.value)
        problem = response.json()
        assert response.status_code == problem["status"] == code.meaning.http_status
        assert response.headers["content-type"] == "application/problem+json"
        assert problem["type"] == f"urn:billing:problem:{code}"
        assert (problem["code"], problem["retryable"], problem["title"]) == (code, code.retryable, code.meaning.text)
        assert problem["details"] == {"invoice_id": "i-1"}
        assert problem["correlation_id"] == response.headers["X-Correlation-Id"]
        assert ("Retry-After" in response.headers) == (response.status_code == 503)


async def test_a_retryable_refusal_can_succeed_under_the_same_key(shim: Api, handlers: Peer) -> None:
    handlers.decide = refused(Code.TENANT_SERVICE_UNAVAILABLE)
    body = payment()
    response = await shim.post("/v1/payments", body, key="later")
    assert (response.status_code, response.json()["retryable"]) == (503, True)
    handlers.decide = applied
    assert (await shim.post("/v1/payments", body, key="later")).status_code == 201


async def test_a_late_outcome_is_202_with_where_to_ask(hasty_shim: Api, handlers: Peer) -> None:
    handlers.decide = silent
    response = await hasty_shim.post("/v1/payments", payment(), key="late")
    command_id = response.json()["command_id"]
    assert response.status_code == 202
    assert response.json() == {"command_id": command_id, "status": "queued"}
    assert response.headers["Location"] == f"/v1/commands/{command_id}"
    assert (await hasty_shim.get(response.headers["Location"])).status_code == 200
    assert handlers.queried[-1][1:3] == ("command.get", {"command_id": command_id})


async def test_money_moving_routes_need_a_key_and_others_do_not(shim: Api, handlers: Peer) -> None:
    response = await shim.post("/v1/payments", payment())
    assert (response.status_code, response.json()["code"]) == (400, "idempotency_key_required")
    first, second = await shim.post("/v1/accounts", account()), await shim.post("/v1/accounts", account())
    assert first.status_code == second.status_code == 201
    ids = [UUID(each.json()["command_id"]) for each in (first, second)]
    assert ids[0] < ids[1] and {each.version for each in ids} == {7}
    assert [command.name for command in handlers.received] == ["account.open"] * 2


async def test_bad_keys_are_refused(shim: Api) -> None:
    plain = [(name.encode(), value.encode()) for name, value in shim.headers().items()]
    for keys in ((b"",), (b"x" * 256,), (b"tab\there",), ("nöt".encode("latin-1"),), (b"two", b"keys")):
        headers = [*plain, *((b"Idempotency-Key", key) for key in keys)]
        response = await shim.http.post("/v1/payments", json=payment(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "idempotency_key_invalid"), keys


async def test_path_parameters_are_part_of_the_body(shim: Api, handlers: Peer) -> None:
    invoice_id = str(uuid4())
    bare = await shim.http.post(f"/v1/invoices/{invoice_id}/issue", headers=shim.headers(key="a"))
    same = await shim.post(f"/v1/invoices/{invoice_id}/issue", {"invoice_id": invoice_id.upper()}, key="b")
    other = await shim.post(f"/v1/invoices/{invoice_id}/issue", {"invoice_id": str(uuid4())}, key="c")
    assert (bare.status_code, same.status_code) == (200, 200)
    assert [command.body for command in handlers.received] == [{"invoice_id": invoice_id}] * 2
    assert (other.status_code, other.json()["code"]) == (400, "path_body_mismatch")


async def test_the_request_id_of_kong_is_the_correlation_id(shim: Api, handlers: Peer) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    response = await shim.post("/v1/accounts", account(), X_Kong_Request_Id="kong.id-1", traceparent=parent)
    assert response.headers["X-Correlation-Id"] == "kong.id-1"
    assert handlers.received[0].headers["Billing-Correlation-Id"] == "kong.id-1"
    assert handlers.received[0].headers["traceparent"] == parent


async def test_a_forged_correlation_id_is_replaced(shim: Api, handlers: Peer) -> None:
    plain = [(name.encode(), value.encode()) for name, value in shim.headers(traceparent="00-zz").items()]
    for forged in (b"spaces in it", b"x" * 129, b"a\xe9"):
        headers = [*plain, (b"X-Kong-Request-Id", forged)]
        response = await shim.http.post("/v1/accounts", json=account(), headers=headers)
        assert len(response.headers["X-Correlation-Id"]) == 32
        sent = handlers.received[-1].headers
        assert sent["Billing-Correlation-Id"] == response.headers["X-Correlation-Id"]
        assert "traceparent" not in sent


async def test_outcomes_find_their_own_requests(shim: Api, handlers: Peer) -> None:
    """200 at once, each with a body of its own; the outcome carries the body's id back."""

    def decide(command: Received) -> Outcome:
        result = applied(command).result or {}
        return applied(command).model_copy(update={"result": result | {"payment_id": command.body["payment_id"]}})

    handlers.decide = decide
    ids = [str(uuid4()) for _ in range(200)]
    answers = await asyncio.gather(*(shim.post("/v1/payments", payment(payment_id=each), key=each) for each in ids))
    assert [answer.json()["result"]["payment_id"] for answer in answers] == ids


async def test_nats_away_is_a_503_and_comes_back_by_itself(nats_server: NatsServer, issuer: Issuer) -> None:
    """Last in this module: it restarts the module's NATS server."""
    async with api(nats_server, issuer, reply_timeout_seconds=2) as shim:
        nats_server.stop()
        try:
            response = await shim.post("/v1/payments", payment(), key="away")
            assert (response.status_code, response.json()["code"]) == (503, "broker_unavailable")
            assert response.json()["retryable"] and response.headers["Retry-After"] and response.json()["command_id"]
            assert (await shim.get("/v1/accounts")).status_code == 503
            unready = await shim.http.get(f"{shim.metrics_url}/readyz")
            assert (unready.status_code, unready.json()["failing"]) == (503, {"nats": "not connected to NATS"})
            assert (await shim.http.get(f"{shim.metrics_url}/livez")).status_code == 200
        finally:
            nats_server.start()
        async with peer(nats_server), asyncio.timeout(20):
            body = payment()
            while (  # noqa: ASYNC110  nothing tells a client of HTTP when the broker is back
                response := await shim.post("/v1/payments", body, key="again")
            ).status_code == 503:
                await asyncio.sleep(0.05)
            assert response.status_code == 201
