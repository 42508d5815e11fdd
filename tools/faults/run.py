"""One run: a mesh of its own, the workload, the faults one after another, then peace, and the checker."""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import asyncpg
import nats
import orjson

from adapters.nats.topology import COMMANDS_STREAM, durable_configs
from adapters.postgres.database import Database
from adapters.postgres.verify import verify_tenant
from tools.faults.checker import Broken, Finding, check
from tools.faults.history import History
from tools.faults.nemesis import Fault, Scene, plan
from tools.faults.proxy import Proxy
from tools.faults.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT
from tools.stack.role_process import ServiceRole

TENANTS = ("fault-one", "fault-two", "fault-three", "fault-four")
DIRECTORY = PROJECT_ROOT / ".stack" / "faults"
PROCESSES: tuple[ServiceRole, ...] = ("handlers", "worker")
COPIES = 2  # of each role: they compete
# So that a run need not sit out the half minute after which a dead process's messages come again.
ACK_WAIT_SECONDS = 5
CALM_SECONDS = (0.5, 2.0)  # between two faults
# After the last fault: above ack_wait, and above what a message that was tried often waits.
SETTLE_SECONDS = 120
_POLL_SECONDS = 0.1
_NANOSECONDS = 1_000_000_000
_GROUPS = ("accounts", "charges", "invoices", "payments")


Told = Callable[[int, Fault], None]


class Result(NamedTuple):
    """`seconds` of load, `settled_seconds` from the last fault until nothing was left to do."""

    findings: list[Finding]
    faults: dict[str, int]
    commands: int
    seconds: float
    settled_seconds: float


async def run(seed: int, count: int, *, per_second: int, history_path: Path | None, told: Told) -> Result:
    """`count` faults under load. Raises Broken where a promise does not hold, StackError where a process does not come back."""
    async with AsyncExitStack() as resources:
        history = resources.enter_context(History(history_path))
        scene = await resources.enter_async_context(scene_of(seed))
        began = time.monotonic()
        await under_load(scene, history, plan(seed, count), seed=seed, per_second=per_second, told=told)
        ended = time.monotonic()
        await nothing_left(scene.mesh)
        settled = time.monotonic()
        findings = [*await check(scene.mesh, history), await verified(scene.mesh)]
        return Result(findings, dict(history.faults), len(history.sent), ended - began, settled - ended)


async def under_load(
    scene: Scene,
    history: History,
    faults: Sequence[tuple[Fault, float]],
    *,
    seed: int,
    per_second: int = 300,
    told: Told = lambda _number, _fault: None,
) -> None:
    """One fault after another, with calm between, while the workload goes on."""
    async with Workload(scene.mesh.nats, TENANTS, history, seed=seed, per_second=per_second).running():
        for number, (fault, seconds) in enumerate(faults, 1):
            await asyncio.sleep(scene.chance.uniform(*CALM_SECONDS))
            told(number, fault)
            history.fault(fault.name, "begins")
            async with fault.inject(scene):
                await asyncio.sleep(seconds)
            history.fault(fault.name, "ends")
        await asyncio.sleep(CALM_SECONDS[1])


@asynccontextmanager
async def scene_of(seed: int) -> AsyncIterator[Scene]:
    """A mesh with two of each role, which reach NATS and PostgreSQL through proxies."""
    stack = Stack(f"faults-{uuid4().hex[:8]}", ephemeral=True)
    mesh = Mesh(stack, tenants=TENANTS, roles=())
    await asyncio.to_thread(mesh.start)
    try:
        async with Proxy(mesh.nats.port) as to_nats, Proxy(stack.postgres.port) as to_postgres:
            ports = {mesh.nats.port: to_nats.port, stack.postgres.port: to_postgres.port}
            await _shorten_ack_wait(mesh)
            processes = [
                mesh.add_process(role, f"{role}-{copy}", env=_through(mesh.env(role), ports))
                for role in PROCESSES
                for copy in range(1, COPIES + 1)
            ]
            for process in processes:
                await asyncio.to_thread(process.launch)
            for process in processes:
                await asyncio.to_thread(process.wait_ready)
            with _logs_kept(mesh):
                yield Scene(mesh, to_nats, to_postgres, random.Random(f"scene {seed}"))  # noqa: S311  repeatable on purpose
            await asyncio.to_thread(mesh.stop)  # while they still reach the servers: they drain
    finally:
        await asyncio.to_thread(mesh.stop)


@contextmanager
def _logs_kept(mesh: Mesh) -> Iterator[None]:
    """Where a promise does not hold, the processes' logs outlive the mesh."""
    try:
        yield
    except BaseException:
        kept = DIRECTORY / "logs"
        kept.mkdir(parents=True, exist_ok=True)
        for name, path in mesh.log_paths().items():
            if path.exists():
                shutil.copy(path, kept / f"{name}.log")
        raise


def _through(env: dict[str, str], ports: dict[int, int]) -> dict[str, str]:
    """Every URL with a server's port gets the proxy's."""
    for port, proxy_port in ports.items():
        env = {
            name: value.replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxy_port}") if "://" in value else value
            for name, value in env.items()
        }
    return env


async def _shorten_ack_wait(mesh: Mesh) -> None:
    client = await nats.connect(**mesh.nats.client_options("admin"))
    try:
        for (stream, name), config in durable_configs().items():
            wanted = config | {"ack_wait": ACK_WAIT_SECONDS * _NANOSECONDS}
            request = {"stream_name": stream, "config": wanted, "action": "update"}
            answer = await client.request(f"$JS.API.CONSUMER.CREATE.{stream}.{name}", orjson.dumps(request))
            if "error" in (said := orjson.loads(answer.data)):
                raise RuntimeError(f"consumer {name}: {said['error']}")
    finally:
        await client.close()


async def nothing_left(mesh: Mesh) -> None:
    """Returns when every command is acknowledged and the outbox is empty. Raises Broken when that takes too long."""
    client = await nats.connect(**mesh.nats.client_options("admin"))
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    left: dict[str, int] = {}
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while not left or any(left.values()):
                await asyncio.sleep(_POLL_SECONDS)
                left = {"outbox": await connection.fetchval("SELECT count(*) FROM outbox")}
                for group in _GROUPS:
                    info = await client.jetstream().consumer_info(COMMANDS_STREAM, group)
                    left[group] = (info.num_pending or 0) + (info.num_ack_pending or 0)
    except TimeoutError:
        raise Broken(f"work did not resume within {SETTLE_SECONDS} s of the last fault; left: {left}") from None
    finally:
        await connection.close()
        await client.close()


async def verified(mesh: Mesh, tenants: Sequence[str] = TENANTS) -> Finding:
    """What `billing ledger verify` says, beside the checker's own view: it knows the hash chain."""
    database = Database(mesh.dsn("billing_read"), application_name="faults-verify", pool_size=1)
    checks = 0
    try:
        for tenant in tenants:
            async with database.reading(tenant) as connection:
                report = await verify_tenant(connection, tenant)
            checks += 1
            if report.mismatches:
                raise Broken(f"{tenant}: ledger verify: {report.mismatches[0]}")
    finally:
        await database.close()
    return Finding("`billing ledger verify` agrees, hash chains included", f"{checks} tenants")
