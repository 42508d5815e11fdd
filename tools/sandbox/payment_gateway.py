"""A payment gateway that speaks docs/payment-gateway-protocol.md, below `/{merchant}`: one merchant per tenant.

Its switches (faults.py) come with the listener; a fault with `path="/{merchant}/"` is that merchant's only. Lying, it answers
for another payment: a client that does not compare would book somebody else's money. What it did, and what it is told to do
besides (webhooks, disputes, payouts, keys), is at the admin endpoint: gateway_admin.py.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tools.sandbox.faults import lies
from tools.sandbox.gateway_book import Payment, Refusal
from tools.sandbox.gateway_world import Merchant
from tools.sandbox.world import World

Act = Callable[[Request, Merchant, dict[str, Any]], Awaitable[dict[str, Any]]]


def routes(world: World) -> list[BaseRoute]:
    def endpoint(act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            merchant = world.gateway.merchant(request.path_params["merchant"])
            merchant.requests[f"{request.method} {request.url.path.rpartition('/')[2]}"] += 1
            try:
                merchant.authorise(request.headers.get("authorization", ""))
                answer = await act(request, merchant, await _body(request))
            except Refusal as refusal:
                return JSONResponse(refusal.body(), refusal.status)
            return JSONResponse(_lie(answer) if lies(request.scope) else answer)

        return respond

    payment = "/{merchant}/v1/payments/{payment_id}"
    return [
        Route("/{merchant}/v1/payments", endpoint(_charge), methods=["POST"]),
        Route(payment, endpoint(_find), methods=["GET"]),
        Route(f"{payment}/capture", endpoint(_capture), methods=["POST"]),
        Route(f"{payment}/cancel", endpoint(_cancel), methods=["POST"]),
        Route(f"{payment}/refunds", endpoint(_refund), methods=["POST"]),
        Route(f"{payment}/refunds/{{refund_id}}", endpoint(_find_refund), methods=["GET"]),
    ]


async def _charge(request: Request, merchant: Merchant, body: dict[str, Any]) -> dict[str, Any]:
    source, capture = body.get("source"), body.get("capture")
    if not isinstance(source, str) or not isinstance(capture, bool):
        raise Refusal(400, "invalid_request", "source is a string, capture a boolean")
    wanted = Payment(_id(body, "payment_id"), _currency(body), _amount(body), source, capture)
    merchant.book.once(_key(request), body)
    known = wanted.payment_id in merchant.book.payments
    payment = merchant.book.charge(wanted)
    if not known:
        merchant.tell("state", {"payment": payment.shown()})
    return payment.shown()


async def _find(request: Request, merchant: Merchant, _body: dict[str, Any]) -> dict[str, Any]:
    return merchant.book.payment(request.path_params["payment_id"]).shown()


async def _capture(request: Request, merchant: Merchant, body: dict[str, Any]) -> dict[str, Any]:
    payment_id, amount = request.path_params["payment_id"], _amount(body)
    merchant.book.once(_key(request), body)
    payment = merchant.book.capture(payment_id, amount)
    merchant.tell("state", {"payment": payment.shown()})
    return payment.shown()


async def _cancel(request: Request, merchant: Merchant, body: dict[str, Any]) -> dict[str, Any]:
    merchant.book.once(_key(request), body)
    payment = merchant.book.cancel(request.path_params["payment_id"])
    merchant.tell("state", {"payment": payment.shown()})
    return payment.shown()


async def _refund(request: Request, merchant: Merchant, body: dict[str, Any]) -> dict[str, Any]:
    payment_id, refund_id, amount = request.path_params["payment_id"], _id(body, "refund_id"), _amount(body)
    merchant.book.once(_key(request), body)
    refund = merchant.book.refund(payment_id, refund_id, amount)
    merchant.tell("refund", {"refund": refund.shown()})
    return refund.shown()


async def _find_refund(request: Request, merchant: Merchant, _body: dict[str, Any]) -> dict[str, Any]:
    return merchant.book.found_refund(request.path_params["payment_id"], request.path_params["refund_id"]).shown()


async def _body(request: Request) -> dict[str, Any]:
    if request.method == "GET":
        return {}
    try:
        given = await request.json()
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise Refusal(400, "invalid_request", "the body must be a JSON object")
    return given


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if not key:
        raise Refusal(400, "invalid_request", "Idempotency-Key is missing")
    return key


def _id(body: dict[str, Any], name: str) -> str:
    try:
        return str(UUID(body.get(name)))
    except (ValueError, TypeError, AttributeError):
        raise Refusal(400, "invalid_request", f"{name} must be a UUID") from None


def _amount(body: dict[str, Any]) -> int:
    amount = body.get("amount_minor")
    if not isinstance(amount, int) or isinstance(amount, bool) or amount < 1:
        raise Refusal(400, "invalid_request", "amount_minor must be a positive whole number")
    return amount


def _currency(body: dict[str, Any]) -> str:
    currency = body.get("currency")
    if not isinstance(currency, str) or len(currency) != 3:
        raise Refusal(400, "invalid_request", "currency must be an ISO 4217 code")
    return currency


def _lie(answer: dict[str, Any]) -> dict[str, Any]:
    other = {name: str(uuid4()) for name in ("payment_id", "refund_id") if name in answer}
    return answer | other
