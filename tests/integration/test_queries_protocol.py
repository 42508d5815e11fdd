"""Queries over real NATS, and everything that can be wrong with one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import nats
import orjson
import pytest
import pytest_asyncio
from faststream.nats import NatsBroker
from nats.aio.client import Client
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from adapters.postgres.database import Database
from adapters.postgres.dsn import sqlalchemy_url
from handlers.queries import MAX_ANSWER_BYTES, Queries, register
from schemas.codes import Code
from schemas.outcome import Answer
from schemas.subjects import query_subject
from schemas.tenant import TenantProfile
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import Hospital, ask, profile
from tools.stack import NatsServer


@pytest_asyncio.fixture
async def app(database: ModuleDatabase) -> AsyncIterator[Database]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    yield app
    await app.close()


@pytest_asyncio.fixture
async def read(database: ModuleDatabase) -> AsyncIterator[Database]:
    read = Database(database.dsn("billing_read"), application_name="test", pool_size=4)
    yield read
    await read.close()


@pytest_asyncio.fixture
async def client(bare_nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(bare_nats_server.url("shim"))
    yield client
    await client.close()


async def request(client: Client, subject: str, body: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads((await client.request(subject, body, timeout=5)).data)
    Answer.model_validate(answer, strict=False)
    return answer


async def serve(broker: NatsBroker, queries: Queries) -> None:
    """Returns once the server knows the subscription."""
    register(broker, queries)
    await broker.start()
    connection = await broker.connect()
    # nats-py writes a flush's PING past commands that are still queued; by its PONG those are written, so the next is behind.
    await connection.flush()
    await connection.flush()


async def test_requests_are_answered_once_and_shared(
    bare_nats_server: NatsServer, client: Client, app: Database, read: Database, tenant: str
) -> None:
    """Two processes in the queue group: each request has one answer, and between them all are answered."""
    hospital = Hospital(app, tenant)
    await hospital.apply(("account.open", {"patient": "Patient/1", "currency": "AED"}))
    counted = [_Counting(read), _Counting(read)]
    brokers = [NatsBroker(bare_nats_server.url("handlers")) for _ in counted]
    for broker, queries in zip(brokers, counted, strict=True):
        await serve(broker, queries)
    try:
        subject = query_subject(tenant, "account.list")
        answers = await asyncio.gather(*(request(client, subject, b"{}") for _ in range(200)))
        assert all(len(answer["result"]["items"]) == 1 for answer in answers)
        assert sum(queries.answered for queries in counted) == 200
        assert all(queries.answered for queries in counted)
    finally:
        for broker in brokers:
            await broker.stop()


class _Counting(Queries):
    def __init__(self, read: Database) -> None:
        super().__init__(read, None, profile)
        self.answered = 0

    async def answer(self, subject: str, body: bytes, fields: Mapping[str, str] | None = None) -> bytes:
        self.answered += 1
        return await super().answer(subject, body, fields)


BAD_BODIES: dict[str, tuple[bytes, str, list[str] | None]] = {
    "not JSON": (b"{", "malformed_command", None),
    "not UTF-8": (b'{"account_id": "\xff"}', "malformed_command", None),
    "nested without end": (b"[" * 100_000, "malformed_command", None),
    "an array": (b"[]", "malformed_command", [""]),
    "null": (b"null", "malformed_command", [""]),
    "nothing": (b"", "malformed_command", ["account_id"]),
    "a wrong type": (b'{"account_id": 7}', "malformed_command", ["account_id"]),
    "not a UUID": (b'{"account_id": "Patient secret"}', "malformed_command", ["account_id"]),
    "an unknown field": (b'{"account_id": "%s", "zzz": 1}' % str(uuid4()).encode(), "malformed_command", ["zzz"]),
    "several": (b'{"tenant_id": 5, "at_least": "x"}', "malformed_command", ["account_id", "at_least", "tenant_id"]),
    "a foreign tenant": (b'{"tenant_id": "other"}', "tenant_mismatch", None),
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_bad_body_is_answered_without_its_values(
    bare_nats_server: NatsServer, client: Client, read: Database, tenant: str, case: str
) -> None:
    body, code, fields = BAD_BODIES[case]
    broker = NatsBroker(bare_nats_server.url("handlers"))
    await serve(broker, Queries(read, None, profile))
    try:
        answer = await request(client, query_subject(tenant, "account.get"), body)
        assert (answer["result"], answer["error"]["code"], answer["error"]["retryable"]) == (None, code, False)
        assert answer["error"]["details"] == ({} if fields is None else {"fields": fields})
        assert "secret" not in orjson.dumps(answer).decode()
        # The subscriber is as alive as before.
        good = await request(client, query_subject(tenant, "account.list"), orjson.dumps({"tenant_id": tenant}))
        assert good["error"] is None
    finally:
        await broker.stop()


async def test_a_flood_of_unknown_fields_is_cut(read: Database, tenant: str) -> None:
    fields = {f"{number:03}" + "x" * 1_000: number for number in range(500)}
    answer = await ask(Queries(read, None, profile), tenant, "account.list", **fields)
    paths = answer["error"]["details"]["fields"]
    assert (len(paths), {len(path) for path in paths}) == (20, {100})


@pytest.mark.parametrize(
    "subject",
    [
        "billing.v1.qry.t-1.account.explode",
        "billing.v1.qry.t-1.account.open",
        "billing.v1.qry.t-1.invoice",
        "billing.v1.qry.t%201.account.list",
        "billing.v1.qry." + "t" * 65 + ".account.list",
    ],
)
async def test_what_is_no_query_is_unknown(read: Database, subject: str) -> None:
    labels = {"name": "unknown", "outcome": "unknown_command"}
    before = REGISTRY.get_sample_value("billing_queries_total", labels) or 0
    answer = orjson.loads(await Queries(read, None, profile).answer(subject, b"{}"))
    assert answer["error"]["code"] == "unknown_command"
    assert REGISTRY.get_sample_value("billing_queries_total", labels) == before + 1


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (Code.TENANT_NOT_ENTITLED, False),
        (Code.RESIDENCY_VIOLATION, False),
        (Code.TENANT_SERVICE_UNAVAILABLE, True),
    ],
)
async def test_a_refused_tenant_reads_nothing_and_learns_nothing(
    app: Database, read: Database, tenant: str, code: Code, retryable: bool
) -> None:
    await Hospital(app, tenant).apply(("account.open", {"patient": "Patient/1", "currency": "AED"}))

    async def refuse(_tenant_id: str) -> TenantProfile | Code:
        return code

    # Authorisation comes before anything that is wrong with the query.
    for name, fields in (("account.list", {}), ("account.explode", {}), ("account.list", {"limit": 0})):
        answer = await ask(Queries(read, None, refuse), tenant, name, **fields)
        assert (answer["result"], answer["error"]["code"], answer["error"]["retryable"]) == (None, code, retryable)


async def test_a_crash_is_answered(read: Database, tenant: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def crash(_tenant_id: str) -> TenantProfile | Code:
        raise RuntimeError("directory is broken")

    answer = await ask(Queries(read, None, crash), tenant, "account.list")
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("service_unavailable", True)


async def test_a_slow_query_ends_and_a_busy_process_has_limits(
    database: ModuleDatabase, app: Database, read: Database, tenant: str
) -> None:
    """A table locked by somebody else: the query gives up in time, and holds its slot only until then."""
    engine = create_async_engine(sqlalchemy_url(database.dsn("postgres")), poolclass=NullPool)
    roomy = Queries(read, None, profile, concurrency=2, timeout_seconds=0.5)
    narrow = Queries(read, None, profile, concurrency=1, timeout_seconds=0.5)
    async with engine.begin() as locker:
        await locker.execute(text("LOCK TABLE account IN ACCESS EXCLUSIVE MODE"))
        blocked, free = await asyncio.gather(ask(roomy, tenant, "account.list"), ask(roomy, tenant, "ledger.transfers"))
        assert (blocked["error"]["code"], free["error"]) == ("service_unavailable", None)
        blocked, queued = await asyncio.gather(
            ask(narrow, tenant, "account.list"), ask(narrow, tenant, "ledger.transfers")
        )
        assert (blocked["error"]["code"], queued["error"]["code"]) == ("service_unavailable", "service_unavailable")
    await engine.dispose()
    assert (await ask(narrow, tenant, "account.list"))["error"] is None


async def test_a_second_verification_is_refused_while_one_runs_and_other_queries_go_on(
    database: ModuleDatabase, read: Database, tenant: str
) -> None:
    """Waiting for their turn, verifications would take up every worker of the process for minutes."""
    engine = create_async_engine(sqlalchemy_url(database.dsn("postgres")), poolclass=NullPool)
    queries = Queries(read, None, profile)
    async with engine.begin() as locker:
        await locker.execute(text("LOCK TABLE ledger_transfer IN ACCESS EXCLUSIVE MODE"))
        first = asyncio.create_task(ask(queries, tenant, "ledger.verify"))
        while not queries._verify_slots.locked():  # noqa: ASYNC110  the next turns of the loop take it
            await asyncio.sleep(0)
        async with asyncio.timeout(1):
            second = await ask(queries, tenant, "ledger.verify")
            other = await ask(queries, tenant, "account.list")
        assert (second["error"]["code"], second["error"]["retryable"]) == ("service_unavailable", True)
        assert other["error"] is None and not first.done()
    await engine.dispose()
    assert (await first)["error"] is None


async def test_an_answer_too_large_for_nats_says_so(app: Database, read: Database, tenant: str) -> None:
    """200 accounts with 20 parties of long names are more than a message can carry."""
    name = "ن" * 200
    parties = [
        {"party_id": f"p{number}", "kind": "sponsor", "share_basis_points": 500, "name": name} for number in range(20)
    ]
    hospital = Hospital(app, tenant)
    await hospital.apply(*[("account.open", {"patient": "Patient/1", "currency": "AED", "parties": parties})] * 200)
    queries = Queries(read, None, profile)
    answer = await ask(queries, tenant, "account.list", limit=200)
    assert answer["error"]["code"] == "malformed_command"
    assert answer["error"]["details"] == {"fields": ["limit"]}
    body = await queries.answer(query_subject(tenant, "account.list"), b'{"limit": 50}')
    assert MAX_ANSWER_BYTES / 5 < len(body) < MAX_ANSWER_BYTES
    assert len(orjson.loads(body)["result"]["items"]) == 50


async def test_metrics_name_the_query_and_its_outcome(read: Database, tenant: str) -> None:
    def count(name: str, outcome: str) -> float:
        return REGISTRY.get_sample_value("billing_queries_total", {"name": name, "outcome": outcome}) or 0

    queries = Queries(read, None, profile)
    before = count("account.list", "ok"), count("account.get", "account_not_found")
    await ask(queries, tenant, "account.list")
    await ask(queries, tenant, "account.get", account_id=str(uuid4()))
    assert (count("account.list", "ok"), count("account.get", "account_not_found")) == (before[0] + 1, before[1] + 1)
    assert (REGISTRY.get_sample_value("billing_query_duration_seconds_count", {"name": "account.list"}) or 0) > 0
