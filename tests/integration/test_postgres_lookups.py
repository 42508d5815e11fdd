"""Every lookup finds its rows and no others, and enters its table by an index that has the tenant and the keys."""

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from adapters.postgres import load as load_module
from adapters.postgres import save as save_module
from adapters.postgres.codecs import MAPPINGS
from adapters.postgres.database import Database
from adapters.postgres.dsn import Connection
from adapters.postgres.load import CONDITIONS, JOINS, load
from adapters.postgres.save import save
from adapters.postgres.tables import TABLES, mutable_columns
from domain import entities, gateway_entities, job_entities, lookups
from domain.lookups import ALL, Lookup
from domain.snapshot import Changes
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.postgres_samples import MOMENT, account, decoys, inserting, invoice, one_of_each, payment


@pytest.fixture
async def app(database: ModuleDatabase) -> AsyncIterator[Database]:
    opened = Database(database.dsn("billing_app"), application_name="test", pool_size=1)
    yield opened
    await opened.close()


async def store(app: Database, tenant: str, changes: Changes) -> None:
    async with app.transaction(tenant) as transaction:
        await save(transaction.connection, tenant, changes)


async def test_every_lookup_finds_what_it_is_for(app: Database, tenant: str) -> None:
    """Each lookup alone, against rows that are linked in every way; a decoy beside each that must not be found."""
    chain = Chain.make()
    await store(app, tenant, inserting(*chain.rows))
    assert set(chain.expected) == set(ALL)
    for lookup, (key, expected) in chain.expected.items():
        found = await loaded_rows(app, tenant, {lookup: {key}})
        assert sorted(found, key=repr) == sorted(expected, key=repr), lookup


async def test_lookups_together_find_what_they_find_alone(app: Database, tenant: str) -> None:
    chain = Chain.make()
    await store(app, tenant, inserting(*chain.rows))
    needs = {lookup: {key} for lookup, (key, _) in chain.expected.items()}
    together = await loaded_rows(app, tenant, needs)
    alone = [row for lookup, keys in needs.items() for row in await loaded_rows(app, tenant, {lookup: keys})]
    assert sorted(set(map(repr, together))) == sorted(set(map(repr, alone)))


async def loaded_rows(app: Database, tenant: str, needs: dict[Lookup, set[Any]]) -> list[Any]:
    async with app.transaction(tenant) as transaction:
        snapshot = await load(transaction.connection, tenant, needs)
    return [row for rows in snapshot._rows.values() for row in rows.values()]


@dataclass
class Chain:
    """Linked rows, decoys, and for every lookup a key with the rows it must find."""

    rows: list[Any] = field(default_factory=list)
    expected: dict[Lookup, tuple[Any, list[Any]]] = field(default_factory=dict)

    @classmethod
    def make(cls) -> "Chain":
        first = one_of_each()
        by_type = {type(row): row for row in first}
        of: Callable[[type[Any]], Any] = by_type.__getitem__
        opened, charged, paid, owed = (
            of(entity) for entity in (entities.Account, entities.Charge, entities.Payment, entities.LedgerAccount)
        )
        issued, line, note, refund = (
            of(entity) for entity in (entities.Invoice, entities.InvoiceLine, entities.CreditNote, entities.Refund)
        )
        prices, item, allocation = (
            of(entity) for entity in (entities.PriceList, entities.PriceItem, entities.Allocation)
        )
        period, series, chart, book, seen = (
            of(entity)
            for entity in (
                entities.Period,
                entities.DocumentSeries,
                entities.ChartEntry,
                entities.Book,
                entities.InboxEntry,
            )
        )
        work, told, gl_account, export = (
            of(entity)
            for entity in (job_entities.Job, job_entities.Statement, job_entities.GlAccount, job_entities.GlExport)
        )
        held, meant, refunding, payout, circuit = (
            of(entity)
            for entity in (
                gateway_entities.Hold,
                gateway_entities.HoldAllocation,
                gateway_entities.GatewayRefund,
                gateway_entities.Payout,
                gateway_entities.Circuit,
            )
        )
        ended = held._replace(id=uuid4(), status="declined")
        draft = invoice(opened.id, invoice_group_id=issued.invoice_group_id)
        billed = charged._replace(id=uuid4(), status="invoiced", invoice_group_id=issued.invoice_group_id)
        expected: dict[Lookup, tuple[Any, list[Any]]] = {
            lookups.BOOK: ((), [book]),
            lookups.INBOX: (seen.command_id, [seen]),
            lookups.ACCOUNT: (opened.id, [opened]),
            lookups.PRICE_LISTS: ("standard", [prices]),
            lookups.PRICES: (("standard", "99213"), [item]),
            lookups.CHARGE: (charged.id, [charged]),
            lookups.INVOICE: (issued.id, [issued]),
            lookups.INVOICE_LINES: (issued.id, [line]),
            lookups.CREDIT_NOTE: (note.id, [note]),
            lookups.PAYMENT: (paid.id, [paid]),
            lookups.REFUND: (refund.id, [refund]),
            lookups.ALLOCATIONS_OF_INVOICE: (issued.id, [allocation]),
            lookups.ALLOCATIONS_OF_PAYMENT: (paid.id, [allocation]),
            lookups.PERIOD: ("1405-01", [period]),
            lookups.SERIES: (("INV", 1405), [series]),
            lookups.CHART: ("4001", [chart]),
            lookups.JOB: (work.id, [work]),
            lookups.STATEMENT: (told.id, [told]),
            lookups.GL_ACCOUNT: ("1000", [gl_account]),
            lookups.GL_EXPORT: (work.id, [export]),
            lookups.GL_EXPORTS_OF_SCOPE: ("detail:1405-01", [export]),
            lookups.HOLD: (held.id, [held]),
            lookups.HOLD_ALLOCATIONS: (held.id, [meant]),
            lookups.GATEWAY_REFUND: (refunding.id, [refunding]),
            lookups.PAYOUT: (("stripe", "po_1"), [payout]),
            lookups.CIRCUIT: ("stripe", [circuit]),
            lookups.LIVE_HOLDS_OF_ACCOUNT: (opened.id, [held]),
            lookups.ACCOUNT_OF_HOLD: (held.id, [opened]),
            lookups.INVOICES_OF_HOLD: (held.id, [issued]),
            lookups.PAYMENT_OF_REFUND: (refunding.id, [paid]),
            lookups.HOLD_OF_REFUND: (refunding.id, [held]),
            lookups.LEDGER_ACCOUNTS_OF_ACCOUNT: (opened.id, [owed]),
            lookups.CHARGES_OF_GROUP: (issued.invoice_group_id, [billed]),
            lookups.INVOICES_OF_GROUP: (issued.invoice_group_id, [issued, draft]),
            lookups.DRAFTS_OF_PERIOD: ("1405-01", [draft]),
            lookups.OPEN_CHARGES_OF_ACCOUNT: (opened.id, [charged]),
            lookups.DRAFTS_OF_ACCOUNT: (opened.id, [draft]),
            lookups.ACCOUNT_OF_CHARGE: (charged.id, [opened]),
            lookups.ACCOUNT_OF_INVOICE: (issued.id, [opened]),
            lookups.ACCOUNT_OF_PAYMENT: (paid.id, [opened]),
            lookups.INVOICES_OF_PAYMENT: (paid.id, [issued]),
            lookups.PAYMENTS_OF_INVOICE: (issued.id, [paid]),
            lookups.PERIOD_OF_INVOICE: (issued.id, [period]),
            lookups.SERIES_OF_INVOICE: (issued.id, [series]),
            lookups.CHARGES_OF_INVOICE: (issued.id, [billed]),
            lookups.GROUP_OF_INVOICE: (issued.id, [issued, draft]),
        }
        return cls([*first, draft, billed, ended, *decoys()], expected)


def test_every_named_lookup_is_spelled_out_and_nothing_else_is() -> None:
    named = {lookup.of for lookup in ALL if lookup.of}
    assert named == set(JOINS) | set(CONDITIONS)
    for lookup in ALL:
        # One that neither matches a column nor joins would load a whole table: right for a single row only.
        assert lookup.columns or lookup.of in JOINS or MAPPINGS[lookup.entity].key == ()


async def test_several_rows_of_a_key_come_as_they_were_recorded(app: Database, tenant: str) -> None:
    opened = account()
    bill = invoice(opened.id, status="issued", number="INV-1405-000009", paid_minor=1)
    paid = payment(opened.id)
    made = [
        entities.Allocation(uuid4(), paid.id, bill.id, number + 1, "c", MOMENT.date(), MOMENT - timedelta(days=number))
        for number in range(20)
    ]
    await store(app, tenant, inserting(opened, bill, paid, *made))
    async with app.transaction(tenant) as transaction:
        snapshot = await load(transaction.connection, tenant, {lookups.ALLOCATIONS_OF_INVOICE: {bill.id}})
    assert snapshot.find(lookups.ALLOCATIONS_OF_INVOICE, bill.id) == made[::-1]


# What was found by reading a plan: the nodes that touch a table, and the conditions each was entered with.
def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    below = [scan for child in plan.get("Plans", []) for scan in scans(child)]
    return ([plan] if "Relation Name" in plan else []) + below


async def explained(connection: Connection, statement: str, arguments: list[Any]) -> list[dict[str, Any]]:
    found = await connection.fetchval(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {statement}", *arguments)
    plans = json.loads(found) if isinstance(found, str) else found
    return scans(plans[0]["Plan"])


@pytest.fixture(scope="module")
def crowded(database: ModuleDatabase) -> None:
    """45,000 invoices, charges and payments of nine tenants, with statistics that know of no other tenant."""
    database.stack.postgres.execute(_CROWD, database.name)


_CROWD = """
SET session_replication_role = replica;  -- 300,000 foreign keys that hold by construction are not checked one by one
INSERT INTO account SELECT 'crowd-' || n % 9, gen_random_uuid(), 'Patient/1', NULL, 'AED', 'en', 'open',
    '[{"party_id": "p", "kind": "patient", "share_basis_points": 10000}]', now() FROM generate_series(1, 9000) AS n;
INSERT INTO invoice SELECT tenant_id, gen_random_uuid(), gen_random_uuid(), id, 'p', 'patient',
    CASE WHEN n = 1 THEN 'draft' ELSE 'issued' END, CASE WHEN n > 1 THEN id || '-' || n END,
    '2026-01-01', '2026-01-01', '2026-01', 2026, 'AED', 100, 5, 105, 0, 0, 0, now()
    FROM account, generate_series(1, 5) AS n WHERE tenant_id LIKE 'crowd-%';
INSERT INTO charge SELECT tenant_id, id, account_id, 'http://loinc.org', '1', NULL, 1, 100, 100, 'AED', 'zero', '4000',
    '2026-01-01', NULL, NULL, 'invoiced', invoice_group_id, now() FROM invoice WHERE tenant_id LIKE 'crowd-%';
INSERT INTO payment SELECT tenant_id, id, account_id, NULL, 'cash', 'recorded', NULL, '2026-01-01', 'AED', 100,
    0, 0, 0, now() FROM charge WHERE tenant_id LIKE 'crowd-%';
INSERT INTO hold SELECT tenant_id, id, account_id, NULL, 'generic', 'captured', 'charge', 1, 'AED', 100, 'manual', 'tok', NULL,
    100, 100, 0, 0, NULL, NULL, NULL, NULL, NULL, now(), now(), now() FROM charge WHERE tenant_id LIKE 'crowd-%';
INSERT INTO hold_allocation SELECT tenant_id, id, id, 0, 1 FROM hold;
INSERT INTO gateway_refund SELECT tenant_id, id, id, 'done', 1, 1, 'x', NULL, NULL, now(), now() FROM hold;
INSERT INTO allocation SELECT tenant_id, gen_random_uuid(), id, id, 1, 'c', '2026-01-01', now()
    FROM payment WHERE tenant_id LIKE 'crowd-%';
INSERT INTO ledger_account SELECT tenant_id, gen_random_uuid(), '1100', 'AED', id, 'p', 0, 0
    FROM account WHERE tenant_id LIKE 'crowd-%';
INSERT INTO inbox SELECT tenant_id, id, 'payment.record', decode(repeat('00', 32), 'hex'), 'applied', '{}', NULL, 1, 1, now()
    FROM payment WHERE tenant_id LIKE 'crowd-%';
INSERT INTO invoice_line SELECT tenant_id, id, 1, NULL, 'x', 1, 100, 'zero', 0, 0, '4000', 0, 0
    FROM invoice WHERE tenant_id LIKE 'crowd-%';
INSERT INTO job SELECT tenant_id, id, 'gl_export', 'succeeded', '{}', 1, 1, 0, NULL, NULL, now(), now(), now()
    FROM account WHERE tenant_id LIKE 'crowd-%';
INSERT INTO statement SELECT tenant_id, id, id, id, 'p', '2026-01', 'failed', 'en', 'AED', 0, 0, 0,
    NULL, NULL, NULL, NULL, 'x', now() FROM job WHERE tenant_id LIKE 'crowd-%';
INSERT INTO gl_export SELECT tenant_id, id, 'detail:' || id, 'requested', NULL, 'detail', 0, 0, 0, 0, NULL, NULL,
    '[]', '[]', NULL, NULL, now() FROM job WHERE tenant_id LIKE 'crowd-%';
INSERT INTO tenant_book SELECT 'book-' || n, 0, decode(repeat('00', 32), 'hex'), 0, 0 FROM generate_series(1, 2000) AS n;
ANALYZE;
"""


def name_of(lookup: Lookup) -> str:
    return lookup.of or f"{lookup.entity.__name__} by {' and '.join(lookup.columns)}"


@pytest.mark.parametrize(
    "lookup", [x for x in ALL if x.entity not in (entities.PriceList, entities.PriceItem)], ids=name_of
)
async def test_the_tenant_of_the_policy_and_the_keys_are_in_the_index_condition(
    crowded: None, app: Database, lookup: Lookup
) -> None:
    """As the policy's InitPlan: computed once, and used to enter the index, for a tenant statistics know nothing of."""
    statement, _ = load_module._statement((lookup,))
    async with app.transaction("newcomer") as transaction:
        parameters = max(map(int, re.findall(r"\$(\d+)", statement)))
        found = await explained(transaction.connection, statement, ["newcomer", *[[]] * (parameters - 1)])
    assert found
    small = {
        "period",
        "document_series",
        "chart_entry",
        "credit_note",
        "refund",
        "gl_account",
        "gateway_payout",
        "gateway_circuit",
    }
    for scan in found:
        if scan["Relation Name"] in small:
            continue  # so small here that reading it whole is right
        condition = scan.get("Index Cond") or scan.get("Recheck Cond", "")
        assert "(tenant_id = $" in condition, scan
        if lookup.columns or lookup.of:
            # Of drafts and of live holds a tenant has so few that the partial index of them is read whole.
            assert condition.count("=") >= 2 or lookup in (lookups.DRAFTS_OF_ACCOUNT, lookups.LIVE_HOLDS_OF_ACCOUNT), (
                scan
            )


async def test_updates_reach_their_rows_by_primary_key(crowded: None, app: Database) -> None:
    for entity in (entities.Invoice, entities.Payment, entities.Account, entities.Charge):
        statement = save_module._statement((), (entity,), False)
        parameters = len(mutable_columns(TABLES[entity])) + len(MAPPINGS[entity].key)
        async with app.transaction("newcomer") as transaction:
            found = await explained(transaction.connection, statement, ["newcomer", *[[]] * parameters])
        (scan,) = (scan for scan in found if scan["Node Type"] != "ModifyTable")
        assert scan["Index Name"] == f"pk_{TABLES[entity].name}", scan
        assert "(tenant_id = $" in scan["Index Cond"] and "(id = n.id)" in scan["Index Cond"], scan
