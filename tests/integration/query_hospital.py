"""A small hospital for the query tests: its commands go through the real load, execute and save, without NATS."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson

from adapters.postgres.database import Database
from adapters.postgres.load import load
from adapters.postgres.save import save
from domain.decision import Command
from domain.engine import Verdict, execute, needs
from schemas.codes import Code
from schemas.gateway import GatewayProfile
from schemas.registry import COMMANDS
from schemas.subjects import query_subject
from schemas.tenant import TenantProfile

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
OPEN_ON = date(2026, 3, 2)
DUE_ON = date(2026, 4, 1)  # 30 days of payment terms
LOINC = "http://loinc.org"


def profile_of(tenant_id: str) -> TenantProfile:
    gateway = GatewayProfile(adapter="generic", url="https://gateway.example")
    return TenantProfile(tenant_id=tenant_id, name="Clinic", region="test-1", country_profile="ARE", gateway=gateway)


async def profile(tenant_id: str) -> TenantProfile | Code:
    """A tenant directory that knows every tenant."""
    return profile_of(tenant_id)


class Hospital:
    """Runs commands of one tenant, each `apply` as one batch; every command is recorded `step` after the one before."""

    def __init__(
        self, database: Database, tenant_id: str, *, start: datetime = START, step: timedelta = timedelta(seconds=1)
    ) -> None:
        self.database, self.tenant_id, self.start, self.step = database, tenant_id, start, step
        self.position = "0/0"
        self._sequence = 0

    async def apply(self, *commands: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """The results, every command having been accepted; sets `position` to that of the commit."""
        verdicts = await self.batch(*commands)
        assert [verdict.error for verdict in verdicts if verdict.status != "applied"] == []
        return [orjson.loads(verdict.result or "null") for verdict in verdicts]

    async def batch(self, *commands: tuple[str, dict[str, Any]]) -> Sequence[Verdict]:
        decoded = [self._command(name, body) for name, body in commands]
        async with self.database.transaction(self.tenant_id) as transaction:
            snapshot = await load(transaction.connection, self.tenant_id, needs(decoded))
            verdicts = execute(snapshot, decoded)
            await save(transaction.connection, self.tenant_id, snapshot.changes())
            transaction.wants_position = True
        self.position = transaction.position or ""
        return verdicts

    def _command(self, name: str, body: dict[str, Any]) -> Command[Any]:
        self._sequence += 1
        text = orjson.dumps(body)
        return Command(
            tenant=profile_of(self.tenant_id),
            name=name,
            command_id=uuid4(),
            body=COMMANDS[name].payload.model_validate_json(text),
            payload_hash=hashlib.sha256(text).digest(),
            recorded_at=self.start + self.step * self._sequence,
            stream_sequence=self._sequence,
        )


class Books:
    """The ids of what `a_day` did."""

    account: UUID
    other_account: UUID
    invoices: dict[str, UUID]
    draft: UUID
    void: UUID
    payment: UUID
    cheque: UUID
    charges: list[UUID]


def charge(account_id: UUID, minor: int, **more: Any) -> tuple[str, dict[str, Any]]:
    price = {"amount_minor": minor, "currency": "AED"}
    body = {"account_id": account_id, "code_system": LOINC, "code": "718-7", "quantity": "1", "unit_price": price}
    return "charge.capture", body | {"service_date": OPEN_ON} | more


def cash(account_id: UUID, minor: int, **more: Any) -> tuple[str, dict[str, Any]]:
    money = {"amount_minor": minor, "currency": "AED"}
    return "payment.record", {"account_id": account_id, "amount": money, "method": "cash"} | more


async def a_day(hospital: Hospital) -> Books:
    """Something of everything: a split invoice with tax, payments in part and in excess, a bounced cheque, a refund, a credit
    note, a write-off, a void, a draft, an adjustment, a refusal.

    Insurer's document: 42,000 (40 % of 100,000 plus 5 %), of which 2,000 written off. Patient's: 63,000, credited by 1,050.
    """
    books = Books()
    await _bill(hospital, books)
    await _pay(hospital, books)
    await _correct(hospital, books)
    return books


async def _bill(hospital: Hospital, books: Books) -> None:
    parties = [
        {"party_id": "patient", "kind": "patient", "share_basis_points": 6000, "name": "نوریه"},
        {"party_id": "insurer", "kind": "insurer", "share_basis_points": 4000},
    ]
    opened = await hospital.apply(
        ("account.open", {"patient": "Patient/1", "currency": "AED", "parties": parties}),
        ("account.open", {"patient": "Patient/2", "currency": "AED", "locale": "fa-AF"}),
    )
    books.account, books.other_account = (UUID(result["account_id"]) for result in opened)
    captured = await hospital.apply(
        charge(books.account, 70_000, tax_category="standard"),
        charge(books.account, 30_000, tax_category="standard", revenue_code="4200"),
        charge(books.account, 5_000),
        charge(books.account, 1_000),
        charge(books.other_account, 9_000),
    )
    books.charges = [UUID(result["charge_id"]) for result in captured]
    billed = {"account_id": books.account, "charge_ids": books.charges[:2]}
    lines = [{"description": "Deposit", "quantity": "1", "unit_price_minor": 8_000}]
    explicit = {"account_id": books.other_account, "lines": lines}
    created = await hospital.apply(
        ("charge.void", {"charge_id": books.charges[3], "reason": "typing error"}),
        ("invoice.create", billed),
        ("invoice.create", explicit),
        ("invoice.create", explicit),
    )
    books.invoices = {made["party_id"]: UUID(made["invoice_id"]) for made in created[1]["documents"]}
    books.draft, books.void = (UUID(result["documents"][0]["invoice_id"]) for result in created[2:])
    issued = [*books.invoices.values(), books.void]
    await hospital.apply(*(("invoice.issue", {"invoice_id": invoice_id}) for invoice_id in issued))


async def _pay(hospital: Hospital, books: Books) -> None:
    def to(party: str, minor: int) -> list[dict[str, Any]]:
        return [{"invoice_id": books.invoices[party], "amount_minor": minor}]

    paid = await hospital.apply(
        cash(books.account, 25_012, cash_rounding_minor=-12, allocations=to("patient", 20_000)),
        cash(books.account, 10_000, method="cheque", allocations=to("insurer", 10_000)),
        ("invoice.void", {"invoice_id": books.void, "reason": "wrong patient"}),
    )
    books.payment, books.cheque = (UUID(result["payment_id"]) for result in paid[:2])
    await hospital.apply(
        ("payment.allocate", {"payment_id": books.payment, "allocations": to("insurer", 3_000)}),
        (
            "payment.unallocate",
            {"payment_id": books.payment, "invoice_id": books.invoices["insurer"], "reason": "mix-up"},
        ),
        ("payment.refund", {"payment_id": books.payment, "amount_minor": 1_500, "reason": "asked for it"}),
        ("payment.reverse", {"payment_id": books.cheque, "reason": "bounced"}),
    )


async def _correct(hospital: Hospital, books: Books) -> None:
    credited = {"invoice_id": books.invoices["patient"], "reason": "goodwill"}
    adjusted = {"debit_code": "5200", "credit_code": "1010", "amount": {"amount_minor": 77, "currency": "AED"}}
    await hospital.apply(
        ("credit_note.issue", credited | {"lines": [{"line_number": 1, "net_minor": 1_000}]}),
        ("invoice.write_off", {"invoice_id": books.invoices["insurer"], "amount_minor": 2_000, "reason": "agreed"}),
        ("period.open", {"period": "2026-04"}),
        ("ledger.define_account", {"code": "4500", "name": "Revenue: parking", "kind": "revenue"}),
        ("ledger.adjust", adjusted | {"effective_on": "2026-03-20", "reason": "bank fee"}),
    )
    (refused,) = await hospital.batch(("charge.void", {"charge_id": books.charges[0], "reason": "too late"}))
    assert refused.status == "rejected"


async def a_card(hospital: Hospital, account_id: UUID) -> tuple[UUID, UUID]:
    """A card charged with 7,000, of which 500 are on their way back; and a charge of 900 that the gateway has not decided."""
    charged = await hospital.apply(*(_charging(account_id, minor) for minor in (7_000, 900)))
    paid, pending = (UUID(result["payment_id"]) for result in charged)
    told = {"payment_id": paid, "state": "captured", "currency": "AED", "captured_minor": 7_000, "reference": "gw_1"}
    await hospital.apply(("payment.settle", told))
    await hospital.apply(("payment.refund", {"payment_id": paid, "amount_minor": 500, "reason": "asked for it"}))
    return paid, pending


def _charging(account_id: UUID, minor: int) -> tuple[str, dict[str, Any]]:
    money = {"amount_minor": minor, "currency": "AED"}
    return "payment.charge", {"account_id": account_id, "amount": money, "source": "tok_visa"}


async def ask(queries: Any, tenant_id: str, name: str, **fields: Any) -> dict[str, Any]:
    """The whole answer: result, error, position."""
    answer: dict[str, Any] = orjson.loads(await queries.answer(query_subject(tenant_id, name), orjson.dumps(fields)))
    return answer
