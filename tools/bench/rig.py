"""What all runs start from: a stack, and a template database with the tenants' accounts."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from adapters.postgres import migrate
from adapters.postgres.database import Database
from schemas.tenant import TenantProfile
from tools.bench import workload
from tools.bench.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh

TEMPLATE = f"bench_template_{os.getpid()}"  # two runs may share a stack


@contextmanager
def started(stack: Stack | None) -> Iterator[Stack]:
    """The stack given, which runs, or one for as long as the block."""
    if stack is not None:
        yield stack
        return
    own = Stack(f"bench-{os.getpid()}", ephemeral=True).start()
    try:
        yield own
    finally:
        own.stop()


@contextmanager
def rig(work: Workload, running: Stack, template: str | None = None) -> Iterator[tuple[Stack, list[TenantProfile]]]:
    """A migrated template database that has the tenants' accounts, on a stack that runs; a copy of `template` where given."""
    try:
        running.postgres.create_database(TEMPLATE, template)
        migrate.upgrade(running.postgres.dsn("billing_owner", TEMPLATE))
        profile = Mesh(running).profile("any")
        profiles = [profile.model_copy(update={"tenant_id": each, "name": each}) for each in work.tenant_ids]
        asyncio.run(_seed(running, profiles, work))
        # Their events are nothing that a run is about: each would begin with relaying them.
        running.postgres.execute("TRUNCATE outbox", TEMPLATE)
        yield running, profiles
    finally:
        running.postgres.drop_database(TEMPLATE)


async def _seed(stack: Stack, profiles: list[TenantProfile], work: Workload) -> None:
    database = Database(stack.postgres.dsn("billing_app", TEMPLATE), application_name="bench-seed", pool_size=1)
    try:
        await workload.seed(database, profiles, work)
    finally:
        await database.close()
