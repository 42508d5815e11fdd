"""A mesh with an object store, a hospital with many accounts, and statement runs over both, for tests of runs and faults."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.postgres.database import Database
from adapters.settings import ObjectStoreSettings
from schemas.outcome import Outcome
from schemas.subjects import command_subject, event_subject, query_subject
from schemas.tenant import Locale
from tests.fixtures.servers import TEMPLATE
from tests.integration.query_hospital import Hospital
from tools.cli.command_client import CommandClient
from tools.stack import SeaweedFS, Stack
from tools.stack.mesh import Mesh
from tools.stack.role_process import ServiceRole

PERIOD, STARTS_ON, ENDS_ON = "2026-03", "2026-03-01", "2026-03-31"
WAIT_SECONDS = 60.0
LOCALES: tuple[Locale, ...] = ("en", "ar", "fa-AF", "ps")
NAMES = {"en": "Zahra Ahmadi", "ar": "زهراء أحمد", "fa-AF": "نوریه محمدی", "ps": "ګلالۍ احمدزۍ (Gulalai)"}


def object_env(server: SeaweedFS) -> dict[str, str]:
    return {
        "OBJECT_STORE_BUCKET": server.bucket,
        "OBJECT_STORE_ENDPOINT_URL": server.endpoint_url,
        "OBJECT_STORE_ACCESS_KEY_ID": server.access_key_id,
        "OBJECT_STORE_SECRET_ACCESS_KEY": server.secret_access_key,
    }


@contextmanager
def object_server(stack: Stack, name: str) -> Iterator[SeaweedFS]:
    """An S3 server of the test's own, with its bucket."""
    with SeaweedFS(stack.directory / name) as server:
        yield server


def object_settings(server: SeaweedFS) -> ObjectStoreSettings:
    given = {name.lower(): value for name, value in object_env(server).items()}
    return ObjectStoreSettings(**given)  # type: ignore[arg-type]


@contextmanager
def statement_mesh(
    stack: Stack, server: SeaweedFS, *, roles: tuple[ServiceRole, ...] = ("handlers", "worker"), **env: str
) -> Iterator[Mesh]:
    """A mesh whose workers write to `server`; `env` goes over the defaults, whose retries are quick."""
    given = {**object_env(server), "JOB_RETRY_FIRST_SECONDS": "0.2", "JOB_MAX_DELIVERIES": "3"} | env
    with Mesh.isolated(stack, template=TEMPLATE, roles=roles, env=given) as mesh:
        yield mesh


class Office:
    """Someone who asks for statement runs, and hears of their end."""

    def __init__(self, mesh: Mesh, tenant: str, connection: Client, client: CommandClient) -> None:
        self.mesh, self.tenant = mesh, tenant
        self.connection, self._client = connection, client
        self.events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def of(cls, mesh: Mesh, tenant: str) -> AsyncIterator["Office"]:
        connection = await nats.connect(mesh.nats_url("operator"), max_reconnect_attempts=-1)
        try:
            async with CommandClient.on(connection) as client:
                office = cls(mesh, tenant, connection, client)
                await connection.subscribe(event_subject(tenant, ">"), cb=office._heard)
                await connection.flush()
                yield office
        finally:
            await connection.close()

    async def send(self, name: str, body: Mapping[str, Any]) -> Outcome:
        data = orjson.dumps(body, default=str)
        published = await self._client.send(
            command_subject(self.tenant, name), data, str(uuid4()), actor=None, wait_seconds=WAIT_SECONDS
        )
        assert published.outcome is not None
        return published.outcome

    async def run(self, period: str = PERIOD, **fields: Any) -> UUID:
        """Asks for a run; the job's id."""
        outcome = await self.send("statement.run", {"period": period, **fields})
        assert outcome.error is None
        assert outcome.result is not None
        return UUID(outcome.result["job_id"])

    async def ask(self, name: str, **fields: Any) -> Any:
        """The result of a query."""
        body = orjson.dumps(fields, default=str)
        reply = await self.connection.request(query_subject(self.tenant, name), body, timeout=WAIT_SECONDS)
        answer = json.loads(reply.data)
        assert answer["error"] is None
        return answer["result"]

    async def finished(self, job_id: UUID, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """The job as its `job.finished` event shows it."""
        async with asyncio.timeout(seconds):
            while True:
                name, body = await self.events.get()
                if name == "job.finished" and body["job_id"] == str(job_id):
                    return body

    async def heard(self, name: str, count: int = 1, seconds: float = WAIT_SECONDS) -> None:
        """Returns when `count` further events of a name have come."""
        async with asyncio.timeout(seconds):
            while count:
                heard, _ = await self.events.get()
                count -= heard == name

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        """A query as the superuser."""
        connection = await asyncpg.connect(self.mesh.dsn("postgres"))
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def statements(self, job_id: UUID) -> list[Any]:
        return await self.rows("SELECT * FROM statement WHERE tenant_id = $1 AND job_id = $2", self.tenant, job_id)

    async def _heard(self, message: Msg) -> None:
        name = ".".join(message.subject.split(".")[-2:])
        self.events.put_nowait((name, json.loads(message.data)))


@asynccontextmanager
async def hospital(mesh: Mesh, tenant: str) -> AsyncIterator[Hospital]:
    """Writes through the engine, without NATS: thousands of accounts in seconds. Before the first run only: a mesh's own
    handlers write under the same lock."""
    database = Database(mesh.dsn("billing_app"), application_name="test-hospital", pool_size=2)
    try:
        yield Hospital(database, tenant)
    finally:
        await database.close()


async def seed(books: Hospital, count: int, *, first: int = 0) -> list[UUID]:
    """Accounts in four languages, each with two invoices of which one is paid in part, every fifth with an insurer beside the
    patient, every seventh with more paid than owed."""
    ids: list[UUID] = []
    for start in range(first, first + count, 50):
        numbers = range(start, min(start + 50, first + count))
        ids += await _seed_page(books, list(numbers))
    return ids


async def _seed_page(books: Hospital, numbers: list[int]) -> list[UUID]:
    ids = [uuid4() for _ in numbers]
    await books.apply(*(_opening(account, number) for account, number in zip(ids, numbers, strict=True)))
    lines = [{"description": "Consultation", "quantity": "1", "unit_price_minor": 0}]
    drafts = await books.apply(
        *(
            (
                "invoice.create",
                {"account_id": account, "lines": [lines[0] | {"unit_price_minor": 10_000 + number + part}]},
            )
            for account, number in zip(ids, numbers, strict=True)
            for part in range(2)
        )
    )
    issued = [document["invoice_id"] for result in drafts for document in result["documents"]]
    await books.apply(*(("invoice.issue", {"invoice_id": invoice_id}) for invoice_id in issued))
    firsts = [drafts[2 * index]["documents"][0]["invoice_id"] for index in range(len(ids))]
    await books.apply(*map(_payment, ids, numbers, firsts))
    return ids


def _opening(account_id: UUID, number: int) -> tuple[str, dict[str, Any]]:
    locale = LOCALES[number % 4]
    parties = [{"party_id": "patient", "kind": "patient", "share_basis_points": 10_000, "name": NAMES[locale]}]
    if number % 5 == 0:
        parties[0]["share_basis_points"] = 4_000
        parties.append({"party_id": "insurer", "kind": "insurer", "share_basis_points": 6_000, "name": "Daman Health"})
    body = {"account_id": account_id, "patient": f"Patient/{number}", "currency": "AED", "locale": locale}
    return "account.open", body | {"parties": parties}


def _payment(account_id: UUID, number: int, invoice_id: str) -> tuple[str, dict[str, Any]]:
    paid = 500_000 if number % 7 == 0 else 3_000
    money = {"amount_minor": paid, "currency": "AED"}
    body = {"account_id": account_id, "amount": money, "method": "bank", "reference": f"TRX-{number}"}
    return "payment.record", body | {"allocations": [{"invoice_id": invoice_id, "amount_minor": 1_500}]}
