"""One row of every entity, fit to be saved together, at the edges of what its columns hold."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from domain import entities, gateway_entities, job_entities
from domain.snapshot import Changes
from schemas.account import Party
from schemas.gl import ControlTotal, GlFile

MOMENT = datetime(2026, 3, 21, 23, 59, 59, 999_999, tzinfo=UTC)
DAY = date(2026, 3, 21)
LARGEST = 2**63 - 1
# Dari with a zero-width non-joiner, Pashto letters, an astral character, quotes and backslashes.
TEXT = "می‌رود ښاغلی 𝔐 'x' \"y\" \\ {a,b} NULL"
PARTIES = (
    Party(party_id="patient", kind="patient", share_basis_points=2500),
    Party(party_id="ins-1", kind="insurer", share_basis_points=7500, name=TEXT, policy_number="P/1"),
)


def account(**changes: Any) -> entities.Account:
    row = entities.Account(uuid4(), "Patient/p-1", None, "AED", "fa-AF", "open", PARTIES, MOMENT)
    return row._replace(**changes)


def invoice(account_id: UUID, **changes: Any) -> entities.Invoice:
    row = entities.Invoice(
        id=uuid4(),
        invoice_group_id=uuid4(),
        account_id=account_id,
        party_id="patient",
        party_kind="patient",
        status="draft",
        number=None,
        invoice_date=DAY,
        due_on=DAY,
        period="1405-01",
        fiscal_year=1405,
        currency="AED",
        net_minor=1000,
        tax_minor=50,
        total_minor=1050,
        paid_minor=0,
        credited_minor=0,
        written_off_minor=0,
        recorded_at=MOMENT,
    )
    return row._replace(**changes)


def payment(account_id: UUID, **changes: Any) -> entities.Payment:
    row = entities.Payment(uuid4(), account_id, None, "cash", "recorded", None, DAY, "AED", 10_025, -25, 0, 0, MOMENT)
    return row._replace(**changes)


def ledger_account(**changes: Any) -> entities.LedgerAccount:
    return entities.LedgerAccount(uuid4(), "1000", "AED", None, None, 0, 0)._replace(**changes)


def transfer(debit: UUID, credit: UUID, **changes: Any) -> entities.Transfer:
    row = entities.Transfer(
        sequence=1,
        id=uuid4(),
        debit_account_id=debit,
        credit_account_id=credit,
        amount_minor=LARGEST,
        currency="AED",
        kind="payment.recorded",
        document_id=uuid4(),
        reverses_document_id=None,
        effective_on=DAY,
        recorded_at=MOMENT,
        command_id=uuid4(),
        event_sequence=LARGEST,
        hash_version=1,
        hash=bytes(range(32)),
    )
    return row._replace(**changes)


def inbox_entry(**changes: Any) -> entities.InboxEntry:
    row = entities.InboxEntry(uuid4(), "payment.record", bytes(32), "applied", '{"a": "é"}', None, 1, 7, MOMENT)
    return row._replace(**changes)


def outbox_row(**changes: Any) -> entities.OutboxRow:
    return entities.OutboxRow(0, "BILLING_EVENTS", "billing.v1.evt.t.a.b", b"\x00\xff", b"{}", MOMENT)._replace(
        **changes
    )


def one_of_each() -> list[Any]:
    """A row per entity class, in an order that has every reference after what it refers to."""
    opened = account(guarantor=TEXT)
    prices = entities.PriceList(uuid4(), "standard", 1, "AED", DAY, MOMENT)
    item = entities.PriceItem(prices.id, "99213", "standard", 1, DAY, "AED", 0, "health_service", "4000", TEXT)
    charged = entities.Charge(
        id=uuid4(),
        account_id=opened.id,
        code_system="http://loinc.org",
        code="99213",
        description=None,
        quantity=Decimal("999999999.999"),
        unit_price_minor=LARGEST,
        net_minor=LARGEST,
        currency="AED",
        tax_category="zero",
        revenue_code="4000",
        service_date=date(9999, 12, 31),
        encounter=None,
        performer="Practitioner/1",
        status="open",
        invoice_group_id=None,
        recorded_at=MOMENT,
    )
    bill = invoice(opened.id, status="issued", number="INV-1405-000001", paid_minor=50)
    line = entities.InvoiceLine(bill.id, 1, charged.id, TEXT, Decimal("0.001"), 1000, "standard", 500, 50, "4000", 0, 0)
    note = entities.CreditNote(uuid4(), bill.id, opened.id, "CN-1405-000001", DAY, "AED", 0, 0, TEXT, MOMENT)
    paid = payment(opened.id, allocated_minor=50, refunded_minor=100)
    cash = ledger_account(debits_minor=LARGEST)
    owed = ledger_account(code="1100", account_id=opened.id, party_id="patient", credits_minor=LARGEST)
    return [
        opened,
        prices,
        item,
        charged,
        bill,
        line,
        note,
        entities.CreditNoteLine(note.id, 1, 0, 0),
        paid,
        entities.Allocation(uuid4(), paid.id, bill.id, -50, "x", date(1, 1, 1), MOMENT),
        entities.Refund(uuid4(), paid.id, 100, "bank", DAY, TEXT, MOMENT),
        entities.Period("1405-01", "open", DAY, DAY, MOMENT),
        entities.DocumentSeries("INV", 1405, 1),
        entities.ChartEntry("4001", TEXT, "revenue", MOMENT),
        cash,
        owed,
        transfer(cash.id, owed.id),
        entities.Book(LARGEST, bytes(32), LARGEST, LARGEST),
        inbox_entry(),
        outbox_row(),
        *_job_and_what_it_made(opened.id),
        *_through_a_gateway(opened.id, bill.id, paid.id),
    ]


def _through_a_gateway(account_id: UUID, invoice_id: UUID, payment_id: UUID) -> list[Any]:
    held = gateway_entities.Hold(
        id=payment_id,
        account_id=account_id,
        party_id="patient",
        adapter="generic",
        status="pending",
        intent="charge",
        revision=1,
        currency="AED",
        amount_minor=LARGEST,
        capture="manual",
        source="tok_1",
        requested_minor=None,
        authorised_minor=LARGEST,
        captured_minor=LARGEST,
        refunded_minor=LARGEST,
        fee_minor=0,
        gateway_currency=None,
        reference="pi_1",
        decline_code=None,
        fault=None,
        dispute="opened",
        expires_at=MOMENT,
        recorded_at=MOMENT,
        changed_at=MOMENT,
    )
    return [
        held,
        gateway_entities.HoldAllocation(held.id, invoice_id, 0, LARGEST),
        gateway_entities.GatewayRefund(uuid4(), payment_id, "pending", 1, LARGEST, TEXT, None, "no", MOMENT, MOMENT),
        gateway_entities.Payout("stripe", "po_1", "AED", LARGEST, 0, DAY, MOMENT),
        gateway_entities.Circuit("stripe", "open", MOMENT, MOMENT),
    ]


def _job_and_what_it_made(account_id: UUID) -> list[Any]:
    parameters = {"period": "1405-01", "account_ids": None, "formats": ["csv"], "a": TEXT}
    work = job_entities.Job(
        uuid4(), "gl_export", "running", parameters, LARGEST, 1, 1, "font_missing", TEXT, MOMENT, MOMENT, None
    )
    told = job_entities.Statement(
        id=uuid4(),
        job_id=work.id,
        account_id=account_id,
        party_id="patient",
        period="1405-01",
        status="issued",
        locale="fa-AF",
        currency="AED",
        opening_minor=-LARGEST,
        closing_minor=LARGEST,
        due_minor=LARGEST,
        json_key="a/b.json",
        json_sha256="0" * 64,
        pdf_key="a/b.pdf",
        pdf_sha256="f" * 64,
        error_code=None,
        recorded_at=MOMENT,
    )
    export = job_entities.GlExport(
        id=work.id,
        scope="detail:1405-01",
        status="written",
        period="1405-01",
        form="detail",
        upto_sequence=LARGEST,
        transfers=LARGEST,
        first_sequence=1,
        last_sequence=LARGEST,
        first_hash="0" * 64,
        last_hash="f" * 64,
        totals=(ControlTotal(currency="AED", debits_minor=LARGEST, credits_minor=LARGEST),),
        files=(GlFile(format="parquet", key="a/b.parquet", sha256="0" * 64, bytes=1, rows=2),),
        manifest_key="a/manifest.json",
        manifest_sha256="0" * 64,
        recorded_at=MOMENT,
    )
    return [work, told, job_entities.GlAccount("1000", "A/1 0.0", TEXT, MOMENT), export]


OTHER_NAMES: dict[type[Any], dict[str, Any]] = {
    entities.PriceList: {"price_list": "other"},
    entities.PriceItem: {"price_list": "other", "code": "1"},
    entities.Invoice: {"number": "INV-1404-000001", "period": "1404-01", "fiscal_year": 1404},
    entities.CreditNote: {"number": "CN-1404-000001"},
    entities.Period: {"period": "1404-01"},
    entities.DocumentSeries: {"series": "CN"},
    entities.ChartEntry: {"code": "4002"},
    job_entities.GlAccount: {"ledger_code": "1010"},
    gateway_entities.Payout: {"id": "po_2"},
    gateway_entities.Circuit: {"adapter": "generic"},
    job_entities.GlExport: {"scope": "summary:1404-01"},
}


def decoys() -> list[Any]:
    """A second row of everything under other natural keys; a tenant's singletons are left out."""
    singletons = (entities.Book, entities.Transfer)
    kept = [row for row in one_of_each() if not isinstance(row, singletons)]
    kept = [row for row in kept if not (isinstance(row, entities.LedgerAccount) and row.account_id is None)]
    return [row._replace(**OTHER_NAMES.get(type(row), {})) for row in kept]


def inserting(*rows: Any) -> Changes:
    """Changes that add these rows; ledger accounts go in as balances, as they always do."""
    inserts: dict[type[Any], list[Any]] = {}
    balances = [row for row in rows if isinstance(row, entities.LedgerAccount)]
    for row in rows:
        if not isinstance(row, entities.LedgerAccount):
            inserts.setdefault(type(row), []).append(row)
    return Changes(inserts, {}, balances)


def updating(*rows: Any) -> Changes:
    updates: dict[type[Any], list[Any]] = {}
    for row in rows:
        updates.setdefault(type(row), []).append(row)
    return Changes({}, updates, [])
