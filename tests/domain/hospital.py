"""The commands the tests send most often, as one-liners over a World."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from domain.entities import Account, Invoice, Payment
from tests.domain.world import World

PATIENT = {"party_id": "patient", "kind": "patient", "share_basis_points": 10_000}
ICD = "http://hl7.org/fhir/sid/icd-10"


def party(party_id: str, share: int, kind: str = "patient") -> dict[str, Any]:
    return {"party_id": party_id, "kind": kind, "share_basis_points": share}


def open_account(
    world: World, parties: Sequence[dict[str, Any]] | None = None, currency: str = "AED", **more: Any
) -> UUID:
    body = {"patient": "Patient/1", "currency": currency, **({"parties": parties} if parties else {}), **more}
    return UUID(world.do("account.open", body)["account_id"])


def capture(world: World, account_id: UUID, unit_price: int, quantity: str = "1", **more: Any) -> UUID:
    currency = world.one(Account, account_id).currency
    body = {
        "account_id": account_id,
        "code_system": ICD,
        "code": "A00",
        "quantity": quantity,
        "unit_price": {"amount_minor": unit_price, "currency": currency},
        **more,
    }
    return UUID(world.do("charge.capture", body)["charge_id"])


def line(unit_price: int, quantity: str = "1", **more: Any) -> dict[str, Any]:
    return {"description": "care", "quantity": quantity, "unit_price_minor": unit_price, **more}


def draft(world: World, account_id: UUID, lines: Sequence[dict[str, Any]], **more: Any) -> list[UUID]:
    result = world.do("invoice.create", {"account_id": account_id, "lines": lines, **more})
    return [UUID(document["invoice_id"]) for document in result["documents"]]


def invoiced(world: World, account_id: UUID, *prices: int, **more: Any) -> UUID:
    """One issued invoice of an account with one payer, a line per price."""
    (invoice_id,) = draft(world, account_id, [line(price) for price in prices], **more)
    world.do("invoice.issue", {"invoice_id": invoice_id})
    return invoice_id


def money(amount_minor: int, currency: str = "AED") -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": currency}


def pay(world: World, account_id: UUID, amount: int, *allocated: tuple[UUID, int], **more: Any) -> UUID:
    body = {
        "account_id": account_id,
        "amount": money(amount, world.one(Account, account_id).currency),
        "method": "cash",
        "allocations": allocations(*allocated),
        **more,
    }
    return UUID(world.do("payment.record", body)["payment_id"])


def charge_card(world: World, account_id: UUID, amount: int, *allocated: tuple[UUID, int], **more: Any) -> UUID:
    body = {
        "account_id": account_id,
        "amount": money(amount, world.one(Account, account_id).currency),
        "source": "tok_visa",
        "allocations": allocations(*allocated),
        **more,
    }
    return UUID(world.do("payment.charge", body)["payment_id"])


def settle(world: World, payment_id: UUID, state: str, amount: int = 0, **more: Any) -> dict[str, Any]:
    """What the gateway has: `amount` is what it holds or captured."""
    taken = {"authorised": "authorised_minor", "captured": "captured_minor", "refunded": "captured_minor"}
    said: dict[str, Any] = {"currency": "AED", taken[state]: amount} if state in taken else {}
    return world.do("payment.settle", {"payment_id": payment_id, "state": state, **said, **more})


def through_gateway(world: World, account_id: UUID, amount: int, *allocated: tuple[UUID, int]) -> UUID:
    """A captured payment."""
    payment_id = charge_card(world, account_id, amount, *allocated, capture="automatic")
    settle(world, payment_id, "captured", amount)
    return payment_id


def allocations(*parts: tuple[UUID, int]) -> list[dict[str, Any]]:
    return [{"invoice_id": invoice_id, "amount_minor": amount} for invoice_id, amount in parts]


def invoice(world: World, invoice_id: UUID) -> Invoice:
    return world.one(Invoice, invoice_id)


def payment(world: World, payment_id: UUID) -> Payment:
    return world.one(Payment, payment_id)
