"""One run: a mesh of its own, the workload, the faults one after another, then peace, and the checker."""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import nats
import orjson
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM, durable_configs
from adapters.postgres.database import Database
from adapters.postgres.verify import verify_tenant
from tools.faults.checker import Broken, Finding, check
from tools.faults.cluster import Bridges
from tools.faults.history import History
from tools.faults.http_desk import HttpDesk
from tools.faults.nemesis import POSTGRES, Fault, Scene, kinds, plan
from tools.faults.proxy import NatsProxy, Proxy
from tools.faults.witness import Witness
from tools.faults.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.nats_cluster import NatsCluster
from tools.stack.paths import PROJECT_ROOT
from tools.stack.role_process import ServiceRole
from tools.stack.stepped_clock import SteppedClock, library

TENANTS = ("fault-one", "fault-two", "fault-three", "fault-four")
DIRECTORY = PROJECT_ROOT / ".stack" / "faults"
PROCESSES: tuple[ServiceRole, ...] = ("handlers", "worker", "api")
COPIES = 2  # of each role: they compete
# So that a run need not sit out the half minute after which a dead process's messages come again.
ACK_WAIT_SECONDS = 5
# So that what a client repeats lands in the stream once more.
DUPLICATE_WINDOW_SECONDS = 1
_TOKEN_SECONDS = 86_400  # no step of a clock is as long
CALM_SECONDS = (0.5, 2.0)  # between two faults
# After the last fault: above ack_wait, and above what a message that was tried often waits.
SETTLE_SECONDS = 120
_POLL_SECONDS = 0.1
_NANOSECONDS = 1_000_000_000
_GROUPS = ("accounts", "charges", "invoices", "payments")
_ROLES = {f"{role}-{copy}": role for role in PROCESSES for copy in range(1, COPIES + 1)}


Told = Callable[[int, Fault], None]


class Result(NamedTuple):
    """`seconds` of load, `settled_seconds` from the last fault until nothing was left to do."""

    findings: list[Finding]
    faults: dict[str, int]
    commands: int
    seconds: float
    settled_seconds: float


async def run(
    seed: int, count: int, *, per_second: int, history_path: Path | None, told: Told, cluster: bool = False
) -> Result:
    """`count` faults under load. Raises Broken where a promise does not hold, StackError where a process does not come back."""
    async with AsyncExitStack() as resources:
        history = resources.enter_context(History(history_path))
        scene = await resources.enter_async_context(scene_of(seed, cluster=cluster))
        began = time.monotonic()
        faults = plan(seed, count, kinds(cluster=cluster))
        await under_load(scene, history, faults, seed=seed, per_second=per_second, told=told)
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
    hurried: bool = False,
) -> None:
    """One fault after another, with calm between, while the workload goes on. `hurried`: less is left at its end."""
    witness = Witness(scene.mesh.dsn("postgres"))
    urls = [f"http://{api.env['HTTP_HOST']}:{api.env['HTTP_PORT']}" for api in scene.mesh if api.role == "api"]
    tokens = {tenant: scene.mesh.token(tenant, ttl_seconds=_TOKEN_SECONDS) for tenant in TENANTS}
    with closing(witness):
        async with (
            HttpDesk(urls, tokens, history, witness, seed=seed) as http,
            Workload(
                scene.mesh.nats,
                TENANTS,
                history,
                seed=seed,
                per_second=per_second,
                http=http,
                witness=witness,
                hurried=hurried,
            ).running(),
        ):
            for number, (fault, seconds) in enumerate(faults, 1):
                await asyncio.sleep(scene.chance.uniform(*CALM_SECONDS))
                told(number, fault)
                history.fault(fault.name, "begins")
                async with fault.inject(scene):
                    await asyncio.sleep(seconds)
                history.fault(fault.name, "ends")
            await asyncio.sleep(CALM_SECONDS[1])


@asynccontextmanager
async def scene_of(seed: int, *, cluster: bool = False) -> AsyncIterator[Scene]:
    """A mesh with two of each role, which reach PostgreSQL, and NATS where it is one server, through proxies."""
    stack = Stack(f"faults-{uuid4().hex[:8]}", ephemeral=True)
    async with AsyncExitStack() as resources:
        clocks = _clocks(stack, resources)
        if POSTGRES in clocks:
            stack.postgres.prefix = clocks[POSTGRES].prefix
        nodes = NatsCluster(stack.directory / "cluster", bridged=True) if cluster else None
        mesh = Mesh(stack, tenants=TENANTS, roles=(), nats=nodes, env=nodes.env() if nodes else None)
        resources.push_async_callback(asyncio.to_thread, stack.stop)
        await asyncio.to_thread(stack.start)
        bridges = await _started(nodes, resources) if nodes else None
        resources.push_async_callback(asyncio.to_thread, mesh.stop)
        await asyncio.to_thread(mesh.start)
        to_postgres = await resources.enter_async_context(Proxy(stack.postgres.port))
        to_nats = None if nodes else await resources.enter_async_context(NatsProxy(mesh.nats.port))
        ports = {stack.postgres.port: to_postgres.port} | ({mesh.nats.port: to_nats.port} if to_nats else {})
        await _hurry(mesh)
        processes = [
            mesh.add_process(
                role,
                name,
                env=_through(mesh.env(role), ports),
                prefix=clocks[name].prefix if name in clocks else (),
            )
            for name, role in _ROLES.items()
        ]
        for process in processes:
            await asyncio.to_thread(process.launch)
        for process in processes:
            await asyncio.to_thread(process.wait_ready)
        with _logs_kept(mesh):
            chance = random.Random(f"scene {seed}")  # noqa: S311  repeatable on purpose
            yield Scene(mesh, to_postgres, chance, to_nats, bridges, clocks)
        await asyncio.to_thread(mesh.stop)  # while they still reach the servers: they drain


def _clocks(stack: Stack, resources: AsyncExitStack) -> dict[str, SteppedClock]:
    """One for each role process and for PostgreSQL, where this machine can do that."""
    if library() is None:
        return {}
    resources.callback(SteppedClock.close)
    return {name: SteppedClock(stack.directory / f"clock-{name}") for name in (POSTGRES, *_ROLES)}


async def _started(nodes: NatsCluster, resources: AsyncExitStack) -> Bridges:
    nodes.configure()
    bridges = await resources.enter_async_context(Bridges(nodes))
    resources.push_async_callback(asyncio.to_thread, nodes.stop)
    await asyncio.to_thread(nodes.start)
    return bridges


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


async def _hurry(mesh: Mesh) -> None:
    """The declared durables and streams, with less patience."""
    client = await nats.connect(**mesh.nats.client_options("admin"))
    try:
        for (stream, name), config in durable_configs().items():
            wanted = config | {"ack_wait": ACK_WAIT_SECONDS * _NANOSECONDS}
            request = {"stream_name": stream, "config": wanted, "action": "update"}
            await _ask(client, f"CONSUMER.CREATE.{stream}.{name}", request)
        found = (await _ask(client, f"STREAM.INFO.{COMMANDS_STREAM}", {}))["config"]
        window = {"duplicate_window": DUPLICATE_WINDOW_SECONDS * _NANOSECONDS}
        await _ask(client, f"STREAM.UPDATE.{COMMANDS_STREAM}", found | window)
    finally:
        await client.close()


async def _ask(client: Client, what: str, request: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(
        (await client.request(f"$JS.API.{what}", orjson.dumps(request), timeout=10)).data
    )
    if "error" in said:
        raise RuntimeError(f"{what}: {said['error']}")
    return said


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
