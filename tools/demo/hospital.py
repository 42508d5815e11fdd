"""One tenant of the demo: sends its commands, every other one over the other channel, and keeps a diary."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tools.demo.channels import Heard, HttpChannel, NatsChannel

# Ids of the demo are derived from names, so that a command can refer to what an earlier one made.
NAMESPACE = uuid.UUID("6f1c3f0e-8f6a-5d0b-9d53-0b8d4f3c2a11")
SERVICES = "urn:hospital:services"


@dataclass(frozen=True)
class Entry:
    """One line of the diary: what was sent, what should have come of it, and what did."""

    command: str
    channel: str
    expected: str
    outcome: str
    milliseconds: float

    @property
    def as_expected(self) -> bool:
        return self.expected == self.outcome


@dataclass
class Hospital:
    tenant_id: str
    currency: str
    nats: NatsChannel
    http: HttpChannel
    diary: list[Entry] = field(default_factory=list)
    position: str | None = None

    def id(self, name: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{self.tenant_id}/{name}"))

    def money(self, amount_minor: int) -> dict[str, Any]:
        return {"amount_minor": amount_minor, "currency": self.currency}

    async def send(
        self, name: str, body: dict[str, Any], *, expect: str = "applied", command_id: str | None = None, via: str = ""
    ) -> Heard:
        """Sends a command and writes down how it ended: its status, or its code where it was refused."""
        channel = via or ("nats" if len(self.diary) % 2 == 0 else "http")
        sender = self.nats if channel == "nats" else self.http
        began = time.perf_counter()
        heard = await sender.command(name, body, uuid.UUID(command_id) if command_id else uuid.uuid4())
        self._write(name, channel, expect, heard, time.perf_counter() - began)
        return heard

    async def burst(self, name: str, bodies: list[dict[str, Any]]) -> None:
        began = time.perf_counter()
        for heard in await self.nats.burst(name, bodies):
            self._write(name, "nats", "applied", heard, (time.perf_counter() - began) / len(bodies))

    async def open_account(self, patient: str, parties: list[dict[str, Any]] | None = None, locale: str = "en") -> str:
        account_id = self.id(patient)
        body: dict[str, Any] = {
            "account_id": account_id,
            "patient": f"Patient/{patient}",
            "currency": self.currency,
            "locale": locale,
        }
        await self.send("account.open", body | ({"parties": parties} if parties else {}))
        return account_id

    async def charge(self, account_id: str, code: str, quantity: str = "1") -> str:
        heard = await self.send(
            "charge.capture",
            {
                "account_id": account_id,
                "code_system": SERVICES,
                "code": code,
                "quantity": quantity,
                "price_list": "general",
            },
        )
        return str(heard.result["charge_id"])

    async def bill(self, account_id: str, charges: list[str]) -> list[dict[str, Any]]:
        """Drafts and issues; returns the issued documents, one per responsible party."""
        drafted = await self.send("invoice.create", {"account_id": account_id, "charge_ids": charges})
        issued = []
        for document in drafted.result["documents"]:
            heard = await self.send("invoice.issue", {"invoice_id": document["invoice_id"]})
            issued.append(heard.result)
        return issued

    async def pay(
        self, account_id: str, amount_minor: int, method: str, document: dict[str, Any] | None = None, **more: Any
    ) -> str:
        """Records a payment, allocated to a document as far as that is open; returns its id.

        `more` are further fields of the command, or options of `send`.
        """
        body: dict[str, Any] = {"account_id": account_id, "amount": self.money(amount_minor), "method": method}
        how = {option: more.pop(option) for option in ("expect", "command_id", "via") if option in more}
        if document:
            value = amount_minor + more.get("cash_rounding_minor", 0)
            part = min(value, document["open_minor"])
            body["allocations"] = [{"invoice_id": document["invoice_id"], "amount_minor": part}]
        heard = await self.send("payment.record", body | more, **how)
        return str(heard.result.get("payment_id", ""))

    def _write(self, name: str, channel: str, expected: str, heard: Heard, seconds: float) -> None:
        outcome = heard.code or heard.status
        self.diary.append(Entry(name, channel, expected, outcome, seconds * 1000))
        self.position = heard.position or self.position
