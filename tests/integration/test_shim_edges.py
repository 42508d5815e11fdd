"""Limits, malformed input and the surface round the routes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway_shim.app import query_wait_seconds
from gateway_shim.serve import running
from schemas.codes import Code
from schemas.outcome import Answer, problem
from schemas.registry import QUERIES
from tests.integration.shim_peer import Peer, applied, peer, silent
from tests.integration.shim_support import Api, account, api, api_settings, payment
from tools.sandbox.issuer import Issuer
from tools.stack import NatsServer

UUID_TEXT = "018f3b1c-7c00-7b1a-9d53-0c5b1a2e4f60"


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
    async with api(nats_server, issuer, tenant, body_max_bytes=4096) as one:
        yield one


async def _raw(shim: Api, content: bytes, content_type: str = "application/json") -> httpx.Response:
    headers = shim.headers(key=str(uuid4())) | {"Content-Type": content_type}
    return await shim.http.post("/v1/payments", content=content, headers=headers)


def _problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


VALID = json.dumps(payment(account_id=UUID_TEXT)).encode()


NOT_OBJECTS = (
    b"{",
    b"nonsense",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe{}",
    b"\xef\xbb\xbf" + VALID,
    VALID.replace(b"cash", b"ca\x00sh"),
    VALID.replace(b'"cash"', b'"\\ud800"'),
    VALID.replace(b"125000", b"NaN"),
    b"[" * 2000,
    b'{"a":' * 700,
)


async def test_what_is_not_a_json_object(shim: Api) -> None:
    for content in NOT_OBJECTS:
        assert _problem(await _raw(shim, content)) == (400, "malformed_command"), content[:40]


BAD_FIELDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"surprise": 1}, "surprise"),
    ({"amount": {"amount_minor": 1.5, "currency": "AED"}}, "amount.amount_minor"),
    ({"amount": {"amount_minor": "1", "currency": "AED"}}, "amount.amount_minor"),
    ({"amount": {"amount_minor": True, "currency": "AED"}}, "amount.amount_minor"),
    ({"amount": {"amount_minor": 0, "currency": "AED"}}, "amount.amount_minor"),
    ({"amount": {"amount_minor": 2**63, "currency": "AED"}}, "amount.amount_minor"),
    ({"amount": {"amount_minor": 10**30, "currency": "AED"}}, "amount.amount_minor"),
    ({"amount": {"amount_minor": 10**15 + 1, "currency": "AED"}}, "amount.amount_minor"),
    ({"amount": {"amount_minor": 1, "currency": "XXX"}}, "amount.currency"),
    ({"amount": {"amount_minor": 1, "currency": "aed"}}, "amount.currency"),
    ({"method": "barter"}, "method"),
    ({"account_id": "1"}, "account_id"),
    ({"received_on": "2026-02-30"}, "received_on"),
    ({"received_on": 1}, "received_on"),
    ({"allocations": [{"invoice_id": UUID_TEXT}]}, "allocations.0.amount_minor"),
    ({"reference": "a\u0000b"}, "reference"),
)


async def test_fields_are_named_and_values_are_not_echoed(shim: Api) -> None:
    secret = "Zmarai-Secret"
    for change, field in BAD_FIELDS:
        response = await _raw(shim, json.dumps(payment(party_id=secret) | change).encode())
        assert _problem(response) == (400, "malformed_command"), change
        assert [error["field"] for error in response.json()["errors"]] == [field]
        assert secret not in response.text and "barter" not in response.text


async def test_names_keep_their_joiners(shim: Api, handlers: Peer) -> None:
    """Dari and Pashto names: ZWNJ, Pashto letters, combining marks and an astral character arrive as they were sent."""
    name = "می‌روم ګل‌پاڼه é 𞤀"
    assert (await shim.post("/v1/accounts", account(guarantor=name))).status_code == 201
    assert handlers.received[0].body["guarantor"] == name


async def test_unicode_in_paths_and_queries(shim: Api, handlers: Peer) -> None:
    for path in ("/v1/accounts/%00", "/v1/accounts/%FF%FE", "/v1/accounts/می", "/v1/accounts/%F0%9F%92%A9"):
        assert _problem(await shim.get(path)) == (400, "malformed_command"), path
    assert _problem(await shim.get("/v1/accounts", patient="Patient/\u0000")) == (400, "malformed_command")
    assert _problem(await shim.get("/v1/accounts", patient="Patient/١")) == (400, "malformed_command")
    assert not handlers.queried


async def test_large_bodies_are_refused(shim: Api) -> None:
    assert _problem(await _raw(shim, b" " * 5000)) == (413, "body_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    headers = shim.headers(key="k") | {"Content-Type": "application/json"}
    response = await shim.http.post("/v1/payments", content=chunks(), headers=headers)
    assert _problem(response) == (413, "body_too_large")
    assert (await shim.http.get("/openapi.json")).status_code == 200


CONTENT_TYPES = (
    ("application/json", 201),
    ("application/json; charset=utf-8", 201),
    ("Application/JSON;charset=UTF-8", 201),
    ("application/json; charset=latin-1", 415),
    ("text/plain", 415),
    ("application/x-www-form-urlencoded", 415),
    ("application/jsonp", 415),
    ("", 415),
)


async def test_content_types(shim: Api, handlers: Peer) -> None:
    for content_type, expected in CONTENT_TYPES:
        assert (await _raw(shim, VALID, content_type)).status_code == expected, content_type
    assert len(handlers.received) == 3


async def test_another_tenant_in_the_body_is_refused(shim: Api, handlers: Peer) -> None:
    response = await shim.post("/v1/accounts", account(tenant_id="another"))
    assert _problem(response) == (403, "tenant_mismatch")
    assert _problem(await shim.get("/v1/accounts", tenant_id="another")) == (403, "tenant_mismatch")
    assert (await shim.post("/v1/accounts", account(tenant_id=shim.tenant))).status_code == 201
    assert len(handlers.received) == 1


async def test_query_strings_become_typed_queries(shim: Api, handlers: Peer) -> None:
    headers = shim.headers(Billing_At_Least="0/1A2B3C")
    parameters: dict[str, str | int] = {"limit": 7, "status": "open", "patient": "Patient/9"}
    response = await shim.http.get("/v1/accounts", params=parameters, headers=headers)
    assert response.status_code == 200 and response.headers["Billing-Position"] == "0/1A2B3C"
    assert set(response.json()) == {"items", "next_cursor"}
    [(tenant, name, body, sent)] = handlers.queried
    assert (tenant, name) == (shim.tenant, "account.list")
    assert body == {"limit": 7, "status": "open", "patient": "Patient/9", "at_least": "0/1A2B3C"}
    assert sent["Billing-Actor"] == f"user-of-{shim.tenant}" and sent["Billing-Correlation-Id"]


BAD_QUERIES = (
    "limit=0",
    "limit=201",
    "limit=1.0",
    "limit=+1",
    "limit=١",
    "limit=",
    "limit=1&limit=2",
    "nonsense=1",
    "status=OPEN",
)


async def test_bad_query_strings(shim: Api, handlers: Peer) -> None:
    for query in BAD_QUERIES:
        response = await shim.get(f"/v1/accounts?{query}")
        assert response.status_code == 400, query
        assert response.json()["errors"][0]["field"] == query.split("=", maxsplit=1)[0]
    assert not handlers.queried


async def test_a_path_parameter_is_not_a_query_parameter(shim: Api) -> None:
    assert (await shim.get(f"/v1/accounts/{UUID_TEXT}?account_id={UUID_TEXT}")).status_code == 400
    assert (await shim.post("/v1/accounts?dry_run=true", account())).status_code == 400
    assert (await shim.get("/v1/accounts?cursor=" + "x" * 5000)).status_code == 400


async def test_a_refused_and_an_unanswered_query(
    nats_server: NatsServer, issuer: Issuer, handlers: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway_shim.app.QUERY_WAIT_MAX_SECONDS", 0.3)
    async with api(nats_server, issuer) as shim:
        handlers.answer = lambda *_: Answer(error=problem(Code.ACCOUNT_NOT_FOUND))
        assert _problem(await shim.get(f"/v1/accounts/{UUID_TEXT}")) == (404, "account_not_found")
        handlers.answer = lambda *_: None
        response = await shim.get(f"/v1/accounts/{UUID_TEXT}")
        assert _problem(response) == (503, "service_unavailable") and response.headers["Retry-After"]


def test_a_query_is_waited_for_longer_than_it_is_worked_on_and_shorter_than_kong_waits() -> None:
    for spec in QUERIES.values():
        assert min(spec.timeout_seconds, 54.0) < query_wait_seconds(spec) < 60.0, spec.name


async def test_a_query_without_handlers_is_refused_at_once(shim: Api) -> None:
    async with asyncio.timeout(1):
        assert _problem(await shim.get("/v1/accounts")) == (503, "service_unavailable")


async def test_unknown_paths_and_methods(shim: Api) -> None:
    for path in ("/nothing", "/v1/payments/", "/v1", "/v1/accounts/a/b", "//v1/accounts", "/docs/../v1x"):
        assert _problem(await shim.get(path)) == (404, "route_not_found"), path
    response = await shim.http.delete("/v1/accounts")
    assert _problem(response) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, POST"
    assert (await shim.http.request("BREW", "/v1/accounts")).status_code in (400, 405)


async def test_too_many_requests_in_flight(nats_server: NatsServer, issuer: Issuer, handlers: Peer) -> None:
    async with api(nats_server, issuer, in_flight_max=3, reply_timeout_seconds=2) as shim:
        handlers.decide = silent
        waiting = [asyncio.create_task(shim.post("/v1/payments", payment(), key=str(number))) for number in range(3)]
        async with asyncio.timeout(10):
            while len(handlers.received) < 3:
                handlers.arrived.clear()
                await handlers.arrived.wait()
        response = await shim.post("/v1/payments", payment(), key="one too many")
        assert _problem(response) == (503, "overloaded") and response.headers["Retry-After"]
        assert await shim.metric("billing_http_requests_in_flight") == 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_stopping_finishes_what_is_in_flight(nats_server: NatsServer, issuer: Issuer, handlers: Peer) -> None:
    handlers.decide = silent
    stop = asyncio.Event()
    async with httpx.AsyncClient(timeout=30) as http, contextlib.AsyncExitStack() as stack:
        ports = await stack.enter_async_context(running(api_settings(nats_server, issuer), stop=stop))
        shim = Api(http, f"http://127.0.0.1:{ports.http}", f"http://127.0.0.1:{ports.metrics}", issuer, "clinic")
        request = asyncio.create_task(http.post(f"{shim.base_url}/v1/accounts", json=account(), headers=shim.headers()))
        async with asyncio.timeout(10):
            await handlers.arrived.wait()
        stop.set()
        readiness = await http.get(f"{shim.metrics_url}/readyz")
        assert readiness.json()["failing"] == {"stopping": "stopping"}
        closing = asyncio.create_task(stack.aclose())
        async with asyncio.timeout(10):
            await _refused(shim.base_url)
        assert not request.done()
        command = handlers.received[0]
        outcome = applied(command).model_dump_json().encode()
        await handlers.client.publish(command.headers["Billing-Reply-To"], outcome)
        assert (await request).status_code == 201
        await closing


async def _refused(base_url: str) -> None:
    """Until new connections are refused."""
    async with httpx.AsyncClient() as http:
        while True:
            try:
                await http.get(base_url)
            except httpx.ConnectError:
                return
            except httpx.TransportError:
                continue  # accepted by the kernel, never by the server


async def test_every_response_carries_security_headers(shim: Api) -> None:
    for path in ("/", "/docs", "/openapi.json", "/nothing", "/v1/accounts"):
        response = await shim.http.get(path)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src" in response.headers["Content-Security-Policy"]
        assert "server" not in response.headers
        assert response.headers["X-Correlation-Id"]


async def test_the_reference_page_needs_nothing_from_elsewhere(shim: Api) -> None:
    redirect = await shim.http.get("/")
    assert (redirect.status_code, redirect.headers["Location"]) == (307, "/docs")
    for path in ("/docs", "/docs/reference.css", "/docs/reference.js"):
        page = await shim.http.get(path)
        assert page.status_code == 200 and "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert "http://" not in page.text.replace("http://snomed.info/sct", "") and "https://" not in page.text
        assert "style=" not in page.text and "onclick" not in page.text


async def test_requests_are_counted_by_route(shim: Api, handlers: Peer) -> None:
    labels = {"method": "GET", "route": "/v1/accounts/{account_id}", "status": "200"}
    before = await shim.metric("billing_http_requests_total", **labels)
    await shim.get(f"/v1/accounts/{uuid4()}")
    await shim.get(f"/v1/accounts/{uuid4()}")
    assert await shim.metric("billing_http_requests_total", **labels) == before + 2
    edge = {"method": "GET", "route": "/v1/accounts/{account_id}", "le": "3.0"}
    assert await shim.metric("billing_http_request_duration_seconds_bucket", **edge) >= 2
    assert len(handlers.queried) == 2
