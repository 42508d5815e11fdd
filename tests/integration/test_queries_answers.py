"""Every query, answered from books that the real engine wrote."""

import json
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from adapters.postgres.database import Database
from adapters.postgres.reads import READS
from handlers.queries import OUTSIDE, Queries
from schemas.registry import QUERIES
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import DUE_ON, OPEN_ON, Books, Hospital, a_card, a_day, ask, profile
from tests.integration.test_queries_jobs import ASKED_OF_STRANGERS


class Day:
    def __init__(self, hospital: Hospital, books: Books, queries: Queries) -> None:
        self.hospital, self.books, self.queries = hospital, books, queries

    async def result(self, name: str, **fields: Any) -> Any:
        answer = await ask(self.queries, self.hospital.tenant_id, name, **fields)
        assert answer["error"] is None
        return QUERIES[name].result.model_validate_json(json.dumps(answer["result"]))

    async def code(self, name: str, **fields: Any) -> str:
        answer = await ask(self.queries, self.hospital.tenant_id, name, **fields)
        assert answer["result"] is None
        return str(answer["error"]["code"])


@pytest_asyncio.fixture
async def day(database: ModuleDatabase, tenant: str) -> AsyncIterator[Day]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    read = Database(database.dsn("billing_read"), application_name="test", pool_size=4)
    try:
        hospital = Hospital(app, tenant)
        yield Day(hospital, await a_day(hospital), Queries(read, None, profile))
    finally:
        await read.close()
        await app.close()


async def test_charges_through_a_gateway_are_seen_before_their_money_is_in_the_books(day: Day) -> None:
    paid, pending = await a_card(day.hospital, day.books.account)
    waiting = await day.result("payment.get", payment_id=pending)
    assert (waiting.status, waiting.amount_minor, waiting.unapplied_minor) == ("pending", 900, 0)
    assert (waiting.received_on, waiting.hold.status, waiting.hold.capture) == (None, "pending", "automatic")
    captured = await day.result("payment.get", payment_id=paid)
    assert (captured.status, captured.method, captured.hold.status) == ("recorded", "gateway", "captured")
    assert (captured.refunding_minor, captured.refunded_minor, captured.unapplied_minor) == (500, 0, 6_500)
    assert (await day.result("account.balance", account_id=day.books.account)).held_minor == 900
    assert (await day.result("payment.get", payment_id=day.books.payment)).hold is None

    async def listed(**asked: Any) -> list[UUID]:
        return [item.payment_id for item in (await day.result("payment.holds", **asked)).items]

    assert await listed() == [pending, paid]
    assert await listed(status="pending") == [pending]
    assert await listed(account_id=day.books.account, status="captured") == [paid]
    assert await listed(account_id=day.books.other_account) == await listed(faulty=True) == []


def test_every_query_of_the_registry_has_a_read() -> None:
    assert READS.keys() | OUTSIDE == QUERIES.keys()
    assert not READS.keys() & OUTSIDE


async def test_account(day: Day) -> None:
    account = await day.result("account.get", account_id=day.books.account)
    assert (account.patient, account.currency, account.status) == ("Patient/1", "AED", "open")
    assert [(party.party_id, party.share_basis_points, party.name) for party in account.parties] == [
        ("patient", 6000, "نوریه"),
        ("insurer", 4000, None),
    ]
    assert await day.code("account.get", account_id=uuid4()) == "account_not_found"


async def test_account_list_filters(day: Day) -> None:
    every = await day.result("account.list")
    assert [item.account_id for item in every.items] == [day.books.other_account, day.books.account]
    of_patient = await day.result("account.list", patient="Patient/2", status="open")
    assert [item.account_id for item in of_patient.items] == [day.books.other_account]
    assert (await day.result("account.list", status="closed")).items == ()


async def test_account_balance(day: Day) -> None:
    balance = await day.result("account.balance", account_id=day.books.account)
    # Patient 63,000 − 20,000 paid − 1,050 credited; insurer 42,000 − 2,000 written off, its cheque having bounced.
    assert [(party.party_id, party.receivable_minor) for party in balance.parties] == [
        ("insurer", 40_000),
        ("patient", 41_950),
    ]
    assert balance.receivable_minor == 81_950
    assert balance.unapplied_credit_minor == 25_000 - 20_000 - 1_500
    assert balance.uninvoiced_minor == 5_000
    assert await day.code("account.balance", account_id=uuid4()) == "account_not_found"


async def test_account_activity_is_the_account_s_own_entries_newest_first(day: Day) -> None:
    activity = await day.result("account.activity", account_id=day.books.account)
    everything = await day.result("ledger.transfers")
    sub_ledgers = {"1100", "2100"}
    others = {day.books.void}
    expected = [
        entry.sequence
        for entry in everything.items
        if {entry.debit_code, entry.credit_code} & sub_ledgers and entry.document_id not in others
    ]
    assert [entry.sequence for entry in activity.items] == expected
    assert expected == sorted(expected, reverse=True)
    assert await day.code("account.activity", account_id=uuid4()) == "account_not_found"


async def test_charge(day: Day) -> None:
    charge = await day.result("charge.get", charge_id=day.books.charges[1])
    assert (charge.status, charge.net_minor, charge.revenue_code) == ("invoiced", 30_000, "4200")
    assert str(charge.quantity) == "1"
    assert await day.code("charge.get", charge_id=uuid4()) == "charge_not_found"


async def test_charge_list_filters(day: Day) -> None:
    found = await day.result("charge.list", account_id=day.books.account)
    assert [item.charge_id for item in found.items] == list(reversed(day.books.charges[:4]))
    still_open = await day.result("charge.list", account_id=day.books.account, status="open")
    assert [item.charge_id for item in still_open.items] == [day.books.charges[2]]
    assert (await day.result("charge.list", account_id=uuid4())).items == ()


async def test_invoice(day: Day) -> None:
    invoice = await day.result("invoice.get", invoice_id=day.books.invoices["patient"])
    assert (invoice.status, invoice.number, invoice.total_minor) == ("issued", "INV-2026-000001", 63_000)
    assert (invoice.paid_minor, invoice.credited_minor, invoice.open_minor) == (20_000, 1_050, 41_950)
    assert [(line.line_number, line.net_minor, line.credited_net_minor) for line in invoice.lines] == [
        (1, 42_000, 1_000),
        (2, 18_000, 0),
    ]
    void = await day.result("invoice.get", invoice_id=day.books.void)
    assert (void.status, void.total_minor, void.open_minor) == ("void", 8_000, 0)
    assert await day.code("invoice.get", invoice_id=uuid4()) == "invoice_not_found"


async def test_invoice_list_filters(day: Day) -> None:
    async def ids(**filters: Any) -> set[UUID]:
        return {item.invoice_id for item in (await day.result("invoice.list", **filters)).items}

    issued = set(day.books.invoices.values())
    assert await ids() == issued | {day.books.draft, day.books.void}
    assert await ids(account_id=day.books.account) == issued
    assert await ids(status="draft") == {day.books.draft}
    assert await ids(status="void", account_id=day.books.account) == set()


async def test_payment(day: Day) -> None:
    payment = await day.result("payment.get", payment_id=day.books.payment)
    assert (payment.amount_minor, payment.cash_rounding_minor, payment.allocated_minor) == (25_012, -12, 20_000)
    assert (payment.refunded_minor, payment.unapplied_minor) == (1_500, 3_500)
    # The allocation that was taken back is gone.
    assert [(made.invoice_id, made.amount_minor) for made in payment.allocations] == [
        (day.books.invoices["patient"], 20_000)
    ]
    cheque = await day.result("payment.get", payment_id=day.books.cheque)
    assert (cheque.status, cheque.unapplied_minor, cheque.allocations) == ("reversed", 0, ())
    assert await day.code("payment.get", payment_id=uuid4()) == "payment_not_found"


async def test_payment_list_filters(day: Day) -> None:
    payments = await day.result("payment.list", account_id=day.books.account)
    assert [item.payment_id for item in payments.items] == [day.books.cheque, day.books.payment]
    assert (await day.result("payment.list", account_id=day.books.other_account)).items == ()


async def test_trial_balance_now_and_at_a_date(day: Day) -> None:
    now = await day.result("ledger.trial_balance")
    lines = {line.code: line for line in now.lines}
    assert lines["1100"].debits_minor - lines["1100"].credits_minor == 81_950
    assert (lines["5200"].name, lines["5200"].kind, lines["5200"].debits_minor) == ("Gateway fees", "expense", 77)
    assert sum(line.debits_minor for line in now.lines) == sum(line.credits_minor for line in now.lines)
    far = await day.result("ledger.trial_balance", as_of=date(2100, 1, 1))
    assert far.lines == now.lines
    # The adjustment is effective on 20 March.
    before = await day.result("ledger.trial_balance", as_of=date(2026, 3, 19))
    on = await day.result("ledger.trial_balance", as_of=date(2026, 3, 20))
    assert "5200" not in {line.code for line in before.lines}
    assert on.lines == now.lines
    assert (await day.result("ledger.trial_balance", as_of=OPEN_ON - timedelta(days=1))).lines == ()


async def test_transfers_of_a_document(day: Day) -> None:
    invoice_id = day.books.invoices["patient"]
    entries = await day.result("ledger.transfers", document_id=invoice_id)
    assert [(entry.kind, entry.debit_code, entry.credit_code, entry.amount_minor) for entry in entries.items] == [
        ("invoice", "1100", "2200", 3_000),
        ("invoice", "1100", "4200", 18_000),
        ("invoice", "1100", "4000", 42_000),
    ]
    both = await day.result("ledger.transfers", document_id=invoice_id, account_id=day.books.other_account)
    assert both.items == ()


async def test_verification_is_clean(day: Day) -> None:
    verification = await day.result("ledger.verify")
    assert verification.mismatches == ()
    newest = (await day.result("ledger.transfers", limit=1)).items[0]
    assert (verification.head_sequence, verification.head_hash) == (newest.sequence, newest.hash)
    assert verification.transfers == newest.sequence


@pytest.mark.parametrize(
    ("days_past_due", "bucket"),
    [
        (-30, "current_minor"),
        (0, "current_minor"),
        (1, "days_1_30_minor"),
        (30, "days_1_30_minor"),
        (31, "days_31_60_minor"),
        (60, "days_31_60_minor"),
        (61, "days_61_90_minor"),
        (90, "days_61_90_minor"),
        (91, "days_91_120_minor"),
        (120, "days_91_120_minor"),
        (121, "over_120_minor"),
    ],
)
async def test_aging(day: Day, days_past_due: int, bucket: str) -> None:
    aging = await day.result("report.aging", as_of=DUE_ON + timedelta(days=days_past_due))
    (line,) = aging.lines
    buckets = {name: minor for name, minor in line.model_dump().items() if name.endswith("_minor") and minor}
    assert buckets == {bucket: 81_950, "total_minor": 81_950}


async def test_aging_of_an_account_and_of_today(day: Day) -> None:
    assert (await day.result("report.aging", account_id=day.books.other_account)).lines == ()
    today = await day.result("report.aging")
    assert today.as_of > OPEN_ON


async def test_revenue(day: Day) -> None:
    revenue = await day.result("report.revenue", starts_on=OPEN_ON, ends_on=OPEN_ON)
    amounts = {line.revenue_code: line.amount_minor for line in revenue.lines}
    # The void invoice's 8,000 came and went; the credit note took 1,000 of the patient's line back.
    assert sum(amounts.values()) == 100_000 - 1_000
    assert amounts["4200"] == 30_000
    later = await day.result("report.revenue", starts_on=OPEN_ON + timedelta(days=1), ends_on=date(2026, 12, 31))
    assert later.lines == ()


async def test_command(day: Day) -> None:
    async with day.hospital.database.reading(day.hospital.tenant_id) as connection:
        rows = (await connection.exec_driver_sql("SELECT command_id, status FROM inbox ORDER BY sequence")).all()
    applied, refused = rows[0], rows[-1]
    command = await day.result("command.get", command_id=str(applied.command_id))
    assert (command.name, command.status, command.sequence) == ("account.open", "applied", 1)
    assert command.result == {"account_id": str(day.books.account), "status": "open"}
    command = await day.result("command.get", command_id=str(refused.command_id))
    assert command.result is None
    assert command.error is not None
    assert (command.status, command.error.code) == ("rejected", "charge_not_open")
    assert await day.code("command.get", command_id=uuid4()) == "command_not_found"


@pytest.mark.parametrize("role", ["billing_read", "postgres"])
async def test_another_tenant_sees_nothing(day: Day, database: ModuleDatabase, role: str) -> None:
    """By row-level security and, where a role is exempt from it, by every statement's own condition."""
    stranger = f"{day.hospital.tenant_id}-x"
    source = Database(database.dsn(role), application_name="test", pool_size=1)
    queries = Queries(source, None, profile)
    books = day.books
    charged, _ = await a_card(day.hospital, books.account)
    asked: dict[str, dict[str, Any]] = {
        "account.get": {"account_id": books.account},
        "account.list": {},
        "account.balance": {"account_id": books.account},
        "account.activity": {"account_id": books.account},
        "charge.get": {"charge_id": books.charges[0]},
        "charge.list": {"account_id": books.account},
        "invoice.get": {"invoice_id": books.draft},
        "invoice.list": {},
        "payment.get": {"payment_id": books.payment},
        "payment.list": {},
        "payment.holds": {},
        "ledger.trial_balance": {},
        "ledger.transfers": {},
        "ledger.verify": {},
        "report.aging": {},
        "report.revenue": {"starts_on": "2026-01-01", "ends_on": "2026-12-31"},
        "command.get": {"command_id": uuid4()},
    }
    assert asked.keys() | ASKED_OF_STRANGERS | OUTSIDE == QUERIES.keys()
    for name, fields in (*asked.items(), ("payment.get", {"payment_id": charged})):
        answer = await ask(queries, stranger, name, **fields)
        if answer["error"]:
            assert answer["error"]["code"].endswith("_not_found")
        else:
            result = answer["result"]
            rows = [value for value in result.values() if isinstance(value, list)]
            assert rows == [[]], name
            assert result.get("transfers", 0) == 0
    await source.close()
