"""A hospital's events pushed to the sandbox's FHIR gateway by a consumer in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

from adapters.fhir.ids import resource_id
from adapters.nats.batch_publish import Publisher
from adapters.nats.connection import connect
from adapters.nats.consumer_state import consumer_state
from adapters.nats.topology import EVENTS_STREAM, FHIR
from adapters.neighbours.client import Neighbour
from adapters.neighbours.fhir_gateway import FhirGateway, limits
from adapters.neighbours.ports import TenantDirectory
from adapters.postgres.database import Database as Pool
from adapters.tls import client_context
from handlers.fhir_events import FhirEvents, PushPolicy
from handlers.fhir_push import Pusher
from schemas.outcome import Problem
from schemas.tenant import TenantProfile
from tests.fixtures.sandbox import hospital
from tests.fixtures.servers import Database
from tools.sandbox.process import Sandbox
from tools.stack import NatsServer

REGION, COUNTRY = "local-1", "AFG"
# As in production, only faster.
POLICY = PushPolicy(tries=4, first_seconds=0.1, longest_seconds=0.4)


class Directory(TenantDirectory):
    """Everybody is of this region, but for those of `elsewhere`."""

    def __init__(self) -> None:
        self.elsewhere: dict[str, TenantProfile] = {}

    async def profile(self, tenant_id: str) -> TenantProfile | Problem:
        return self.elsewhere.get(tenant_id) or hospital(tenant_id)


@asynccontextmanager
async def pushing(
    database: Database,
    server: NatsServer,
    sandbox: Sandbox,
    *,
    directory: Directory | None = None,
    policy: PushPolicy = POLICY,
    seconds: float = 1.0,
    workers: int = 1,
) -> AsyncIterator[list[FhirEvents]]:
    """Consumers as `billing worker` runs them; drained at the end."""
    stop = asyncio.Event()
    async with AsyncExitStack() as resources:
        consumers = []
        for _ in range(workers):
            connection = await connect(server.url("worker"), name="test-fhir")
            resources.push_async_callback(connection.close)
            pool = Pool(database.dsn("billing_read"), application_name="test-fhir", pool_size=8)
            resources.push_async_callback(pool.close)
            tls = client_context(sandbox.tls_files)
            neighbour = Neighbour(
                "fhir-gateway",
                sandbox.url("fhir-gateway"),
                tls=tls,
                limits=limits(seconds=seconds, concurrency=policy.concurrency),
            )
            gateway = FhirGateway(neighbour)
            resources.push_async_callback(gateway.aclose)
            publisher = await resources.enter_async_context(Publisher(connection))
            pusher = Pusher(pool, gateway)
            consumers.append(
                FhirEvents(connection, publisher, pusher, directory or Directory(), REGION, COUNTRY, policy)
            )
        running = [asyncio.create_task(each.run(stop)) for each in consumers]
        try:
            yield consumers
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await asyncio.gather(*running)


async def all_pushed(client: Any, seconds: float = 30) -> None:
    """Until every event was answered: the server has no event for that."""
    async with asyncio.timeout(seconds):
        while (await consumer_state(client, EVENTS_STREAM, FHIR)).depth:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def latest(found: dict[str, list[dict[str, Any]]], tenant_id: str, kind: str, key: UUID) -> dict[str, Any]:
    return found[f"{kind}/{resource_id(tenant_id, kind, key)}"][-1]
