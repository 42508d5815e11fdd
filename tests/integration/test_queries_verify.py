"""A verification finds every kind of corruption and nothing else.

Each corruption is made by the superuser in a transaction that is verified from inside and then rolled back.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from adapters.postgres.database import Database
from adapters.postgres.dsn import sqlalchemy_url
from adapters.postgres.verify import MAX_MISMATCHES_PER_CHECK, verify_tenant
from adapters.postgres.verify_checks import CHECKS
from schemas.ledger import LedgerVerification
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import Hospital, a_card, a_day, cash

PATIENT = "(SELECT id FROM invoice WHERE tenant_id = :tenant AND number = 'INV-2026-000001')"
# What it takes for the schema itself to let a corruption in.
UNCHECKED = {
    "invoice": "amounts applied open_minor settled draft number",
    "invoice_line": "amounts credited_net_minor credited_tax_minor",
    "credit_note": "amounts",
    "payment": "cash_rounding_minor unapplied_minor",
    "inbox": "error",
    "ledger_account": "totals",
}

CORRUPTIONS: dict[str, tuple[str, set[str]]] = {
    "running total of one account": (
        "UPDATE ledger_account SET debits_minor = debits_minor + 1 WHERE tenant_id = :tenant AND code = '5200'",
        {"running_balance", "debits_equal_credits"},
    ),
    "balanced pair of running totals": (
        "UPDATE ledger_account SET debits_minor = debits_minor + 1, credits_minor = credits_minor + 1"
        " WHERE tenant_id = :tenant AND code = '5200'",
        {"running_balance"},
    ),
    "amount of a transfer": (
        "UPDATE ledger_transfer SET amount_minor = amount_minor + 1 WHERE tenant_id = :tenant AND sequence = 3",
        {"running_balance", "hash_chain"},
    ),
    "date of a transfer": (
        "UPDATE ledger_transfer SET effective_on = effective_on + 1 WHERE tenant_id = :tenant AND sequence = 3",
        {"hash_chain"},
    ),
    "hash of a transfer": (
        "UPDATE ledger_transfer SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1)"
        " WHERE tenant_id = :tenant AND sequence = 3",
        {"hash_chain"},
    ),
    "transfer gone": (
        "DELETE FROM ledger_transfer WHERE tenant_id = :tenant AND sequence = 3",
        {"ledger_sequence", "hash_chain", "running_balance"},
    ),
    "last transfer gone": (
        "DELETE FROM ledger_transfer t USING tenant_book b"
        " WHERE b.tenant_id = :tenant AND t.tenant_id = b.tenant_id AND t.sequence = b.ledger_sequence",
        {"chain_head", "running_balance"},
    ),
    "currency of a ledger account": (
        "UPDATE ledger_account SET currency = 'USD' WHERE tenant_id = :tenant AND code = '5200'",
        {"transfer_currency", "debits_equal_credits"},
    ),
    "head of the chain": (
        "UPDATE tenant_book SET ledger_head = sha256('x') WHERE tenant_id = :tenant",
        {"chain_head"},
    ),
    "ledger sequence": (
        "UPDATE tenant_book SET ledger_sequence = ledger_sequence + 1 WHERE tenant_id = :tenant",
        {"chain_head"},
    ),
    "written off": (
        f"UPDATE invoice SET written_off_minor = written_off_minor + 1 WHERE tenant_id = :tenant AND id = {PATIENT}",
        {"receivable"},
    ),
    "cash rounding": (
        "UPDATE payment SET cash_rounding_minor = cash_rounding_minor + 1 WHERE tenant_id = :tenant AND method = 'cash'",
        {"unapplied_credit"},
    ),
    "reversed payment revived": (
        "UPDATE payment SET status = 'recorded' WHERE tenant_id = :tenant AND method = 'cheque'",
        {"unapplied_credit"},
    ),
    "allocated": (
        "UPDATE payment SET allocated_minor = allocated_minor + 1 WHERE tenant_id = :tenant AND method = 'cash'",
        {"payment_allocations", "unapplied_credit"},
    ),
    "allocation gone": (
        "DELETE FROM allocation WHERE tenant_id = :tenant AND amount_minor = 20000",
        {"payment_allocations", "invoice_allocations"},
    ),
    "paid": (
        f"UPDATE invoice SET paid_minor = paid_minor + 1 WHERE tenant_id = :tenant AND id = {PATIENT}",
        {"invoice_allocations", "receivable"},
    ),
    "refund": (
        "UPDATE refund SET amount_minor = amount_minor + 1 WHERE tenant_id = :tenant",
        {"payment_refunds"},
    ),
    "captured amount of a hold": (
        "UPDATE hold SET captured_minor = captured_minor + 1 WHERE tenant_id = :tenant AND status = 'captured'",
        {"gateway_payments"},
    ),
    "hold revived": (
        "UPDATE hold SET status = 'authorised' WHERE tenant_id = :tenant AND status = 'captured'",
        {"gateway_payments"},
    ),
    "hold said to be captured": (
        "UPDATE hold SET status = 'captured', captured_minor = 1 WHERE tenant_id = :tenant AND status = 'pending'",
        {"gateway_payments"},
    ),
    "hold gone": (
        "DELETE FROM hold WHERE tenant_id = :tenant AND status = 'captured'",
        {"gateway_payments"},
    ),
    "refund under way said to be done": (
        "UPDATE gateway_refund SET status = 'done' WHERE tenant_id = :tenant",
        {"gateway_refunds"},
    ),
    "refunded of a hold": (
        "UPDATE hold SET refunded_minor = refunded_minor + 1 WHERE tenant_id = :tenant AND status = 'captured'",
        {"gateway_refunds"},
    ),
    "reserved for refunds": (
        "UPDATE payment SET refunding_minor = 0 WHERE tenant_id = :tenant AND method = 'gateway'",
        {"gateway_refunds"},
    ),
    "charged back": (
        "UPDATE payment SET charged_back_minor = 1 WHERE tenant_id = :tenant AND method = 'gateway'",
        {"unapplied_credit"},
    ),
    "net and tax of a credit note": (
        "UPDATE credit_note SET net_minor = net_minor + 1, tax_minor = tax_minor - 1 WHERE tenant_id = :tenant",
        {"credit_note_lines"},
    ),
    "credit note gone": (
        "DELETE FROM credit_note WHERE tenant_id = :tenant",
        {"credit_note_lines", "invoice_credits", "invoice_line_credits", "document_numbers"},
    ),
    "line of a credit note": (
        "UPDATE credit_note_line SET net_minor = net_minor + 1 WHERE tenant_id = :tenant",
        {"credit_note_lines", "invoice_line_credits"},
    ),
    "credited of a line": (
        f"UPDATE invoice_line SET credited_tax_minor = credited_tax_minor + 1 WHERE tenant_id = :tenant"
        f" AND invoice_id = {PATIENT} AND line_number = 1",
        {"invoice_line_credits"},
    ),
    "credited": (
        f"UPDATE invoice SET credited_minor = credited_minor + 1 WHERE tenant_id = :tenant AND id = {PATIENT}",
        {"invoice_credits", "receivable"},
    ),
    "last number of a series": (
        "UPDATE document_series SET last_number = last_number + 1 WHERE tenant_id = :tenant AND series = 'INV'",
        {"document_numbers"},
    ),
    "series gone": (
        "DELETE FROM document_series WHERE tenant_id = :tenant AND series = 'CN'",
        {"document_numbers"},
    ),
    "number of an invoice": (
        "UPDATE invoice SET number = 'INV-2026-000009' WHERE tenant_id = :tenant AND number = 'INV-2026-000002'",
        {"document_numbers"},
    ),
    "unreadable number": (
        "UPDATE invoice SET number = 'INV-2026-' WHERE tenant_id = :tenant AND number = 'INV-2026-000003'",
        {"document_numbers"},
    ),
    "fiscal year": (
        f"UPDATE invoice SET fiscal_year = 2025 WHERE tenant_id = :tenant AND id = {PATIENT}",
        {"document_year"},
    ),
    "outcome gone": (
        "DELETE FROM inbox WHERE tenant_id = :tenant AND sequence = 2",
        {"command_sequence"},
    ),
    "last outcome gone": (
        "DELETE FROM inbox i USING tenant_book b"
        " WHERE b.tenant_id = :tenant AND i.tenant_id = b.tenant_id AND i.sequence = b.command_sequence",
        {"command_sequence"},
    ),
    "outcome numbered twice": (
        "UPDATE inbox SET sequence = 1 WHERE tenant_id = :tenant AND sequence = 2",
        {"command_sequence"},
    ),
    "neither result nor error": (
        "UPDATE inbox SET result = NULL WHERE tenant_id = :tenant AND sequence = 1",
        {"command_outcome"},
    ),
    "both result and error": (
        "UPDATE inbox SET error = '{}' WHERE tenant_id = :tenant AND sequence = 1",
        {"command_outcome"},
    ),
    "event sequence": (
        "UPDATE tenant_book SET event_sequence = event_sequence - 3 WHERE tenant_id = :tenant",
        {"ledger_event", "outbox_tail"},
    ),
    "event of a transfer": (
        "UPDATE ledger_transfer SET event_sequence = 0 WHERE tenant_id = :tenant AND sequence = 3",
        {"ledger_event", "hash_chain"},
    ),
    "book gone": (
        "DELETE FROM tenant_book WHERE tenant_id = :tenant",
        {"chain_head", "ledger_event", "outbox_tail", "command_sequence"},
    ),
    "event lost from the outbox": (
        "DELETE FROM outbox WHERE id = (SELECT id FROM outbox WHERE tenant_id = :tenant AND stream = 'events' ORDER BY id"
        " OFFSET 3 LIMIT 1)",
        {"outbox_tail"},
    ),
    "last event lost": (
        "DELETE FROM outbox WHERE id = (SELECT max(id) FROM outbox WHERE tenant_id = :tenant AND stream = 'events')",
        {"outbox_tail"},
    ),
    "event twice in the outbox": (
        "INSERT INTO outbox (tenant_id, shard, stream, subject, headers, body, recorded_at)"
        " SELECT tenant_id, shard, stream, subject, headers, body, recorded_at"
        " FROM outbox WHERE id = (SELECT max(id) FROM outbox WHERE tenant_id = :tenant AND stream = 'events')",
        {"outbox_tail"},
    ),
    "net and tax of an invoice": (
        f"UPDATE invoice SET net_minor = net_minor + 1, tax_minor = tax_minor - 1"
        f" WHERE tenant_id = :tenant AND id = {PATIENT}",
        {"invoice_totals"},
    ),
    "total of a draft": (
        "UPDATE invoice SET total_minor = total_minor + 1 WHERE tenant_id = :tenant AND status = 'draft'",
        {"invoice_totals"},
    ),
    "line of an invoice": (
        f"UPDATE invoice_line SET net_minor = net_minor + 1 WHERE tenant_id = :tenant AND invoice_id = {PATIENT}",
        {"invoice_totals"},
    ),
    "settled with something open": (
        f"UPDATE invoice SET status = 'settled' WHERE tenant_id = :tenant AND id = {PATIENT}",
        {"invoice_status"},
    ),
    "draft with a number": (
        "UPDATE invoice SET status = 'draft' WHERE tenant_id = :tenant AND status = 'void'",
        {"invoice_status"},
    ),
}


@pytest.fixture(scope="module")
def superuser(database: ModuleDatabase) -> Iterator[str]:
    yield database.dsn("postgres")


@pytest_asyncio.fixture
async def app(database: ModuleDatabase) -> AsyncIterator[Database]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    yield app
    await app.close()


@asynccontextmanager
async def corruptible(dsn: str) -> AsyncIterator[AsyncConnection]:
    """A transaction in which everything is allowed and of which nothing stays."""
    engine = create_async_engine(sqlalchemy_url(dsn), isolation_level="REPEATABLE READ", poolclass=NullPool)
    async with engine.connect() as connection:
        # Foreign keys are triggers too.
        await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table, names in UNCHECKED.items():
            drops = ", ".join(f"DROP CONSTRAINT ck_{table}_{name}" for name in names.split())
            await connection.exec_driver_sql(f"ALTER TABLE {table} {drops}")
        yield connection
        await connection.rollback()
    await engine.dispose()


def checks(verification: LedgerVerification) -> set[str]:
    return {mismatch.check for mismatch in verification.mismatches}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corruption_is_found_and_named(app: Database, superuser: str, tenant: str, corruption: str) -> None:
    statement, expected = CORRUPTIONS[corruption]
    hospital = Hospital(app, tenant)
    await a_card(hospital, (await a_day(hospital)).account)
    neighbour = f"{tenant}-n"
    await a_day(Hospital(app, neighbour))
    async with corruptible(superuser) as connection:
        assert checks(await verify_tenant(connection, tenant)) == set()
        changed = await connection.execute(text(statement), {"tenant": tenant})
        assert changed.rowcount > 0
        assert checks(await verify_tenant(connection, tenant)) == expected
        assert checks(await verify_tenant(connection, neighbour)) == set()


def test_every_check_has_a_corruption() -> None:
    chain = {"hash_chain", "ledger_sequence", "chain_head"}
    assert set[str]().union(*(found for _, found in CORRUPTIONS.values())) == {check.name for check in CHECKS} | chain


async def test_mismatches_name_the_row_and_no_amount(app: Database, superuser: str, tenant: str) -> None:
    books = await a_day(Hospital(app, tenant))
    async with corruptible(superuser) as connection:
        await connection.execute(
            text("UPDATE invoice SET paid_minor = paid_minor + 3 WHERE id = :id"), {"id": books.invoices["patient"]}
        )
        mismatches = {mismatch.check: mismatch for mismatch in (await verify_tenant(connection, tenant)).mismatches}
    assert mismatches["invoice_allocations"].subject == str(books.invoices["patient"])
    assert mismatches["invoice_allocations"].found == "off by 3"
    assert mismatches["receivable"].subject == f"{books.account}/patient/AED"


async def test_a_half_relayed_outbox_is_clean(app: Database, superuser: str, tenant: str) -> None:
    await a_day(Hospital(app, tenant))
    for count in (5, 10_000):
        async with corruptible(superuser) as connection:
            delete = (
                "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE tenant_id = :tenant AND stream = 'events'"
                " ORDER BY id LIMIT :n)"
            )
            await connection.execute(text(delete), {"tenant": tenant, "n": count})
            assert checks(await verify_tenant(connection, tenant)) == set()


async def test_a_tenant_without_books_is_clean(app: Database, tenant: str) -> None:
    async with app.reading(tenant) as connection:
        verification = await verify_tenant(connection, tenant)
    assert (verification.transfers, verification.head_hash, verification.mismatches) == (0, "00" * 32, ())


async def test_a_long_chain_is_streamed_and_reports_are_bounded(app: Database, superuser: str, tenant: str) -> None:
    """Longer than several fetches of the cursor; a corruption of every row is reported up to the limit."""
    hospital = Hospital(app, tenant)
    (opened,) = await hospital.apply(("account.open", {"patient": "Patient/1", "currency": "AED"}))
    await hospital.apply(*(cash(opened["account_id"], 100) for _ in range(2_500)))
    async with corruptible(superuser) as connection:
        verification = await verify_tenant(connection, tenant)
        assert (verification.transfers, verification.head_sequence, verification.mismatches) == (2_500, 2_500, ())
        await connection.execute(
            text("UPDATE ledger_transfer SET kind = 'x' WHERE tenant_id = :t AND sequence = 2200"), {"t": tenant}
        )
        (broken,) = (await verify_tenant(connection, tenant)).mismatches
        assert (broken.check, broken.subject) == ("hash_chain", "2200")
        await connection.execute(text("UPDATE ledger_transfer SET kind = 'x' WHERE tenant_id = :t"), {"t": tenant})
        assert len((await verify_tenant(connection, tenant)).mismatches) == MAX_MISMATCHES_PER_CHECK


async def test_a_transaction_of_several_snapshots_is_refused(superuser: str, tenant: str) -> None:
    engine = create_async_engine(sqlalchemy_url(superuser), poolclass=NullPool)
    async with engine.connect() as connection:
        with pytest.raises(ValueError, match="REPEATABLE READ"):
            await verify_tenant(connection, tenant)
    await engine.dispose()
