"""Processes and servers killed under load: work resumes by itself, nothing is lost, nothing happens twice."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest

from adapters.postgres.database import Database
from adapters.postgres.verify import verify_tenant
from tests.faults.load import Load, check, settled, shorten_ack_wait
from tests.fixtures.servers import TEMPLATE, run_async
from tools.stack import Stack
from tools.stack.mesh import Mesh

pytestmark = [pytest.mark.faults, pytest.mark.timeout(110)]
TENANTS = ("fault-one", "fault-two", "fault-three")


@pytest.fixture
def mesh(stack: Stack) -> Iterator[Mesh]:
    """A whole mesh of this test's own, but for PostgreSQL."""
    with Mesh.isolated(stack, template=TEMPLATE, tenants=TENANTS, roles=("handlers", "worker")) as started:
        run_async(shorten_ack_wait(started))
        yield started


@pytest.fixture
def fragile_mesh() -> Iterator[Mesh]:
    """A mesh whose PostgreSQL may be broken too."""
    stack = Stack(f"faults-{uuid4().hex[:8]}", ephemeral=True)
    with Mesh(stack, tenants=TENANTS, roles=("handlers", "worker")) as started:
        run_async(shorten_ack_wait(started))
        yield started


async def verify(mesh: Mesh, tenants: Sequence[str] = TENANTS) -> None:
    """What `billing ledger verify` says, beside the checker's own view."""
    database = Database(mesh.dsn("billing_read"), application_name="test-verify", pool_size=1)
    try:
        for tenant in tenants:
            async with database.reading(tenant) as connection:
                assert (await verify_tenant(connection, tenant)).mismatches == ()
    finally:
        await database.close()


async def finish(mesh: Mesh, load: Load) -> None:
    await settled(mesh)
    assert len(load.acked) > 200
    await check(mesh, load.acked)
    await verify(mesh)


@pytest.mark.parametrize("role", ["handlers", "worker"])
async def test_a_role_is_killed_again_and_again(mesh: Mesh, role: str) -> None:
    chance = random.Random(f"kill {role}")
    load = Load(mesh, TENANTS, seed=1)
    async with load.running():
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0.2, 1.0))  # the random moment is the test
            await asyncio.to_thread(mesh[role].kill)
            await asyncio.to_thread(mesh[role].start)
    await finish(mesh, load)


@pytest.mark.parametrize("crash", [True, False], ids=["killed", "restarted"])
async def test_postgresql_is_away(fragile_mesh: Mesh, crash: bool) -> None:
    """Seconds long: deliveries are used up, and what waits comes back in another order."""
    mesh, chance = fragile_mesh, random.Random(f"postgres {crash}")
    postgres = mesh.stack.postgres
    load = Load(mesh, TENANTS, seed=2)
    async with load.running():
        for away_seconds in (5.0, 0.5):
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            await asyncio.to_thread(postgres.kill if crash else postgres.stop)
            await asyncio.sleep(away_seconds)  # the outage is the test
            assert all(role.probe("livez") is not None for role in mesh)
            await asyncio.to_thread(postgres.start)
        await asyncio.sleep(1)
    await finish(mesh, load)


@pytest.mark.parametrize("crash", [True, False], ids=["killed", "restarted"])
async def test_nats_is_away(mesh: Mesh, crash: bool) -> None:
    chance = random.Random(f"nats {crash}")
    load = Load(mesh, TENANTS, seed=3)
    async with load.running():
        for away_seconds in (0.0, 2.0):
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            await asyncio.to_thread(mesh.nats.kill if crash else mesh.nats.stop)
            await asyncio.sleep(away_seconds)
            assert all(role.probe("livez") is not None for role in mesh)
            await asyncio.to_thread(mesh.nats.start)
        await asyncio.sleep(1)
    await finish(mesh, load)


async def test_two_of_each_role_compete_and_one_of_each_dies(mesh: Mesh) -> None:
    chance = random.Random("two")
    for role in ("handlers", "worker"):
        mesh.add_process(role, f"{role}-2").launch()
    for role in ("handlers", "worker"):
        await asyncio.to_thread(mesh[f"{role}-2"].wait_ready)
    load = Load(mesh, TENANTS, seed=4)
    async with load.running():
        await asyncio.sleep(2)
        applied = [
            float(line.split()[-1])
            for name in ("handlers", "handlers-2")
            for line in mesh[name].metrics().splitlines()
            if line.startswith("billing_command_batch_size_count")
        ]
        for victim in ("handlers", "worker-2"):
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            await asyncio.to_thread(mesh[victim].kill)
        await asyncio.sleep(0.5)
    assert sum(value > 0 for value in applied) >= 4, "one process did all the work"
    await finish(mesh, load)
