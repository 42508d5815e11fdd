"""The merchants of the sandbox's payment gateway: whose key is good, what they are told by webhook, what they were told."""

import asyncio
import hashlib
import hmac
import json
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx

from tools.sandbox.gateway_book import Book, Refusal

SIGNATURE_HEADER = "Billing-Signature"
RETRY_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # after an answer that is not 2xx; a real gateway takes days
_TIMEOUT_SECONDS = 10.0
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # or httpx reads every CA of the system for each request
_BEARER = "Bearer "


@dataclass(slots=True)
class Endpoint:
    """Where a merchant wants its webhooks. Not `automatic`: only what the admin endpoint sends."""

    url: str
    secret: str
    automatic: bool


@dataclass(slots=True)
class Delivery:
    """One event and every answer it got, a status each; 0: none."""

    event: dict[str, Any]
    statuses: list[int] = field(default_factory=list)


class Merchant:
    """`keys` None: any bearer token is good. `keys_used` counts requests per token, by its last four characters."""

    def __init__(self) -> None:
        self.book = Book()
        self.keys: frozenset[str] | None = None
        self.keys_used: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.endpoint: Endpoint | None = None
        self.deliveries: list[Delivery] = []
        self._sending: set[asyncio.Task[None]] = set()

    def authorise(self, authorization: str) -> None:
        key = authorization.removeprefix(_BEARER)
        if not authorization.startswith(_BEARER) or not key or (self.keys is not None and key not in self.keys):
            raise Refusal(401, "unauthorised", "no such API key")
        self.keys_used[key[-4:]] += 1

    def tell(self, fact: str, about: dict[str, Any], *, automatic: bool = True) -> dict[str, Any]:
        """The event, on its way in the background where there is an endpoint that wants it."""
        made = {"event_id": f"sbe_{uuid4().hex}", "created_at": datetime.now(UTC).isoformat(), "fact": fact, **about}
        if self.endpoint is not None and (self.endpoint.automatic or not automatic):
            self.send(made)
        return made

    def send(self, event: dict[str, Any]) -> None:
        """Sends `event`, again and again until it is taken."""
        if self.endpoint is None:
            raise Refusal(409, "no_endpoint", "give the merchant a webhook endpoint first")
        delivery = Delivery(event)
        self.deliveries.append(delivery)
        task = asyncio.get_running_loop().create_task(_deliver(self.endpoint, delivery))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


@dataclass
class Gateway:
    merchants: dict[str, Merchant] = field(default_factory=dict)

    def merchant(self, name: str) -> Merchant:
        return self.merchants.setdefault(name, Merchant())


def signature(secret: str, body: bytes, at: int) -> str:
    """The header's value: an HMAC-SHA256 over `<Unix time>.<body>`."""
    digest = hmac.new(secret.encode(), b"%d.%b" % (at, body), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


async def _deliver(endpoint: Endpoint, delivery: Delivery) -> None:
    body = json.dumps(delivery.event, separators=(",", ":")).encode()
    async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False, verify=_NO_TLS) as http:
        for wait in (*RETRY_SECONDS, None):
            headers = {
                "Content-Type": "application/json",
                SIGNATURE_HEADER: signature(endpoint.secret, body, int(time.time())),
            }
            try:
                answered = (await http.post(endpoint.url, content=body, headers=headers)).status_code
            except httpx.HTTPError:
                answered = 0
            delivery.statuses.append(answered)
            if 200 <= answered < 300 or wait is None:
                return
            await asyncio.sleep(wait)
