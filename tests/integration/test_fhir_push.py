"""Events end as resources on the FHIR gateway, whatever it does: in the state of the books, over an older state only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import nats
import orjson
import pytest
import pytest_asyncio
from fhir.resources.R4B import get_fhir_model_class
from nats.aio.client import Client

from adapters.fhir.ids import resource_id
from adapters.neighbours.client import Neighbour
from adapters.neighbours.fhir_gateway import Conflict, FhirGateway, limits
from adapters.postgres.database import Database as Pool
from adapters.tls import client_context
from handlers.fhir_events import PushPolicy
from schemas import headers
from schemas.outcome import Problem
from schemas.tenant import TenantProfile
from tests.fixtures.sandbox import control, hospital, sandbox
from tests.fixtures.servers import Database
from tests.integration.fhir_support import POLICY, Directory, all_pushed, latest, pushing
from tests.integration.pipeline_support import stream_messages
from tests.integration.query_hospital import Hospital, a_day, cash, charge
from tests.integration.relay_support import relaying, until
from tools.fhir_import.bundles import read_bundle
from tools.fhir_import.mapping import plan_import
from tools.replay.dead_letters import Filter, letters
from tools.replay.pushes import send_again
from tools.sandbox.control import Control
from tools.sandbox.faults import Mode
from tools.sandbox.process import Sandbox
from tools.stack import NatsServer

__all__ = ["control", "sandbox"]  # fixtures


@pytest_asyncio.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_server.url("admin"))
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def app(database: Database) -> AsyncIterator[Pool]:
    pool = Pool(database.dsn(), application_name="test-fhir-app", pool_size=2)
    yield pool
    await pool.close()


class Books:
    """What `bill` did, by id."""

    account: UUID
    charge: UUID
    invoice: UUID
    payment: UUID


class Feed(NamedTuple):
    """The mesh from a hospital's books to the sandbox's FHIR gateway, for one tenant unless another is named."""

    database: Database
    server: NatsServer
    sandbox: Sandbox
    control: Control
    client: Client
    app: Pool
    tenant: str

    async def bill(self, tenant: str, patient: str = "Patient/1") -> Books:
        """An account, a charge of 900, its invoice, and a payment of 500 on it: seven events."""
        there, books = Hospital(self.app, tenant), Books()
        (opened,) = await there.apply(("account.open", {"patient": patient, "currency": "AED"}))
        books.account = UUID(opened["account_id"])
        (captured,) = await there.apply(charge(books.account, 900))
        books.charge = UUID(captured["charge_id"])
        (made,) = await there.apply(("invoice.create", {"account_id": books.account, "charge_ids": [books.charge]}))
        books.invoice = UUID(made["documents"][0]["invoice_id"])
        await there.apply(("invoice.issue", {"invoice_id": books.invoice}))
        allocation = {"invoice_id": books.invoice, "amount_minor": 500}
        (paid,) = await there.apply(cash(books.account, 500, allocations=[allocation]))
        books.payment = UUID(paid["payment_id"])
        return books

    async def relayed(self, tenant: str) -> None:
        """Every event of the tenant is in the stream."""

        async def empty() -> bool:
            async with self.app.transaction(tenant) as transaction:
                return not await transaction.connection.fetchval("SELECT count(*) FROM outbox")

        async with relaying(self.database, self.server):
            await until(empty)

    def pushing(self, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Consumers as `billing worker` runs them, with the options of `fhir_support.pushing`."""
        return pushing(self.database, self.server, self.sandbox, **options)


@pytest.fixture
def feed(
    database: Database,
    nats_server: NatsServer,
    sandbox: Sandbox,
    control: Control,
    client: Client,
    app: Pool,
    tenant: str,
) -> Feed:
    return Feed(database, nats_server, sandbox, control, client, app, tenant)


def as_billed(control: Control, tenant: str, books: Books) -> None:
    """The gateway has exactly what `bill` came to, each resource once."""
    found = control.resources()
    account = latest(found, tenant, "Account", books.account)
    item = latest(found, tenant, "ChargeItem", books.charge)
    invoice = latest(found, tenant, "Invoice", books.invoice)
    notice = latest(found, tenant, "PaymentNotice", books.payment)
    assert (account["status"], item["status"], invoice["status"], notice["status"]) == (
        "active",
        "billed",
        "issued",
        "active",
    )
    assert invoice["totalGross"] == {"value": 9.0, "currency": "AED"}
    assert extension(invoice, "open") == Decimal("4.0")
    assert notice["amount"] == {"value": 5.0, "currency": "AED"}
    assert notice["request"]["reference"] == f"Invoice/{invoice['id']}"
    for resource in (account, item, invoice, notice):
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    mine = [key for key, versions in found.items() if f":{tenant}:" in orjson.dumps(versions[-1]).decode()]
    assert len(mine) == 4


def extension(resource: dict[str, Any], name: str) -> Decimal:
    for each in resource["extension"]:
        if each["url"] == f"urn:billing:fhir:{name}":
            return Decimal(str(each["valueMoney"]["value"]))
    return Decimal(0)


# --- what the hospital did ------------------------------------------------------------------------------------------------


async def test_a_day_ends_on_the_gateway_as_it_is_in_the_books(feed: Feed) -> None:
    await a_day(Hospital(feed.app, feed.tenant))
    await feed.relayed(feed.tenant)
    async with feed.pushing(workers=2):
        await all_pushed(feed.client)
    found = [versions[-1] for versions in feed.control.resources().values()]
    mine = [each for each in found if f":{feed.tenant}:" in orjson.dumps(each).decode()]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in mine:
        get_fhir_model_class(each["resourceType"]).model_validate(each)
        by_kind.setdefault(each["resourceType"], []).append(each)
    async with feed.app.transaction(feed.tenant) as transaction:
        rows = transaction.connection
        invoices = await rows.fetch("SELECT status, total_minor FROM invoice")
        charges = await rows.fetch("SELECT status, net_minor FROM charge")
        payments = await rows.fetch("SELECT status, amount_minor FROM payment")
        accounts = await rows.fetchval("SELECT count(*) FROM account")
    named = {"draft": "draft", "issued": "issued", "settled": "balanced", "void": "cancelled"}
    assert states(by_kind["Invoice"], "totalGross") == sorted((named[row[0]], row[1]) for row in invoices)
    named = {"open": "billable", "invoiced": "billed", "void": "entered-in-error"}
    assert states(by_kind["ChargeItem"], "priceOverride") == sorted((named[row[0]], row[1]) for row in charges)
    named = {"recorded": "active", "reversed": "cancelled"}
    assert states(by_kind["PaymentNotice"], "amount") == sorted((named[row[0]], row[1]) for row in payments)
    assert len(by_kind["Account"]) == accounts


def states(resources: list[dict[str, Any]], money: str) -> list[tuple[str, int]]:
    return sorted((each["status"], round(each[money]["value"] * 100)) for each in resources)


async def test_the_importer_reads_back_what_was_pushed(feed: Feed) -> None:
    books = await feed.bill(feed.tenant)
    await feed.relayed(feed.tenant)
    async with feed.pushing():
        await all_pushed(feed.client)
    as_billed(feed.control, feed.tenant, books)
    found = feed.control.resources()
    wanted = (("ChargeItem", books.charge), ("Invoice", books.invoice), ("PaymentNotice", books.payment))
    entries = [{"resource": latest(found, feed.tenant, kind, key)} for kind, key in wanted]
    entries.append({"resource": {"resourceType": "Patient", "id": "1"}})
    loaded = read_bundle(orjson.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}), "pushed")
    plan = plan_import(loaded, feed.tenant)
    assert [remark for remark in plan.remarks if remark.severity == "unmapped"] == []
    (lane,) = plan.lanes
    assert (lane.patient, lane.currency) == ("Patient/1", "AED")
    assert (lane.declared.billed_minor, lane.declared.paid_minor) == (900, 500)


# --- what the gateway does ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fail", "stall", "slow", "malformed", "lie", "lose", "down"])
async def test_whatever_the_gateway_does_each_resource_ends_as_the_books_have_it(
    feed: Feed,
    mode: Mode,
) -> None:
    books = await feed.bill(feed.tenant)
    patient = POLICY._replace(tries=100)
    with feed.control.faulty("fhir-gateway", mode, delay_ms=300 if mode == "slow" else 0):
        before = feed.control.state("fhir-gateway").requests
        await feed.relayed(feed.tenant)
        async with feed.pushing(policy=patient, seconds=0.5):

            async def tried() -> bool:
                return mode == "down" or feed.control.state("fhir-gateway").requests > before + 1

            await until(tried)
            feed.control.recover()
            await all_pushed(feed.client)
    as_billed(feed.control, feed.tenant, books)
    assert not await stream_messages(feed.client, "BILLING_DLQ", f"billing.v1.dlq.fhir.{feed.tenant}")


async def test_what_is_refused_for_good_is_a_dead_letter_at_once_and_names_nobody(feed: Feed) -> None:
    await feed.bill(feed.tenant, patient="Patient/refused")
    other = f"{feed.tenant}-b"
    books = await feed.bill(other)
    await feed.relayed(feed.tenant)
    await feed.relayed(other)
    async with feed.pushing():
        await all_pushed(feed.client)
    as_billed(feed.control, other, books)
    buried = await stream_messages(feed.client, "BILLING_DLQ", f"billing.v1.dlq.fhir.{feed.tenant}")
    assert len(buried) == 5  # one an event; each was tried once
    for letter in buried:
        told = letter.headers or {}
        assert told[headers.DLQ_REASON] == "the FHIR gateway refuses it: business-rule"
        assert told[headers.DLQ_DELIVERIES] == "1"
        assert "Nooria" not in str(told)
    audited = await stream_messages(feed.client, "AUDIT", f"audit.v1.billing.{feed.tenant}.fhir.push")
    assert [orjson.loads(each.data)["status"] for each in audited] == ["dead_lettered"] * 5


async def test_after_enough_tries_an_event_is_a_dead_letter_with_its_body(feed: Feed) -> None:
    there = Hospital(feed.app, feed.tenant)
    (opened,) = await there.apply(("account.open", {"patient": "Patient/1", "currency": "AED"}))
    await feed.relayed(feed.tenant)
    with feed.control.faulty("fhir-gateway", "fail"):
        async with feed.pushing():
            await all_pushed(feed.client)
    (letter,) = await stream_messages(feed.client, "BILLING_DLQ", f"billing.v1.dlq.fhir.{feed.tenant}")
    assert (letter.headers or {})[headers.DLQ_REASON] == "not taken in 4 tries: gateway failed"
    assert orjson.loads(letter.data)["account_id"] == opened["account_id"]

    wanted = Filter(group="fhir", tenant=feed.tenant)
    operator = await nats.connect(feed.server.url("operator"))
    try:
        found = await letters(operator, wanted, bodies=True)
        assert await send_again(operator, found, reason="it is back", actor="ops@here") == 1
        assert await letters(operator, wanted) == []
    finally:
        await operator.close()
    async with feed.pushing():

        async def there_now() -> bool:
            return (
                f"Account/{resource_id(feed.tenant, 'Account', UUID(opened['account_id']))}" in feed.control.resources()
            )

        await until(there_now)


# --- order ----------------------------------------------------------------------------------------------------------------


async def test_an_old_event_that_comes_last_changes_nothing(feed: Feed) -> None:
    books = await feed.bill(feed.tenant)
    await feed.relayed(feed.tenant)
    async with feed.pushing():
        await all_pushed(feed.client)
    before = feed.control.resources()
    events = await stream_messages(feed.client, "BILLING_EVENTS", f"billing.v1.evt.{feed.tenant}.>")
    for event in reversed(events):
        fields = dict(event.headers or {}) | {headers.MESSAGE_ID: str(uuid4())}
        subject = event.subject.replace("billing.v1.evt", "billing.v1.replay.fhir")
        await feed.client.jetstream().publish(subject, event.data, headers=fields)
    async with feed.pushing():  # a worker that remembers nothing
        await all_pushed(feed.client)

        async def replayed() -> bool:
            info = await feed.client.jetstream().consumer_info("BILLING_REPLAY", "fhir-replay")
            return not (info.num_pending or 0) + (info.num_ack_pending or 0)

        await until(replayed)
    assert feed.control.resources() == before
    as_billed(feed.control, feed.tenant, books)


async def test_a_put_that_was_stuck_on_its_way_cannot_overwrite_what_is_newer(
    sandbox: Sandbox, control: Control
) -> None:
    quick = limits(seconds=2, concurrency=2)
    tls = client_context(sandbox.tls_files)
    gateway = FhirGateway(Neighbour("fhir-gateway", sandbox.url("fhir-gateway"), tls=tls, limits=quick))
    try:
        first = {"resourceType": "Account", "id": str(uuid4()), "status": "active"}
        version = await gateway.put(first, None)
        with pytest.raises(Conflict):
            await gateway.put(first, None)
        newer = await gateway.put(first | {"status": "inactive"}, version)
        with pytest.raises(Conflict):
            await gateway.put(first | {"status": "on-hold"}, version)
        kept = await gateway.get("Account", first["id"])
        assert kept is not None and (kept.version, kept.resource["status"]) == (newer, "inactive")
        assert await gateway.get("Account", str(uuid4())) is None
    finally:
        await gateway.aclose()


# --- whose data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opted", [False, True])
async def test_data_that_belongs_elsewhere_is_pushed_only_if_its_tenant_opted_in_and_that_is_audited(
    feed: Feed,
    opted: bool,
) -> None:
    books = await feed.bill(feed.tenant)
    await feed.relayed(feed.tenant)
    directory = Directory()
    directory.elsewhere[feed.tenant] = hospital(feed.tenant, region="eu-west-1", cross_region_opt_in=opted)
    async with feed.pushing(directory=directory):
        await all_pushed(feed.client)
    there = f"Account/{resource_id(feed.tenant, 'Account', books.account)}" in feed.control.resources()
    assert there == opted
    told = await stream_messages(feed.client, "AUDIT", f"audit.v1.billing.{feed.tenant}.fhir.push")
    found = {(record["status"], record["code"], record["opted_in"]) for record in map(_body, told)}
    assert found == {("allowed", None, True) if opted else ("rejected", "residency_violation", False)}


def _body(message: Any) -> dict[str, Any]:
    record: dict[str, Any] = orjson.loads(message.data)
    return record


async def test_a_tenant_whose_pushes_are_slow_holds_up_nobody(feed: Feed) -> None:
    slow, quick = f"{feed.tenant}-slow", f"{feed.tenant}-quick"
    released = asyncio.Event()

    class Slow(Directory):
        async def profile(self, tenant_id: str) -> TenantProfile | Problem:
            if tenant_id == slow:
                await released.wait()
            return await super().profile(tenant_id)

    first, second = await feed.bill(slow), await feed.bill(quick)
    await feed.relayed(slow)
    await feed.relayed(quick)
    policy = PushPolicy(concurrency=4, tenant_concurrency=2)
    async with feed.pushing(directory=Slow(), policy=policy):

        async def quick_is_there() -> bool:
            return f"PaymentNotice/{resource_id(quick, 'PaymentNotice', second.payment)}" in feed.control.resources()

        await until(quick_is_there, 10)
        assert f"Account/{resource_id(slow, 'Account', first.account)}" not in feed.control.resources()
        released.set()
        await all_pushed(feed.client)
    as_billed(feed.control, slow, first)
    as_billed(feed.control, quick, second)
