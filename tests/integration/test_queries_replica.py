"""Queries read the replica, a real streaming one: fresh, lagging, frozen and gone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from adapters.postgres.database import Database
from handlers import read_source
from handlers.queries import Queries
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import Hospital, ask, profile
from tools.stack import Stack
from tools.stack.postgres import PostgresReplica


@pytest.fixture(scope="module")
def replica_server(stack: Stack, database: ModuleDatabase) -> Iterator[PostgresReplica]:
    replica = stack.postgres.start_replica(stack.directory / f"replica-{database.name}")
    yield replica
    replica.stop()


@pytest.fixture
def replica(replica_server: PostgresReplica) -> Iterator[PostgresReplica]:
    """Running and replaying, before and after."""
    yield replica_server
    if not replica_server.is_running():
        replica_server.start()
    replica_server.resume_replay()


class Pair:
    def __init__(self, hospital: Hospital, queries: Queries) -> None:
        self.hospital, self.queries = hospital, queries

    async def open_account(self) -> str:
        (opened,) = await self.hospital.apply(("account.open", {"patient": "Patient/1", "currency": "AED"}))
        return str(opened["account_id"])

    async def ask(self, name: str, **fields: Any) -> dict[str, Any]:
        return await ask(self.queries, self.hospital.tenant_id, name, **fields)

    async def accounts(self, **fields: Any) -> int:
        answer = await self.ask("account.list", **fields)
        assert answer["error"] is None
        return len(answer["result"]["items"])


@pytest_asyncio.fixture
async def pair(database: ModuleDatabase, replica: PostgresReplica, tenant: str) -> AsyncIterator[Pair]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    primary = Database(database.dsn("billing_read"), application_name="test", pool_size=4)
    standby = Database(replica.dsn("billing_read", database.name), application_name="test", pool_size=4)
    yield Pair(Hospital(app, tenant), Queries(primary, standby, profile))
    for each in (app, primary, standby):
        await each.close()


def fallbacks(reason: str) -> float:
    return REGISTRY.get_sample_value("billing_query_replica_fallbacks_total", {"reason": reason}) or 0.0


async def test_an_own_write_is_read_from_the_replica(pair: Pair, replica: PostgresReplica) -> None:
    await pair.open_account()
    replica.wait_for(pair.hospital.position)
    before = {reason: fallbacks(reason) for reason in ("down", "lagging", "skipped")}
    assert await pair.accounts(at_least=pair.hospital.position) == 1
    assert {reason: fallbacks(reason) for reason in before} == before
    # Only a replica can be stale: this is where the answer came from.
    replica.pause_replay()
    await pair.open_account()
    assert await pair.accounts() == 1


async def test_a_lagging_replica_is_passed_over_by_who_must_not_read_the_past(
    pair: Pair, replica: PostgresReplica
) -> None:
    await pair.open_account()
    replica.wait_for(pair.hospital.position)
    replica.pause_replay()
    account_id = await pair.open_account()
    lagging = fallbacks("lagging")
    answer = await pair.ask("account.get", account_id=account_id, at_least=pair.hospital.position)
    assert answer["result"]["account_id"] == account_id
    assert fallbacks("lagging") == lagging + 1
    assert (await pair.ask("account.get", account_id=account_id))["error"]["code"] == "account_not_found"
    replica.resume_replay()
    replica.wait_for(pair.hospital.position)
    assert await pair.accounts(at_least=pair.hospital.position) == 2
    assert fallbacks("lagging") == lagging + 1


async def test_an_answer_s_position_can_be_asked_for(pair: Pair, replica: PostgresReplica) -> None:
    """Monotonic reads: what was seen once is seen again, wherever the next query goes."""
    await pair.open_account()
    replica.pause_replay()
    account_id = await pair.open_account()
    seen = await pair.ask("account.get", account_id=account_id, at_least=pair.hospital.position)
    again = await pair.ask("account.get", account_id=account_id, at_least=seen["position"])
    assert again["result"] == seen["result"]


async def test_a_position_that_nobody_has_is_refused(pair: Pair) -> None:
    answer = await pair.ask("account.list", at_least="FFFFFFFF/FFFFFFFF")
    assert answer["result"] is None
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("service_unavailable", True)
    assert answer["error"]["details"] == {"fields": ["at_least"]}


async def test_a_replica_that_is_gone_costs_one_query_the_attempt(
    pair: Pair, replica: PostgresReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.open_account()
    replica.wait_for(pair.hospital.position)
    assert await pair.accounts() == 1
    replica.kill()
    down, skipped = fallbacks("down"), fallbacks("skipped")
    assert [await pair.accounts() for _ in range(3)] == [1, 1, 1]
    assert (fallbacks("down"), fallbacks("skipped")) == (down + 1, skipped + 2)
    # Its time has come: one query tries, and the replica is in use again.
    replica.start()
    replica.wait_for(pair.hospital.position)
    monkeypatch.setattr(pair.queries._source, "_retry_at", 0.0)
    assert await pair.accounts() == 1
    replica.pause_replay()
    await pair.open_account()
    assert await pair.accounts() == 1
    assert (fallbacks("down"), fallbacks("skipped")) == (down + 1, skipped + 2)


async def test_only_one_query_tries_a_replica_that_was_down(
    pair: Pair, replica: PostgresReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.open_account()
    replica.kill()
    await pair.accounts()
    monkeypatch.setattr(pair.queries._source, "_retry_at", 0.0)
    down, skipped = fallbacks("down"), fallbacks("skipped")
    assert await asyncio.gather(*(pair.accounts() for _ in range(4))) == [1, 1, 1, 1]
    assert (fallbacks("down"), fallbacks("skipped")) == (down + 1, skipped + 3)


async def test_a_replica_that_accepts_and_says_nothing_is_given_up_on(
    pair: Pair, replica: PostgresReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel accepts connections for a frozen server; only a time limit notices."""
    await pair.open_account()
    monkeypatch.setattr(read_source, "REPLICA_CONNECT_SECONDS", 0.3)
    down = fallbacks("down")
    pid = replica.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert await pair.accounts() == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    assert fallbacks("down") == down + 1


async def test_without_a_replica_the_primary_answers(pair: Pair, database: ModuleDatabase) -> None:
    await pair.open_account()
    primary = Database(database.dsn("billing_read"), application_name="test", pool_size=1)
    answer = await ask(Queries(primary, None, profile), pair.hospital.tenant_id, "account.list")
    await primary.close()
    assert len(answer["result"]["items"]) == 1


async def test_without_any_database_the_query_says_so(pair: Pair, replica: PostgresReplica) -> None:
    replica.kill()
    gone = Database(replica.dsn("billing_read", "postgres"), application_name="test", pool_size=1)
    answer = await ask(Queries(gone, gone, profile), pair.hospital.tenant_id, "account.list")
    await gone.close()
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("service_unavailable", True)
