"""The shim as an ASGI application: each route is one NATS message out and one answer back."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.rate_limits import WINDOW_SECONDS, RateLimits, Refusal
from adapters.telemetry import tracing
from gateway_shim import problems, reference, requests, routes, webhooks
from gateway_shim.auth import Authenticator, Principal
from gateway_shim.edge import Edge
from gateway_shim.messaging import Messenger, Unavailable
from gateway_shim.problems import HttpProblem, ShimCode
from gateway_shim.routes import Route
from schemas import headers, subjects
from schemas.codes import Code
from schemas.outcome import Outcome
from schemas.registry import CommandSpec, QuerySpec

POSITION_HEADER = "Billing-Position"
QUERY_MARGIN_SECONDS = 0.5
QUERY_WAIT_MAX_SECONDS = 55.0  # under Kong's read timeout of 60 s


def create_app(
    messenger: Messenger,
    authenticator: Authenticator,
    limits: RateLimits,
    *,
    webhook_secret_of: webhooks.Secrets,
    body_max_bytes: int,
    in_flight_max: int,
) -> ASGIApp:
    """The whole HTTP surface. Limits: bytes of one body, requests worked on at a time by this process."""
    shim = Shim(messenger, authenticator, limits, body_max_bytes)
    received = webhooks.Webhooks(messenger, webhook_secret_of, body_max_bytes)
    table: list[StarletteRoute] = [
        StarletteRoute("/", _ByMethod({"GET": _to_reference})),
        *(StarletteRoute(path, _ByMethod({"GET": page})) for path, page in reference.pages().items()),
        *(
            StarletteRoute(path, _ByMethod({method: shim.endpoint(route) for method, route in methods.items()}))
            for path, methods in routes.by_path().items()
        ),
        StarletteRoute(routes.WEBHOOKS, _ByMethod({"POST": received.receive})),
    ]
    return Edge(_Routes(table), in_flight_max=in_flight_max)


Endpoint = Callable[[Request], Any]


class Shim:
    """Endpoints of the route table."""

    def __init__(
        self, messenger: Messenger, authenticator: Authenticator, limits: RateLimits, body_max_bytes: int
    ) -> None:
        self._messenger, self._authenticator, self._limits = messenger, authenticator, limits
        self._body_max_bytes = body_max_bytes

    def endpoint(self, route: Route) -> Endpoint:
        async def respond(request: Request) -> Response:
            principal = await self._authenticator.authenticate(request.headers.getlist("authorization"))
            request.state.log = {"tenant_id": principal.tenant_id, "capability": route.name}
            if (refusal := await self._limits.hit(principal.tenant_id, route.name)) is not None:
                raise _limited(refusal)
            principal.require(route.spec.scope)
            if route.command is None:
                return await self._query(request, route, principal)
            return await self._command(request, route, principal)

        return respond

    async def _command(self, request: Request, route: Route, principal: Principal) -> Response:
        command_id = requests.command_id(request, route, principal.tenant_id)
        request.state.log["command_id"] = str(command_id)
        payload = await requests.command_payload(request, route, principal.tenant_id, self._body_max_bytes)
        subject = subjects.command_subject(principal.tenant_id, route.name)
        with _span(request, route, principal, {"billing.command_id": str(command_id)}) as traceparent:
            message_headers = _headers(request, principal, traceparent)
            try:
                outcome = await self._messenger.command(subject, command_id, payload, message_headers)
            except Unavailable as error:
                raise HttpProblem(ShimCode.BROKER_UNAVAILABLE, str(error), command_id=str(command_id)) from None
        if outcome is None:
            queued = {"command_id": str(command_id), "status": "queued"}
            return _json(queued, 202, {"Location": f"/v1/commands/{command_id}"})
        return _outcome(route, outcome)

    async def _query(self, request: Request, route: Route, principal: Principal) -> Response:
        if route.method == "POST":
            payload = await requests.command_payload(request, route, principal.tenant_id, self._body_max_bytes)
        else:
            payload = requests.query_payload(request, route, principal.tenant_id)
        subject = subjects.query_subject(principal.tenant_id, route.name)
        with _span(request, route, principal, {}) as traceparent:
            try:
                answer = await self._messenger.query(
                    subject,
                    payload,
                    _headers(request, principal, traceparent),
                    wait_seconds=query_wait_seconds(route.spec),
                )
            except Unavailable as error:
                raise HttpProblem(Code.SERVICE_UNAVAILABLE, str(error)) from None
        if answer.error is not None:
            raise problems.of_mesh(answer.error)
        return _json(answer.result or {}, 200, {POSITION_HEADER: answer.position} if answer.position else {})


def _limited(refusal: Refusal) -> HttpProblem:
    """With the headers of the IETF's draft "RateLimit header fields for HTTP"."""
    wait, name = refusal.retry_after_seconds, f'"{refusal.scope}"'
    found = {
        "Retry-After": str(wait),
        "RateLimit-Policy": f"{name};q={refusal.limit};w={WINDOW_SECONDS}",
        "RateLimit": f"{name};r=0;t={wait}",
    }
    return HttpProblem(ShimCode.RATE_LIMITED, details={"limit": refusal.scope}, headers=found)


def query_wait_seconds(spec: CommandSpec | QuerySpec) -> float:
    """A little longer than the handlers work on it: nobody should be told to ask again while an answer is under way."""
    handlers_seconds = spec.timeout_seconds if isinstance(spec, QuerySpec) else 0.0
    return min(handlers_seconds + QUERY_MARGIN_SECONDS, QUERY_WAIT_MAX_SECONDS)


def _outcome(route: Route, outcome: Outcome) -> Response:
    """The response to a command that was decided. A stored refusal comes back as `duplicate` with its error."""
    if outcome.error is not None:
        raise problems.of_mesh(outcome.error, str(outcome.command_id) if outcome.command_id else None)
    status = route.status if outcome.status == "applied" else 200
    position = {POSITION_HEADER: outcome.position} if outcome.position else {}
    content = outcome.model_dump_json(exclude={"error"})
    return Response(content, status, headers=position, media_type="application/json")


def _span(
    request: Request, route: Route, principal: Principal, more: dict[str, str]
) -> AbstractContextManager[str | None]:
    kind: tracing.Kind = "producer" if route.command is not None else "client"
    attributes = {"billing.tenant_id": principal.tenant_id} | more
    return tracing.span(route.name, kind, traceparent=request.state.traceparent, attributes=attributes)


def _headers(request: Request, principal: Principal, traceparent: str | None) -> dict[str, str]:
    found = {headers.ACTOR: principal.actor, headers.CORRELATION_ID: request.state.correlation_id}
    return found | {headers.TRACEPARENT: traceparent} if traceparent else found


def _json(body: dict[str, Any], status: int, extra: dict[str, str]) -> Response:
    return Response(orjson.dumps(body), status, headers=extra, media_type="application/json")


async def _to_reference(_request: Request) -> Response:
    return RedirectResponse("/docs", 307)


class _Routes:
    """Paths without parameters are looked up; only the others are tried one after another."""

    def __init__(self, table: list[StarletteRoute]) -> None:
        self._fixed = {route.path: route for route in table if not route.param_convertors}
        others = [route for route in table if route.param_convertors]
        self._others = Router(others, redirect_slashes=False, default=_nothing_here)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._fixed.get(scope["path"])
        if route is None:
            await self._others(scope, receive, send)
            return
        scope["route"], scope["path_params"] = route, {}
        await route.handle(scope, receive, send)


class _ByMethod:
    """One path, several methods. Starlette's own 405 would name the methods of the first matching route only."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._allow = ", ".join(sorted(endpoints))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            raise HttpProblem(ShimCode.METHOD_NOT_ALLOWED, f"allowed: {self._allow}", headers={"Allow": self._allow})
        response: Response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)


async def _nothing_here(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise HttpProblem(ShimCode.ROUTE_NOT_FOUND)
