"""The payment gateway's part of `Control`: one merchant, synchronously."""

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote
from uuid import UUID

Send = Callable[..., Any]


class GatewayControl:
    """Raises httpx.HTTPStatusError for what the sandbox refuses."""

    def __init__(self, merchant: str, send: Send) -> None:
        self._root, self._send = f"/gateway/{quote(merchant)}", send

    def state(self) -> dict[str, Any]:
        """What was done: gateway_admin.py has the names."""
        found: dict[str, Any] = self._send("GET", self._root)
        return found

    def captures(self, payment_id: UUID | str) -> int:
        """How often money was taken for a payment. More than once is what must never happen."""
        return int(self.state()["captures"].get(str(payment_id), 0))

    def payment(self, payment_id: UUID | str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.state()["payments"].get(str(payment_id))
        return found

    def keys(self, *keys: str) -> None:
        """The only API keys that are good from now on; without any, every key is."""
        self._send("PUT", f"{self._root}/keys", list(keys) or None)

    def webhooks(self, url: str, secret: str, *, automatic: bool = True) -> None:
        """Where the merchant's webhooks go; not `automatic`: only what is sent from here."""
        self._send("PUT", f"{self._root}/webhooks", {"url": url, "secret": secret, "automatic": automatic})

    def send_event(self, event: dict[str, Any]) -> dict[str, Any]:
        """Sends an event of the caller's making, or one that was sent before (its `event_id` is enough)."""
        sent: dict[str, Any] = self._send("POST", f"{self._root}/events", event)
        return sent

    def deliveries(self) -> Sequence[dict[str, Any]]:
        """Each event that was sent and the status of every answer to it, in order; 0: no answer."""
        found: Sequence[dict[str, Any]] = self.state()["deliveries"]
        return found

    def resolve(self, payment_id: UUID | str) -> None:
        """A pending payment (`tok_pending`) is authorised."""
        self._send("POST", f"{self._root}/payments/{payment_id}/resolve")

    def dispute(self, payment_id: UUID | str, fact: str = "dispute_opened", **details: Any) -> dict[str, Any]:
        """Tells the merchant of a dispute: `dispute_opened`, `dispute_won` or `dispute_lost`."""
        body = {"fact": fact, **details}
        told: dict[str, Any] = self._send("POST", f"{self._root}/payments/{payment_id}/disputes", body)
        return told

    def pay_out(self) -> Sequence[dict[str, Any]]:
        """Pays out what is due, one payout per currency; the events."""
        paid: Sequence[dict[str, Any]] = self._send("POST", f"{self._root}/payouts")
        return paid
