"""`POST /v1/webhooks/{adapter}/{tenant}`: what payment gateways tell us. No token; the gateway's signature instead.

Acknowledged only once JetStream has every command it became, so that the gateway sends again what we could not keep.
"""

import time
from collections.abc import Callable
from typing import Any, get_args

import orjson
import structlog
from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response

from adapters.gateways import webhooks
from adapters.gateways.facts import Fact, Told
from adapters.secrets import Secret
from adapters.telemetry import tracing
from gateway_shim import problems, requests
from gateway_shim.messaging import Messenger, Unavailable
from gateway_shim.problems import HttpProblem, ShimCode
from schemas import headers, subjects
from schemas.gateway import GatewayAdapter

ADAPTERS: tuple[GatewayAdapter, ...] = get_args(GatewayAdapter)
REALM = 'Webhook realm="billing"'

RECEIVED = Counter(
    "billing_gateway_webhooks",
    "Webhooks: accepted, ignored (nothing of ours), unattributed (a person has to look), forged, malformed or unavailable (the "
    "broker did not take it; the gateway sends it again)",
    ("adapter", "outcome"),
)

log = structlog.get_logger()

Secrets = Callable[[str], Secret | None]


class Webhooks:
    """`secret_of` gives the text of a tenant's secret file: its webhook secrets, one per line; None where it has none."""

    def __init__(self, messenger: Messenger, secret_of: Secrets, body_max_bytes: int) -> None:
        self._messenger, self._secret_of, self._body_max_bytes = messenger, secret_of, body_max_bytes

    async def receive(self, request: Request) -> Response:
        adapter = _adapter(request.path_params["adapter"])
        tenant = request.path_params["tenant"]
        body = await requests.read_body(request, self._body_max_bytes)
        self._verify(adapter, tenant, request, body)
        request.state.log = {"tenant_id": tenant, "capability": f"webhook.{adapter}"}
        told = _read(adapter, body)
        if told.unattributed is not None:
            RECEIVED.labels(adapter, "unattributed").inc()
            log.error("webhook_unattributed", tenant_id=tenant, event_id=told.event_id, event_type=told.unattributed)
            return _acknowledged([])
        ids = [await self._publish(request, adapter, tenant, told, fact) for fact in told.facts]
        RECEIVED.labels(adapter, "accepted" if ids else "ignored").inc()
        return _acknowledged(ids)

    def _verify(self, adapter: GatewayAdapter, tenant: str, request: Request, body: bytes) -> None:
        """A tenant that we do not know is answered like a signature that does not fit."""
        known = self._secret_of(webhooks.SECRET_PREFIX + tenant) if subjects.TENANT.fullmatch(tenant) else None
        given = request.headers.getlist(webhooks.SIGNATURE_HEADERS[adapter])
        try:
            secrets = webhooks.secrets_of(known.reveal() if known is not None else None)
            webhooks.verify(adapter, given[0] if len(given) == 1 else None, body, secrets, now=time.time())
        except webhooks.Forged:
            RECEIVED.labels(adapter, "forged").inc()
            raise HttpProblem(ShimCode.SIGNATURE_INVALID, headers={"WWW-Authenticate": REALM}) from None

    async def _publish(self, request: Request, adapter: GatewayAdapter, tenant: str, told: Told, fact: Fact) -> str:
        command_id = webhooks.command_id(tenant, adapter, told, fact)
        attributes = {"billing.tenant_id": tenant}
        with tracing.span(
            fact.command, "producer", traceparent=request.state.traceparent, attributes=attributes
        ) as traceparent:
            found = {headers.ACTOR: f"gateway:{adapter}", headers.CORRELATION_ID: request.state.correlation_id}
            message_headers = found | ({headers.TRACEPARENT: traceparent} if traceparent else {})
            subject = subjects.command_subject(tenant, fact.command)
            try:
                await self._messenger.submit(subject, command_id, fact.payload(), message_headers)
            except Unavailable as error:
                RECEIVED.labels(adapter, "unavailable").inc()
                raise HttpProblem(ShimCode.BROKER_UNAVAILABLE, str(error)) from None
        return str(command_id)


def _adapter(text: str) -> GatewayAdapter:
    if text not in ADAPTERS:
        raise HttpProblem(ShimCode.ROUTE_NOT_FOUND)
    return text


def _read(adapter: GatewayAdapter, body: bytes) -> Told:
    try:
        return webhooks.read(adapter, body)
    except webhooks.Malformed as error:
        RECEIVED.labels(adapter, "malformed").inc()
        if error.cause is not None:
            raise problems.of_validation(error.cause, ShimCode.WEBHOOK_MALFORMED) from None
        raise HttpProblem(ShimCode.WEBHOOK_MALFORMED, error.detail) from None


def _acknowledged(command_ids: list[str]) -> Response:
    body: dict[str, Any] = {"status": "queued" if command_ids else "ignored", "command_ids": command_ids}
    return Response(orjson.dumps(body), 200, media_type="application/json")
