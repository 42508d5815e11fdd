"""Load and save: everything comes back as it went in, by index, in one statement whatever the batch size."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from adapters.postgres.codecs import MAPPINGS, decoder
from adapters.postgres.database import Database
from adapters.postgres.load import load
from adapters.postgres.save import UpdateLost, save
from adapters.postgres.tables import TABLES, mutable_columns
from domain import entities, gateway_entities, job_entities, lookups
from domain.snapshot import Changes, NotLoaded
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.postgres_samples import (
    LARGEST,
    MOMENT,
    PARTIES,
    account,
    decoys,
    inbox_entry,
    inserting,
    invoice,
    ledger_account,
    one_of_each,
    outbox_row,
    payment,
    transfer,
    updating,
)


@pytest.fixture
async def app(database: ModuleDatabase) -> AsyncIterator[Database]:
    opened = Database(database.dsn("billing_app"), application_name="test", pool_size=3)
    yield opened
    await opened.close()


async def store(app: Database, tenant: str, changes: Changes) -> None:
    async with app.transaction(tenant) as transaction:
        await save(transaction.connection, tenant, changes)


async def rows_of(app: Database, tenant: str, entity: type[Any]) -> list[Any]:
    """Every row of a table, decoded as load decodes them."""
    columns = ", ".join(c.name + ("::text" if c.decode else "") for c in MAPPINGS[entity].columns)
    async with app.transaction(tenant) as transaction:
        found = await transaction.connection.fetch(f"SELECT {columns} FROM {MAPPINGS[entity].table} ORDER BY 1")
    return [decoder(entity)(tuple(row)) for row in found]


async def test_every_entity_comes_back_as_it_went_in(app: Database, tenant: str) -> None:
    rows = one_of_each()
    assert {type(row) for row in rows} == set(TABLES)
    await store(app, tenant, inserting(*rows))
    for entity in TABLES:
        expected = [row for row in rows if type(row) is entity]
        found = await rows_of(app, tenant, entity)
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        for row, other in zip(sorted(found, key=repr), sorted(expected, key=repr), strict=True):
            for name, value, wanted in zip(row._fields, row, other, strict=True):
                assert isinstance(value, type(wanted)), (entity, name)


async def test_absent_is_none_and_not_asked_for_is_an_error(app: Database, tenant: str) -> None:
    missing, never_asked = uuid4(), uuid4()
    async with app.transaction(tenant) as transaction:
        snapshot = await load(transaction.connection, tenant, {lookups.ACCOUNT: {missing}, lookups.CHARGE: set()})
    assert snapshot.get(entities.Account, missing) is None
    with pytest.raises(NotLoaded):
        snapshot.get(entities.Account, never_asked)
    with pytest.raises(NotLoaded):
        snapshot.get(entities.Charge, missing)


async def test_an_update_writes_every_column_that_may_change_and_no_other_row(app: Database, tenant: str) -> None:
    rows, bystanders = one_of_each(), decoys()
    await store(app, tenant, inserting(*rows, *bystanders))
    by_type = {type(row): row for row in rows}
    changed = [
        by_type[entities.Account]._replace(guarantor=None, locale="ps", status="closed", parties=PARTIES[:1]),
        by_type[entities.Charge]._replace(status="invoiced", invoice_group_id=uuid4()),
        by_type[entities.Invoice]._replace(
            status="settled",
            number="INV-1405-000002",
            paid_minor=1000,
            credited_minor=40,
            written_off_minor=10,
            overdue_on=MOMENT.date(),
        ),
        by_type[entities.InvoiceLine]._replace(credited_net_minor=1000, credited_tax_minor=50),
        by_type[entities.Payment]._replace(
            status="reversed", allocated_minor=1, refunded_minor=2, refunding_minor=3, charged_back_minor=4
        ),
        by_type[gateway_entities.Hold]._replace(
            status="mismatch",
            intent="expire",
            revision=2,
            requested_minor=1,
            authorised_minor=2,
            captured_minor=3,
            refunded_minor=4,
            fee_minor=5,
            gateway_currency="USD",
            reference="pi_2",
            decline_code="no",
            fault="absent",
            dispute="lost",
            expires_at=MOMENT + timedelta(1),
            changed_at=MOMENT + timedelta(2),
        ),
        by_type[gateway_entities.GatewayRefund]._replace(
            status="done", revision=2, reference="re_1", decline_code=None, changed_at=MOMENT + timedelta(2)
        ),
        by_type[gateway_entities.Circuit]._replace(state="closed", open_until=None),
        by_type[entities.Period]._replace(status="closed"),
        by_type[entities.DocumentSeries]._replace(last_number=LARGEST),
        by_type[entities.Book]._replace(
            ledger_sequence=1, ledger_head=b"\xff" * 32, event_sequence=2, command_sequence=3
        ),
        by_type[job_entities.Job]._replace(
            status="succeeded",
            total=9,
            done=8,
            failed=0,
            error_code=None,
            error_detail=None,
            started_at=None,
            finished_at=MOMENT,
        ),
        by_type[job_entities.GlAccount]._replace(gl_code="other", gl_name="other"),
        by_type[job_entities.GlExport]._replace(
            status="abandoned",
            transfers=1,
            first_sequence=2,
            last_sequence=3,
            first_hash=None,
            last_hash=None,
            totals=(),
            files=(),
            manifest_key=None,
            manifest_sha256=None,
        ),
    ]
    tables = {type(row) for row in changed} | {entities.LedgerAccount}
    assert tables == {entity for entity, table in TABLES.items() if mutable_columns(table)}
    for row in changed:
        for column in mutable_columns(TABLES[type(row)]):
            assert getattr(row, column) != getattr(by_type[type(row)], column), f"{column}: the test changes it not"
    await store(app, tenant, updating(*changed))
    for row in changed:
        others = [other for other in bystanders if type(other) is type(row)]
        assert sorted(await rows_of(app, tenant, type(row)), key=repr) == sorted([row, *others], key=repr)


async def test_balances_are_added_and_new_accounts_begin_with_them(app: Database, tenant: str) -> None:
    cash, bank = ledger_account(), ledger_account(code="1010")
    await store(app, tenant, Changes({}, {}, [cash._replace(debits_minor=10, credits_minor=3)]))
    await store(app, tenant, Changes({}, {}, [cash._replace(debits_minor=5), bank._replace(credits_minor=7)]))
    expected = [cash._replace(debits_minor=15, credits_minor=3), bank._replace(credits_minor=7)]
    assert sorted(await rows_of(app, tenant, entities.LedgerAccount)) == sorted(expected)


async def test_a_balance_that_leaves_64_bits_is_refused_whole(app: Database, tenant: str) -> None:
    cash, opened = ledger_account(), account()
    await store(app, tenant, Changes({}, {}, [cash._replace(debits_minor=LARGEST)]))
    with pytest.raises(asyncpg.NumericValueOutOfRangeError):
        await store(app, tenant, Changes({entities.Account: [opened]}, {}, [cash._replace(debits_minor=1)]))
    assert await rows_of(app, tenant, entities.Account) == []
    assert await rows_of(app, tenant, entities.LedgerAccount) == [cash._replace(debits_minor=LARGEST)]


async def test_outbox_ids_follow_the_order_of_the_list(app: Database, tenant: str) -> None:
    for batch in range(3):
        rows = [outbox_row(body=json.dumps([batch, number]).encode()) for number in range(1000)]
        await store(app, tenant, inserting(*rows))
    async with app.transaction(tenant) as transaction:
        found = await transaction.connection.fetch("SELECT body FROM outbox ORDER BY id")
    assert [json.loads(row["body"]) for row in found] == [[b, n] for b in range(3) for n in range(1000)]


async def test_an_update_of_a_row_that_is_not_there_is_noticed(app: Database, tenant: str) -> None:
    here, gone = account(), account()
    await store(app, tenant, inserting(here))
    with pytest.raises(UpdateLost):
        await store(app, tenant, updating(here._replace(status="closed"), gone))
    assert await rows_of(app, tenant, entities.Account) == [here]


async def test_an_update_of_rows_that_never_change_is_refused(app: Database, tenant: str) -> None:
    for row in one_of_each():
        if not mutable_columns(TABLES[type(row)]):
            with pytest.raises(UpdateLost, match="never change"):
                await store(app, tenant, updating(row))


async def test_nothing_to_save_and_nothing_to_load_ask_nothing(app: Database, tenant: str) -> None:
    async with app.transaction(tenant) as transaction:
        with transaction.connection.query_logger(lambda query: pytest.fail(query.query)):
            await save(transaction.connection, tenant, Changes({entities.Account: []}, {}, []))
            await load(transaction.connection, tenant, {lookups.ACCOUNT: set()})


@pytest.mark.parametrize("size", [1, 10, 300])
async def test_a_batch_is_five_statements_whatever_its_size(app: Database, tenant: str, size: int) -> None:
    """BEGIN with the lock, load, save, COMMIT, and the position where it is wanted."""
    opened = [account() for _ in range(size)]
    bills = [
        invoice(one.id, status="issued", number=f"INV-1405-{number:06}", period="1405-02")
        for number, one in enumerate(opened)
    ]
    await store(app, tenant, inserting(*opened, *bills, entities.Book(0, bytes(32), 0, 0)))
    seen: list[str] = []

    def note(query: Any) -> None:
        seen.append(query.query)

    async with app.transaction(tenant) as probe:
        probe.connection.add_query_logger(note)
    seen.clear()
    pool_of_one = probe.connection
    async with app.transaction(tenant) as transaction:
        assert transaction.connection is pool_of_one
        snapshot = await load(
            transaction.connection,
            tenant,
            {
                lookups.BOOK: {()},
                lookups.INBOX: {uuid4() for _ in range(size)},
                lookups.ACCOUNT: {one.id for one in opened},
                lookups.INVOICE: {bill.id for bill in bills},
                lookups.PERIOD: {"1405-02"},
            },
        )
        assert all(snapshot.get(entities.Account, one.id) == one for one in opened)
        await save(transaction.connection, tenant, payments_of(opened, bills))
        transaction.wants_position = True
    assert len(seen) == 5, seen
    assert len(await rows_of(app, tenant, entities.Payment)) == size


def payments_of(opened: list[entities.Account], bills: list[entities.Invoice]) -> Changes:
    """What recording a payment on every one of the invoices changes."""
    cash = ledger_account(debits_minor=1050 * len(opened))
    rows: list[Any] = [cash]
    for number, (one, bill) in enumerate(zip(opened, bills, strict=True), 1):
        paid = payment(one.id, allocated_minor=1050)
        owed = ledger_account(code="1100", account_id=one.id, party_id="patient", credits_minor=1050)
        rows += [
            paid,
            entities.Allocation(uuid4(), paid.id, bill.id, 1050, "c", MOMENT.date(), MOMENT),
            owed,
            transfer(cash.id, owed.id, sequence=number, amount_minor=1050),
            inbox_entry(sequence=number),
            outbox_row(),
        ]
    settled = [bill._replace(status="settled", paid_minor=1050) for bill in bills]
    count = len(opened)
    updates: dict[type[Any], list[Any]] = {
        entities.Invoice: settled,
        entities.Book: [entities.Book(count, bytes(32), count, count)],
    }
    return inserting(*rows)._replace(updates=updates)


async def test_ids_from_the_database_are_ids(app: Database, tenant: str) -> None:
    """asyncpg has a UUID class of its own; keys made of either are the same key."""
    opened = account()
    await store(app, tenant, inserting(opened))
    (found,) = await rows_of(app, tenant, entities.Account)
    assert isinstance(found.id, UUID) and {found.id: 1}[opened.id] == 1 and str(found.id) == str(opened.id)
