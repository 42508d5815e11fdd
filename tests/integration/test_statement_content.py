"""What a statement says, from books that the real engine wrote: it is the ledger of its party, at its day."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import select

from adapters.postgres import statement_rows as rows
from adapters.postgres.database import Database
from adapters.postgres.statement_rows import Cut
from adapters.postgres.tables import tenant_book
from domain.statement import StatementContent
from domain.statement_parties import recipients
from handlers.statement_content import content_of, issuer, load_chunk
from handlers.statement_run import Run
from schemas.statement_job import StatementItem
from schemas.tenant import StatementProfile
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import Books, Hospital, a_day, cash, profile_of

Contents = dict[tuple[UUID, str], StatementContent]


class Hospitals:
    """A hospital and its statements at any cut."""

    def __init__(self, app: Database, read: Database, tenant: str) -> None:
        self.hospital, self.read, self.tenant = Hospital(app, tenant), read, tenant

    async def sequence(self) -> int:
        async with self.read.reading(self.tenant) as connection:
            return int((await connection.execute(select(tenant_book.c.ledger_sequence))).scalar_one())

    async def statements(self, starts_on: date, ends_on: date, upto: int | None = None) -> Contents:
        """Every statement there is to make for a period, by account and party."""
        cut = Cut(self.tenant, starts_on, ends_on, await self.sequence() if upto is None else upto)
        run = Run(uuid4(), uuid4(), f"{starts_on:%Y-%m}", cut, datetime(2026, 5, 1, tzinfo=UTC), None)
        async with self.read.reading(self.tenant) as connection:
            await rows.check_reached(connection, cut)
            ids = await rows.accounts_after(connection, self.tenant, UUID(int=0), 1_000)
            items = tuple([StatementItem(account_id=UUID(int=each.int), party_id="any") for each in ids])
            chunk = await load_chunk(connection, run, items)
        found: Contents = {}
        for account_id, parties in chunk.balances.items():
            for party_id in recipients(parties, chunk.payers[account_id], named=False):
                item = StatementItem(account_id=UUID(int=account_id.int), party_id=party_id)
                found[item.account_id, party_id] = content_of(run, chunk, item, profile_of(self.tenant))
        return found

    async def open(self, **fields: Any) -> UUID:
        body = {"patient": "Patient/1", "currency": "AED"} | fields
        (opened,) = await self.hospital.apply(("account.open", body))
        return UUID(opened["account_id"])

    async def invoiced(self, account_id: UUID, minor: int, on: date) -> UUID:
        line = {"description": "Care", "quantity": "1", "unit_price_minor": minor}
        body = {"account_id": account_id, "lines": [line], "invoice_date": on}
        (created,) = await self.hospital.apply(("invoice.create", body))
        invoice_id = UUID(created["documents"][0]["invoice_id"])
        await self.hospital.apply(("invoice.issue", {"invoice_id": invoice_id}))
        return invoice_id


@pytest_asyncio.fixture
async def books(database: ModuleDatabase, tenant: str) -> AsyncIterator[Hospitals]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    read = Database(database.dsn("billing_read"), application_name="test", pool_size=2)
    try:
        yield Hospitals(app, read, tenant)
    finally:
        await read.close()
        await app.close()


MARCH, APRIL = (date(2026, 3, 1), date(2026, 3, 31)), (date(2026, 4, 1), date(2026, 4, 30))


async def test_a_day_of_everything_is_stated_to_the_last_minor_unit(books: Hospitals) -> None:
    """Split invoice, part payment, excess, bounced cheque, refund, credit note, write-off, void, an allocation taken back."""
    day: Books = await a_day(books.hospital)
    found = await books.statements(*MARCH)
    insurer, patient = found[day.account, "insurer"], found[day.account, "patient"]
    assert set(found) == {(day.account, "insurer"), (day.account, "patient"), (day.other_account, "patient")}
    # 42,000 billed, 2,000 written off; the cheque of 10,000 came and bounced.
    assert (insurer.closing_minor, insurer.aging.total_minor, insurer.unapplied_credit_minor) == (40_000, 40_000, 0)
    # 63,000 billed, 1,050 credited, 20,000 paid; of the rest of 5,000, 1,500 were paid back. Nobody was named: the patient's.
    assert (patient.aging.total_minor, patient.unapplied_credit_minor, patient.closing_minor) == (41_950, 3_500, 38_450)
    assert patient.due.amount_minor == 38_450
    assert {row.document_number for row in patient.activity if row.kind == "invoice"} == {
        patient.open_invoices[0].number
    }
    # The void invoice came and went.
    assert found[day.other_account, "patient"].closing_minor == 0
    assert [row.kind for row in found[day.other_account, "patient"].activity] == ["invoice", "invoice_void"]


async def test_the_next_month_opens_with_what_this_one_closed(books: Hospitals) -> None:
    day = await a_day(books.hospital)
    march, april = await books.statements(*MARCH), await books.statements(*APRIL)
    balances = {key: content.closing_minor for key, content in march.items() if content.closing_minor}
    assert {key: content.opening_minor for key, content in april.items()} == balances
    for content in april.values():
        assert (content.activity, content.closing_minor) == ((), content.opening_minor)  # a balance and no activity
    assert (day.other_account, "patient") not in april  # neither


async def test_the_cut_makes_a_statement_that_later_postings_do_not_change(books: Hospitals) -> None:
    """The promise under every retry: rendered again after whatever was posted meanwhile, into the very same days."""
    account = await books.open()
    first = await books.invoiced(account, 10_000, date(2026, 3, 5))
    await books.hospital.apply(cash(account, 2_500, allocations=[{"invoice_id": first, "amount_minor": 2_000}]))
    upto = await books.sequence()
    before = await books.statements(*MARCH, upto=upto)
    second = await books.invoiced(account, 7_000, date(2026, 3, 6))
    payment = cash(account, 9_000, allocations=[{"invoice_id": first, "amount_minor": 8_000}])
    await books.hospital.apply(payment, ("invoice.write_off", {"invoice_id": second, "reason": "x"}))
    again, now = await books.statements(*MARCH, upto=upto), await books.statements(*MARCH)
    assert _said(again) == _said(before)
    assert _said(now) != _said(before)
    assert before[account, "patient"].aging.total_minor == 8_000
    assert now[account, "patient"].aging.total_minor == 0


def _said(found: Contents) -> Contents:
    """All but the reference, which is the run's."""
    return {key: replace(content, reference="") for key, content in found.items()}


async def test_money_that_came_before_the_invoice_is_in_favour_until_then(books: Hospitals) -> None:
    account = await books.open()
    invoice_id = await books.invoiced(account, 10_000, date(2026, 4, 2))
    allocations = [{"invoice_id": invoice_id, "amount_minor": 4_000}]
    await books.hospital.apply(cash(account, 4_000, received_on=date(2026, 3, 20), allocations=allocations))
    march, april = await books.statements(*MARCH), await books.statements(*APRIL)
    ahead, then = march[account, "patient"], april[account, "patient"]
    assert (ahead.closing_minor, ahead.unapplied_credit_minor, ahead.due.credit_minor) == (-4_000, 4_000, 4_000)
    assert ahead.open_invoices == ()
    assert (then.opening_minor, then.closing_minor, then.due.amount_minor) == (-4_000, 6_000, 6_000)


async def test_credit_goes_to_the_party_that_paid_it(books: Hospitals) -> None:
    parties = [
        {"party_id": "me", "kind": "patient", "share_basis_points": 5_000, "name": "زهراء"},
        {"party_id": "firm", "kind": "employer", "share_basis_points": 5_000},
    ]
    account = await books.open(parties=parties)
    await books.invoiced(account, 10_000, date(2026, 3, 5))
    await books.hospital.apply(cash(account, 700, party_id="firm"), cash(account, 50))
    found = await books.statements(*MARCH)
    assert (found[account, "firm"].unapplied_credit_minor, found[account, "me"].unapplied_credit_minor) == (700, 50)
    assert (found[account, "me"].addressee.name, found[account, "firm"].addressee.kind) == ("زهراء", "employer")


async def test_an_account_with_nothing_but_credit_has_a_negative_balance(books: Hospitals) -> None:
    account = await books.open()
    await books.hospital.apply(cash(account, 900))
    content = (await books.statements(*MARCH))[account, "patient"]
    assert (content.closing_minor, content.due.amount_minor, content.due.credit_minor) == (-900, 0, 900)


async def test_the_letterhead_is_in_the_readers_language_where_there_is_one(books: Hospitals) -> None:
    lines = StatementProfile(
        names={"ps": "روغتون"}, legal_lines={"en": ("TRN 1",)}, payment_instructions={"ar": ("نقدا",)}
    )
    tenant = profile_of(books.tenant).model_copy(update={"statement": lines})
    assert issuer(tenant, "ps").name == "روغتون"
    assert issuer(tenant, "ps").legal_lines == ("TRN 1",)
    assert issuer(tenant, "en").payment_instructions == ("نقدا",)
    assert issuer(profile_of(books.tenant), "ar").name == "Clinic"


async def test_a_replica_that_lags_is_not_believed(books: Hospitals) -> None:
    await books.invoiced(await books.open(), 100, date(2026, 3, 5))
    cut = Cut(books.tenant, *MARCH, upto_sequence=await books.sequence() + 1)
    async with books.read.reading(books.tenant) as connection:
        with pytest.raises(rows.Behind):
            await rows.check_reached(connection, cut)
