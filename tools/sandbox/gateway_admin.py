"""The payment gateway's part of the admin endpoint, below `/gateway/{merchant}`. `tools/sandbox/control.py` is its client.

| request | does |
|---|---|
| GET . | what was done: captures, refunds and releases by id, payments, requests, keys used, webhook deliveries |
| PUT ./keys | `["key", …]`: the only good ones from now on; null: any |
| PUT ./webhooks | `{url, secret, automatic}` |
| POST ./events | sends an event: as given, or again by its `event_id` alone |
| POST ./payments/{payment_id}/resolve | a pending payment is authorised |
| POST ./payments/{payment_id}/disputes | opens, wins or loses a dispute: `{fact, amount_minor, fee_minor}` |
| POST ./payouts | pays out what is due |
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.sandbox.gateway_book import Refusal
from tools.sandbox.gateway_world import Endpoint, Gateway, Merchant


def routes(gateway: Gateway) -> list[Route]:
    def endpoint(act: Callable[[Merchant, Request, Any], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            body = await request.json() if await request.body() else None
            try:
                return JSONResponse(act(gateway.merchant(request.path_params["merchant"]), request, body))
            except Refusal as refusal:
                return JSONResponse(refusal.body(), refusal.status)

        return respond

    root = "/gateway/{merchant}"
    return [
        Route(root, endpoint(_state), methods=["GET"]),
        Route(f"{root}/keys", endpoint(_set_keys), methods=["PUT"]),
        Route(f"{root}/webhooks", endpoint(_set_webhooks), methods=["PUT"]),
        Route(f"{root}/events", endpoint(_send_event), methods=["POST"]),
        Route(f"{root}/payments/{{payment_id}}/resolve", endpoint(_resolve), methods=["POST"]),
        Route(f"{root}/payments/{{payment_id}}/disputes", endpoint(_dispute), methods=["POST"]),
        Route(f"{root}/payouts", endpoint(_pay_out), methods=["POST"]),
    ]


def _state(merchant: Merchant, _request: Request, _body: Any) -> dict[str, Any]:
    book = merchant.book
    return {
        "payments": {payment_id: payment.shown() for payment_id, payment in book.payments.items()},
        "captures": dict(book.captures),
        "refunds": dict(book.refunds_done),
        "releases": dict(book.releases),
        "requests": dict(merchant.requests),
        "keys_used": dict(merchant.keys_used),
        "deliveries": [{"event": each.event, "statuses": each.statuses} for each in merchant.deliveries],
    }


def _set_keys(merchant: Merchant, _request: Request, keys: list[str] | None) -> None:
    merchant.keys = None if keys is None else frozenset(keys)


def _set_webhooks(merchant: Merchant, _request: Request, given: dict[str, Any]) -> None:
    merchant.endpoint = Endpoint(given["url"], given["secret"], given.get("automatic", True))


def _send_event(merchant: Merchant, _request: Request, event: dict[str, Any]) -> dict[str, Any]:
    if event.keys() == {"event_id"}:
        known = [each.event for each in merchant.deliveries if each.event["event_id"] == event["event_id"]]
        if not known:
            raise Refusal(404, "event_not_found")
        event = known[0]
    merchant.send(event)
    return event


def _resolve(merchant: Merchant, request: Request, _body: Any) -> dict[str, Any]:
    payment = merchant.book.payment(request.path_params["payment_id"])
    if payment.state != "pending":
        raise Refusal(409, "not_pending", f"the payment is {payment.state}")
    merchant.book.resolve(payment)
    return merchant.tell("state", {"payment": payment.shown()})


def _dispute(merchant: Merchant, request: Request, given: dict[str, Any]) -> dict[str, Any]:
    payment = merchant.book.payment(request.path_params["payment_id"])
    dispute = {
        "payment_id": payment.payment_id,
        "dispute_id": given.get("dispute_id", f"sbd_{payment.reference[4:]}"),
        "currency": payment.currency,
        "amount_minor": given.get("amount_minor", payment.captured_minor),
        "fee_minor": given.get("fee_minor", 0),
    }
    return merchant.tell(given["fact"], {"dispute": dispute}, automatic=False)


def _pay_out(merchant: Merchant, _request: Request, _body: Any) -> list[dict[str, Any]]:
    return [merchant.tell("payout", {"payout": payout}, automatic=False) for payout in merchant.book.payouts()]
