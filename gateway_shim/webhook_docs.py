"""The OpenAPI operation of the webhook route, which no command or query describes."""

from typing import Any, get_args

from schemas.gateway import GatewayAdapter

Json = dict[str, Any]

RECEIPT = "WebhookReceipt"
STATUSES = (400, 401, 404, 408, 413, 503)
_DESCRIPTION = """
For payment gateways, not for clients: no bearer token, the gateway's signature instead, made with a secret of the tenant and at
most five minutes old. An event that is sent again becomes the same commands, and those are decided once.

* `generic`: `Billing-Signature: t=<Unix time>,v1=<hex HMAC-SHA256 of "<time>.<body>">` (docs/payment-gateway-protocol.md).
* `stripe`: `Stripe-Signature`, and Stripe's own events.

**200**: every command it became is stored durably; `ignored` where it concerns nothing of ours. **503**: send it again.
"""


def operation(reference: str, problems: Json) -> Json:
    """`reference` is the `$ref` of the receipt's schema."""
    text: Json = {"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]{1,64}$"}
    receipt = {"application/json": {"schema": {"$ref": reference}}}
    return {
        "operationId": "webhook_receive",
        "summary": "Receive what a payment gateway tells",
        "description": _DESCRIPTION.strip(),
        "tags": ["webhooks"],
        "security": [],
        "parameters": [
            {"name": "adapter", "in": "path", "required": True, "schema": {"enum": list(get_args(GatewayAdapter))}},
            {"name": "tenant", "in": "path", "required": True, "schema": text},
            _header("Billing-Signature"),
            _header("Stripe-Signature"),
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {
            "200": {
                "description": "Taken",
                "headers": {"X-Correlation-Id": {"$ref": "#/components/headers/X-Correlation-Id"}},
                "content": receipt,
            }
        }
        | problems,
    }


def receipt() -> Json:
    identifiers = {"type": "array", "items": {"type": "string", "format": "uuid"}}
    return {
        "title": RECEIPT,
        "type": "object",
        "properties": {"status": {"type": "string", "enum": ["queued", "ignored"]}, "command_ids": identifiers},
        "required": ["status", "command_ids"],
        "additionalProperties": False,
    }


def _header(name: str) -> Json:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string", "minLength": 1}}
