"""A hospital's ledger, the `jobs` consumer group and a worker with the GL queue, over real NATS, PostgreSQL and S3."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from pydantic import SecretStr

from adapters.nats.connection import connect
from adapters.objects import ObjectStore
from adapters.postgres.database import Database as Pool
from adapters.settings import ObjectStoreSettings
from handlers.gl_export import GlExporter
from handlers.jobs import JobQueue, JobRunner, RetryPolicy
from handlers.relay import run_relay
from handlers.reporting import Reporter
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import REGION, Rig, rigged
from tools.stack import NatsServer, SeaweedFS

CODES = ("1000", "1010", "1100", "2100", "2200", "4000", "4900")
RETRY = RetryPolicy(deliveries=3, first_seconds=0.05, longest_seconds=0.1)


def object_settings(server: SeaweedFS, **changes: object) -> ObjectStoreSettings:
    whole = ObjectStoreSettings(
        object_store_bucket=server.bucket,
        object_store_endpoint_url=server.endpoint_url,
        object_store_access_key_id=SecretStr(server.access_key_id),
        object_store_secret_access_key=SecretStr(server.secret_access_key),
    )
    return whole.model_copy(update=changes)


class Books:
    """One tenant's commands and jobs, and what a person may do to both."""

    def __init__(self, rig: Rig, tenant: str) -> None:
        self.rig, self.tenant = rig, tenant

    async def do(self, group: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        outcome = await self._outcome(group, name, body)
        assert outcome.error is None, outcome
        return dict(outcome.result or {})

    async def refused(self, group: str, name: str, body: dict[str, Any]) -> str:
        outcome = await self._outcome(group, name, body)
        assert outcome.error is not None, outcome
        return str(outcome.error.code)

    async def _outcome(self, group: str, name: str, body: dict[str, Any]) -> Any:
        sent = await self.rig.send(self.tenant, name, body)
        if group not in ("jobs", "running"):  # whose messages are handled as they come
            await self.rig.apply(group, 1)
        return await self.rig.outcome(sent)

    async def map(self, *codes: str) -> None:
        mappings = [{"ledger_code": code, "gl_code": f"GL-{code}", "gl_name": f"نقد {code}"} for code in codes or CODES]
        await self.do("jobs", "gl.map", {"mappings": mappings})

    async def adjust(self, amount_minor: int, day: str, currency: str = "AED") -> None:
        body = {
            "debit_code": "1000",
            "credit_code": "4900",
            "amount": {"amount_minor": amount_minor, "currency": currency},
            "reason": "count",
            "effective_on": day,
        }
        await self.do("accounts", "ledger.adjust", body)

    async def export(self, **body: Any) -> UUID:
        return UUID((await self.do("jobs", "gl.export", body))["job_id"])

    async def ended(self, job_id: UUID) -> dict[str, Any]:
        """The job's row once it has ended."""
        async with asyncio.timeout(30):
            while True:
                (row,) = await self.rig.rows("SELECT * FROM job WHERE tenant_id = $1 AND id = $2", self.tenant, job_id)
                if row["finished_at"] is not None:
                    return dict(row)
                await asyncio.sleep(0.05)

    async def exported(self, job_id: UUID) -> dict[str, Any]:
        (row,) = await self.rig.rows("SELECT * FROM gl_export WHERE tenant_id = $1 AND id = $2", self.tenant, job_id)
        return {key: orjson.loads(value) if key in ("files", "totals") else value for key, value in dict(row).items()}

    async def rows_of(self, query: str) -> list[Any]:
        """The first column of a query about the tenant."""
        return [row[0] for row in await self.rig.rows(query, self.tenant)]

    async def as_superuser(self, statement: str, *arguments: Any) -> None:
        """What no role of the system may do."""
        connection = await asyncpg.connect(self.rig.database.dsn("postgres"))
        try:
            await connection.execute("SET session_replication_role = replica")
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()


@asynccontextmanager
async def working(
    server: NatsServer, database: Database, directory: Path, objects: ObjectStoreSettings
) -> AsyncIterator[Rig]:
    """The rig with the `jobs` group handled as it comes, the relay, and one worker with the GL queue."""
    async with AsyncExitStack() as resources:
        rig = await resources.enter_async_context(rigged(server, database, directory))
        store = await resources.enter_async_context(ObjectStore.open(objects, attempts=1))
        connection = await connect([server.url("worker")], name="test-worker")
        resources.push_async_callback(connection.close)
        reporter = await resources.enter_async_context(Reporter.on(connection))
        reads = Pool(database.dsn("billing_read"), application_name="test-worker", pool_size=2)
        resources.push_async_callback(reads.close)
        stop = asyncio.Event()
        exporter = GlExporter(reads, lambda: store, reporter, REGION)
        runner = JobRunner(connection, reporter, retry=RETRY)
        await resources.enter_async_context(group_running(rig, "jobs"))
        tasks = [
            asyncio.create_task(runner.run([JobQueue("gl-export", exporter.handle)], stop)),
            asyncio.create_task(run_relay(dsn=database.dsn("billing_relay"), nats_connection=connection, stop=stop)),
        ]
        try:
            yield rig
        finally:
            stop.set()
            await asyncio.gather(*tasks)


@asynccontextmanager
async def group_running(rig: Rig, group: str) -> AsyncIterator[None]:
    """The group's commands are handled as they come, while the block runs."""
    stop = asyncio.Event()
    task = asyncio.create_task(_handle(rig, group, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def _handle(rig: Rig, group: str, stop: asyncio.Event) -> None:
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        pulling = asyncio.create_task(rig.pull(group, 1))
        await asyncio.wait({pulling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not pulling.done():
            pulling.cancel()
        with suppress(asyncio.CancelledError, TimeoutError):
            await rig.handle(group, await pulling)
