"""An upgrade under load: the previous release works on the expanded schema, and nothing is contracted while it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from tests.faults.releases import CONTRACTION, PREVIOUS_HEAD, following, previous
from tools.faults.checker import check
from tools.faults.history import History
from tools.faults.run import TENANTS, nothing_left, verified
from tools.faults.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.process import StackError
from tools.stack.role_process import ServiceRole

pytestmark = [pytest.mark.faults, pytest.mark.timeout(110)]
ROLES: tuple[ServiceRole, ...] = ("handlers", "worker")
WAIT_SECONDS = 30
PER_SECOND = 60
# More than can have been in hand when it was counted.
SOME = 40


class Upgraded(Mesh):
    """A mesh that begins as the release before."""

    before: Path

    def migrate(self, *arguments: str, code: Path | None = None) -> str:
        return super().migrate(*arguments, code=code or self.before)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return previous(tmp_path / "previous")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return following(tmp_path / "following")


@pytest.fixture
def mesh(stack: Stack, old: Path) -> Iterator[Upgraded]:
    Upgraded.before = old
    with Upgraded.isolated(stack, tenants=TENANTS, roles=()) as started:
        for role in ROLES:
            started.add_process(role, env={"PYTHONPATH": str(old)}).launch()
        for process in started:
            process.wait_ready()
        yield started


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """PostgreSQL announces none of this."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


async def test_the_previous_release_works_until_it_is_gone(mesh: Upgraded, new: Path) -> None:
    database = await asyncpg.connect(mesh.dsn("postgres"))
    assert await database.fetchval("SELECT version_num FROM alembic_version") == PREVIOUS_HEAD
    history = History()
    async with Workload(mesh.nats, TENANTS, history, seed=5, per_second=PER_SECOND, hurried=True).running():
        await _applies(database)
        await asyncio.to_thread(mesh.migrate, "--phase", "expand", code=new)
        assert await database.fetchval("SELECT version_num FROM alembic_version") > PREVIOUS_HEAD
        await _applies(database)

        for role in ROLES:
            mesh.add_process(role, f"{role}-new", env={"PYTHONPATH": str(new)}).launch()
        await _at_once(
            partial(mesh.migrate, "--phase", "migrate", code=new), *(mesh[f"{role}-new"].wait_ready for role in ROLES)
        )
        await _applies(database)
        with pytest.raises(StackError, match=r"billing-handlers \(of an unknown release\) as billing_app") as refused:
            await asyncio.to_thread(mesh.migrate, "--phase", "contract", code=new)
        assert CONTRACTION in str(refused.value) and "billing-relay (of an unknown release)" in str(refused.value)
        assert not await _contracted(database)

        await _at_once(*(mesh[role].stop for role in ROLES))
        await asyncio.to_thread(mesh.migrate, "--phase", "contract", code=new)
        assert await _contracted(database)
        await _applies(database)
    await database.close()
    await nothing_left(mesh)
    await check(mesh, history)
    await verified(mesh)


async def _at_once(*calls: Callable[[], object]) -> None:
    await asyncio.gather(*map(asyncio.to_thread, calls))


async def _applies(database: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Until some more commands have been applied."""
    before = await database.fetchval("SELECT count(*) FROM inbox WHERE status = 'applied'")

    async def more() -> bool:
        now: int = await database.fetchval("SELECT count(*) FROM inbox WHERE status = 'applied'")
        return bool(now >= before + SOME)

    await until(more)


async def _contracted(database: "asyncpg.Connection[asyncpg.Record]") -> bool:
    comment: str | None = await database.fetchval("SELECT obj_description('inbox'::regclass)")
    return comment == "contracted"
