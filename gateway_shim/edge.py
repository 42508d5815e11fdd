"""Round every request: the in-flight limit, correlation id, security headers, metrics, and a problem document for
whatever goes wrong inside."""

import re
import time
from functools import lru_cache
from http import HTTPMethod, HTTPStatus

import structlog
import uuid_utils
from prometheus_client import Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.telemetry import tracing
from gateway_shim import problems
from gateway_shim.problems import HttpProblem, ShimCode

CORRELATION_HEADER = "X-Correlation-Id"
_CORRELATION = CORRELATION_HEADER.lower().encode()
KONG_REQUEST_ID = b"x-kong-request-id"
CLIENT_CLOSED_STATUS = 499  # nginx's and Kong's convention, in metrics only: nobody is left to read it
UNMATCHED = "unmatched"

REQUESTS = Counter("billing_http_requests_total", "HTTP requests answered", ["method", "route", "status"])
DURATION = Histogram(
    "billing_http_request_duration_seconds",
    "From the request's headers to the end of its response",
    ["method", "route"],
    # 3 s is where payment latency triggers a rollback; 2.5 s is the default reply timeout.
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 3, 5, 10),
)
IN_FLIGHT = Gauge("billing_http_requests_in_flight", "HTTP requests being worked on")

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset(HTTPMethod)
# As ASGI has them: bytes, names in lower case. Starlette's mappings would decode and search them for each response.
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

log = structlog.get_logger()


class Edge:
    """Pure ASGI. Puts `correlation_id` and `traceparent` into `scope["state"]`."""

    def __init__(self, app: ASGIApp, *, in_flight_max: int) -> None:
        self._app, self._in_flight_max, self._in_flight = app, in_flight_max, 0
        self._log = log.bind()  # the proxy would make a logger of each request's line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, send)
        self._in_flight += 1
        IN_FLIGHT.set(self._in_flight)
        try:
            await self._respond(exchange, scope, receive)
        finally:
            self._in_flight -= 1
            IN_FLIGHT.set(self._in_flight)
            exchange.record(self._log)

    async def _respond(self, exchange: "_Exchange", scope: Scope, receive: Receive) -> None:
        incoming = exchange.header(tracing.TRACEPARENT.encode())
        attributes = {"billing.correlation_id": exchange.correlation_id}
        with tracing.span(f"HTTP {exchange.method}", "server", traceparent=incoming, attributes=attributes) as outgoing:
            scope["state"] = {"correlation_id": exchange.correlation_id, "traceparent": outgoing}
            exchange.trace_id = tracing.trace_id(outgoing)
            try:
                if self._in_flight > self._in_flight_max:
                    raise HttpProblem(ShimCode.OVERLOADED)
                await self._app(scope, receive, exchange.send)
            except ClientDisconnect:
                exchange.status = CLIENT_CLOSED_STATUS
            except HttpProblem as problem:
                await problems.response(problem, exchange.correlation_id)(scope, receive, exchange.send)
            except Exception as error:  # the last line of defence: the client gets an id, the log gets the place
                log.error("http_request_failed", correlation_id=exchange.correlation_id, exc_info=error)
                if exchange.started:
                    raise
                unexpected = problems.response(HttpProblem(ShimCode.INTERNAL_ERROR), exchange.correlation_id)
                await unexpected(scope, receive, exchange.send)
            finally:
                exchange.annotate()


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._started_at = time.perf_counter()
        # A method is the client's text until it is known: it must not become a metric label of its own.
        self.method: str = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.status = 0
        self.started = False
        self.trace_id: str | None = None
        given = self.header(KONG_REQUEST_ID)
        self.correlation_id = given if given and _CORRELATION_ID.fullmatch(given) else uuid_utils.uuid7().hex

    def header(self, name: bytes) -> str | None:
        """The header's value, or None where it is missing or given twice."""
        values = [value for key, value in self._scope["headers"] if key == name]
        return values[0].decode("latin-1") if len(values) == 1 else None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            given = list(message["headers"])
            present = {name for name, _ in given}
            given += [header for header in _SECURITY_HEADERS if header[0] not in present]
            message["headers"] = [*given, (_CORRELATION, self.correlation_id.encode())]
        await self._send(message)

    @property
    def route(self) -> str:
        """The template, never the path: paths hold ids."""
        path: str = getattr(self._scope.get("route"), "path", UNMATCHED)
        return path

    def annotate(self) -> None:
        """What the span could not know when it began."""
        attributes: dict[str, str | int] = {
            "http.request.method": self.method,
            "http.route": self.route,
            "http.response.status_code": self.status,
        }
        failed = str(self.status) if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
        tracing.annotate(attributes, name=f"{self.method} {self.route}", failed=failed)

    def record(self, log: structlog.typing.FilteringBoundLogger) -> None:
        """Count, time and log."""
        route = self.route
        elapsed = time.perf_counter() - self._started_at
        self.status = self.status or CLIENT_CLOSED_STATUS  # cancelled before there was an answer
        count, duration = _metrics(self.method, route, self.status)
        count.inc()
        duration.observe(elapsed)
        log.info(
            "http_request",
            method=self.method,
            route=route,
            status=self.status,
            duration_ms=round(elapsed * 1000, 1),
            correlation_id=self.correlation_id,
            trace_id=self.trace_id,
            **self._scope.get("state", {}).get("log", {}),
        )


@lru_cache(maxsize=1_024)
def _metrics(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """As many as there are routes times statuses; looking them up by their labels costs more than counting does."""
    return REQUESTS.labels(method, route, str(status)), DURATION.labels(method, route)
