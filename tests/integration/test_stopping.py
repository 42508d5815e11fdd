"""SIGTERM: every role ends by itself, long before its grace is over, also where what it waits for is gone."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from handlers.job_outcomes import Stopping
from handlers.stopping import unless_stopped
from tests.fixtures.servers import TEMPLATE
from tests.integration.statements_support import hospital, seed
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT
from tools.stack.role_process import ServiceRole

START_SECONDS, STOP_SECONDS = 60.0, 60.0  # the role gives itself up well before: 25 s of grace, and 4


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE, roles=()) as started:
        yield started


@pytest.fixture
def silent_store() -> Iterator[dict[str, str]]:
    """An object store that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield {
            "OBJECT_STORE_BUCKET": "documents",
            "OBJECT_STORE_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "OBJECT_STORE_ACCESS_KEY_ID": "any",
            "OBJECT_STORE_SECRET_ACCESS_KEY": "any",
        }


async def started_and_stopped(role: str, env: dict[str, str], line: bytes) -> tuple[int, str]:
    """The exit code and the log of a role that is asked to stop once its log has `line`."""
    command = (sys.executable, "-m", "tools.cli", role)
    process = await asyncio.create_subprocess_exec(
        *command, env=env | {"PYTHONPATH": str(PROJECT_ROOT)}, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    lines: list[bytes] = []
    try:
        async with asyncio.timeout(START_SECONDS):
            async for each in process.stderr:
                lines.append(each)
                if line in each:
                    break
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_SECONDS):
            lines.append(await process.stderr.read())
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    return code, b"".join(lines).decode()


@pytest.mark.parametrize(
    ("role", "line"), [("api", b"nats_connected"), ("handlers", b"handlers_started"), ("worker", b"worker_started")]
)
async def test_an_idle_role_ends_by_itself(mesh: Mesh, role: ServiceRole, line: bytes) -> None:
    code, log = await started_and_stopped(role, mesh.env(role), line)
    assert code == 0, log  # 1 where it had to be given up at the end of its grace


async def test_a_worker_with_nobody_left_to_report_to_ends_by_itself(mesh: Mesh, silent_store: dict[str, str]) -> None:
    """The whole service is being stopped: the command groups are gone, marks are due, the store does not answer."""
    tenant = mesh.add_tenant("overdue").tenant_id
    async with hospital(mesh, tenant) as books:
        await seed(books, 2)
    env = mesh.env("worker") | silent_store
    code, log = await started_and_stopped("worker", env, b"schedules_owned")
    assert code == 0, log


# --- what it rests on ---------------------------------------------------------------------------------------------------


async def test_work_is_left_alone_until_the_stop_and_for_as_long_as_patience_lasts() -> None:
    stop, go = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        await go.wait()
        return 7

    assert await unless_stopped(_at_once(), stop) == 7
    stop.set()
    asyncio.get_running_loop().call_later(0.01, go.set)
    assert await unless_stopped(work(), stop, 20) == 7
    go.clear()
    with pytest.raises(Stopping):
        await unless_stopped(work(), stop, 0.01)


async def _at_once() -> int:
    return 7


async def test_a_caller_that_is_cancelled_leaves_no_work_behind() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(unless_stopped(work(), asyncio.Event()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_what_work_raises_is_raised() -> None:
    async def work() -> None:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        await unless_stopped(work(), asyncio.Event())
