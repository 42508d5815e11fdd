"""Whether events reached their stream: relayed wholly, in part, not at all; lost, doubled, out of order."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from adapters.postgres.database import Database
from adapters.postgres.dsn import sqlalchemy_url
from handlers.event_check import check_events, tenants
from schemas.headers import CE_SEQUENCE, MESSAGE_ID
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import Hospital, a_day
from tools.stack import NatsServer


class Relay:
    """Moves a tenant's events by hand, so that a test can do it wrong."""

    def __init__(self, engine: AsyncEngine, worker: Client, app: Database, tenant_id: str) -> None:
        self.engine, self.worker, self.app, self.tenant_id = engine, worker, app, tenant_id

    async def waiting(self) -> list[Any]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(
                text(
                    "SELECT id, subject, headers, body FROM outbox WHERE tenant_id = :t AND stream = 'events' ORDER BY id"
                ),
                {"t": self.tenant_id},
            )
            return list(rows.all())

    async def publish(self, rows: list[Any], **changed: str) -> None:
        for row in rows:
            lines = row.headers.decode().split("\r\n")[1:]
            headers = dict(line.split(": ", 1) for line in lines if line) | changed
            await self.worker.jetstream().publish(row.subject, row.body, headers=headers)

    async def delete(self, rows: list[Any]) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text("DELETE FROM outbox WHERE id = ANY(:ids)"), {"ids": [row.id for row in rows]})

    async def execute(self, statement: str) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), {"t": self.tenant_id})

    async def check(self, client: Client, *, scan: bool = False) -> list[tuple[str, str]]:
        found = await check_events(client, self.app, self.tenant_id, scan=scan)
        return [(mismatch.check, mismatch.found) for mismatch in found]


@pytest_asyncio.fixture
async def operator(nats_server: NatsServer) -> AsyncIterator[Client]:
    """The role of a person at the command line: what `billing ledger verify` connects as."""
    client = await nats.connect(nats_server.url("operator"))
    yield client
    await client.close()


@pytest_asyncio.fixture
async def relay(database: ModuleDatabase, nats_server: NatsServer, tenant: str) -> AsyncIterator[Relay]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    engine = create_async_engine(sqlalchemy_url(database.dsn("postgres")), poolclass=NullPool)
    worker = await nats.connect(nats_server.url("worker"))
    await a_day(Hospital(app, tenant, start=datetime.now(UTC)))
    yield Relay(engine, worker, app, tenant)
    await worker.close()
    await engine.dispose()
    await app.close()


async def test_nothing_relayed_yet_is_clean(relay: Relay, operator: Client) -> None:
    assert await relay.check(operator, scan=True) == []


async def test_relayed_in_part_is_clean(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish(rows[:7])
    # Published and not deleted yet: the relay is between its two steps.
    assert await relay.check(operator, scan=True) == []
    await relay.delete(rows[:7])
    assert await relay.check(operator, scan=True) == []


async def test_all_relayed_is_clean(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish(rows)
    await relay.delete(rows)
    assert await relay.check(operator, scan=True) == []


async def test_all_lost_is_found(relay: Relay, operator: Client) -> None:
    await relay.delete(await relay.waiting())
    assert await relay.check(operator) == [("event_stream", "none")]


async def test_what_the_stream_may_have_let_go_of_is_not_called_lost(relay: Relay, operator: Client) -> None:
    """The stream keeps events for 30 days; a tenant that did nothing since has none there."""
    await relay.delete(await relay.waiting())
    await relay.execute("UPDATE inbox SET recorded_at = recorded_at - interval '29 days' WHERE tenant_id = :t")
    assert await relay.check(operator) == [("event_stream", "none")]
    await relay.execute("UPDATE inbox SET recorded_at = recorded_at - interval '2 days' WHERE tenant_id = :t")
    assert await relay.check(operator) == []


async def test_the_last_lost_is_found(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish(rows[:-1])
    await relay.delete(rows)
    assert await relay.check(operator) == [("event_stream", f"event {len(rows) - 1}")]


async def test_more_in_the_stream_than_was_given_out_is_found(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish(rows)
    await relay.delete(rows)
    await relay.execute("UPDATE tenant_book SET event_sequence = event_sequence - 1 WHERE tenant_id = :t")
    assert await relay.check(operator) == [("event_stream", f"event {len(rows)}")]


async def test_one_lost_in_the_middle_is_found_by_a_scan(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish(rows[:4] + rows[5:])
    await relay.delete(rows)
    assert await relay.check(operator) == []
    assert await relay.check(operator, scan=True) == [("event_sequence", "event 6")]


async def test_one_twice_is_found_by_a_scan(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish(rows[:5])
    # Past the stream's duplicate window, as it were.
    await relay.publish(rows[4:5], **{MESSAGE_ID: str(uuid4())})
    await relay.publish(rows[5:])
    await relay.delete(rows)
    assert await relay.check(operator, scan=True) == [("event_sequence", "event 5")]


async def test_two_exchanged_are_found_by_a_scan(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish([*rows[:3], rows[4], rows[3], *rows[5:]])
    await relay.delete(rows)
    found = await relay.check(operator, scan=True)
    assert found == [("event_sequence", f"event {number}") for number in (5, 4, 6)]


async def test_a_header_that_is_no_number_is_found(relay: Relay, operator: Client) -> None:
    rows = await relay.waiting()
    await relay.publish(rows[:3])
    await relay.publish(rows[3:4], **{CE_SEQUENCE: "four"})
    await relay.publish(rows[4:])
    await relay.delete(rows)
    assert [check for check, _ in await relay.check(operator, scan=True)] == ["event_sequence", "event_sequence"]


async def test_a_scan_reads_more_than_one_fetch(
    relay: Relay, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.event_check.SCAN_FETCH", 4)
    before = {each.name for each in await operator.jetstream().consumers_info("BILLING_EVENTS")}
    rows = await relay.waiting()
    await relay.publish([*rows[:9], *rows[10:]])
    await relay.delete(rows)
    assert await relay.check(operator, scan=True) == [("event_sequence", "event 11")]
    # It leaves no consumer behind.
    assert {each.name for each in await operator.jetstream().consumers_info("BILLING_EVENTS")} == before


async def test_the_stream_knows_the_tenants(relay: Relay, operator: Client) -> None:
    assert relay.tenant_id not in await tenants(operator)
    await relay.publish(await relay.waiting())
    found = await tenants(operator)
    assert found.count(relay.tenant_id) == 1
    assert found == sorted(found)
