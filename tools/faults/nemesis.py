"""The faults: each begins, lasts, and is made good again. What is chosen when depends on the seed alone."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import nats
import psutil

from adapters.nats.topology import COMMANDS_STREAM, EVENTS_STREAM
from tools.faults.proxy import Proxy
from tools.stack.mesh import Mesh
from tools.stack.role_process import RoleProcess

SLOW_HOP_SECONDS = 0.03
SLOW_COMMIT_MICROSECONDS = 50_000
FEW_CONNECTIONS = 3
_NO_LIMIT = -1


class Scene(NamedTuple):
    """What can be broken. Every role reaches its servers through the two proxies."""

    mesh: Mesh
    nats_proxy: Proxy
    postgres_proxy: Proxy
    chance: random.Random

    def one_of(self, role: str) -> RoleProcess:
        return self.chance.choice([process for process in self.mesh if process.role == role])


class Fault(NamedTuple):
    """`seconds`: how long it lasts, between the two."""

    name: str
    seconds: tuple[float, float]
    inject: Callable[[Scene], AbstractAsyncContextManager[None]]


FAULTS: list[Fault] = []
_Inject = Callable[[Scene], AsyncIterator[None]]


def _fault(shortest_seconds: float, longest_seconds: float) -> Callable[[_Inject], _Inject]:
    def added(inject: _Inject) -> _Inject:
        name = inject.__name__.strip("_").replace("_", " ")
        FAULTS.append(Fault(name, (shortest_seconds, longest_seconds), asynccontextmanager(inject)))
        return inject

    return added


# --- processes --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _killed(role: RoleProcess) -> AsyncIterator[None]:
    await asyncio.to_thread(role.kill)
    yield
    await asyncio.to_thread(role.start)


@_fault(0, 1)
async def handlers_killed(scene: Scene) -> AsyncIterator[None]:
    async with _killed(scene.one_of("handlers")):
        yield


@_fault(0, 1)
async def worker_killed(scene: Scene) -> AsyncIterator[None]:
    async with _killed(scene.one_of("worker")):
        yield


@asynccontextmanager
async def _frozen(pid: int | None) -> AsyncIterator[None]:
    """SIGSTOP for the process and its children: it neither answers nor closes anything, and wakes up in another time."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    yield
    for process in processes:
        process.send_signal(signal.SIGCONT)


@_fault(1, 12)  # beyond ack_wait: what it holds is given to another, and it wakes up with it
async def handlers_frozen(scene: Scene) -> AsyncIterator[None]:
    async with _frozen(scene.one_of("handlers").pid()):
        yield


@_fault(1, 12)
async def worker_frozen(scene: Scene) -> AsyncIterator[None]:
    async with _frozen(scene.one_of("worker").pid()):
        yield


# --- servers ----------------------------------------------------------------------------------------------------------


@_fault(0, 4)
async def postgres_killed(scene: Scene) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.mesh.stack.postgres.kill)
    yield
    await asyncio.to_thread(scene.mesh.stack.postgres.start)


@_fault(0, 4)
async def postgres_restarted(scene: Scene) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.mesh.stack.postgres.stop)
    yield
    await asyncio.to_thread(scene.mesh.stack.postgres.start)


@_fault(1, 6)
async def postgres_frozen(scene: Scene) -> AsyncIterator[None]:
    async with _frozen(scene.mesh.stack.postgres.pid()):
        yield


@_fault(0, 4)
async def nats_killed(scene: Scene) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.mesh.nats.kill)
    yield
    await asyncio.to_thread(scene.mesh.nats.start)


@_fault(1, 6)
async def nats_frozen(scene: Scene) -> AsyncIterator[None]:
    async with _frozen(scene.mesh.nats.pid()):
        yield


# --- the network ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _cut(proxy: Proxy) -> AsyncIterator[None]:
    proxy.cut()
    yield
    proxy.heal()


@_fault(1, 8)
async def partition_from_nats(scene: Scene) -> AsyncIterator[None]:
    async with _cut(scene.nats_proxy):
        yield


@_fault(1, 8)
async def partition_from_postgres(scene: Scene) -> AsyncIterator[None]:
    async with _cut(scene.postgres_proxy):
        yield


@_fault(2, 6)
async def slow_network(scene: Scene) -> AsyncIterator[None]:
    proxies = (scene.nats_proxy, scene.postgres_proxy)
    for proxy in proxies:
        proxy.delay_seconds = SLOW_HOP_SECONDS
    yield
    for proxy in proxies:
        proxy.delay_seconds = 0


# --- resources --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _full(scene: Scene, stream: str) -> AsyncIterator[None]:
    """No room for one message more (`discard: new`)."""
    client = await nats.connect(**scene.mesh.nats.client_options("admin"))
    try:
        info = await client.jetstream().stream_info(stream)
        await client.jetstream().update_stream(info.config, max_msgs=max(info.state.messages, 1))
        yield
        await client.jetstream().update_stream(info.config, max_msgs=_NO_LIMIT)
    finally:
        await client.close()


@_fault(1, 5)
async def events_stream_full(scene: Scene) -> AsyncIterator[None]:
    async with _full(scene, EVENTS_STREAM):
        yield


@_fault(1, 5)
async def commands_stream_full(scene: Scene) -> AsyncIterator[None]:
    async with _full(scene, COMMANDS_STREAM):
        yield


@_fault(2, 6)
async def slow_commits(scene: Scene) -> AsyncIterator[None]:
    """A disk that takes long to flush: every commit waits."""
    postgres = scene.mesh.stack.postgres
    for name, value in (("commit_delay", SLOW_COMMIT_MICROSECONDS), ("commit_siblings", 0)):
        await asyncio.to_thread(postgres.execute, f"ALTER SYSTEM SET {name} = {value}")
    await asyncio.to_thread(postgres.execute, "SELECT pg_reload_conf()")
    yield
    for name in ("commit_delay", "commit_siblings"):
        await asyncio.to_thread(postgres.execute, f"ALTER SYSTEM RESET {name}")
    await asyncio.to_thread(postgres.execute, "SELECT pg_reload_conf()")


@_fault(1, 5)
async def connections_exhausted(scene: Scene) -> AsyncIterator[None]:
    """Nearly all connections of the handlers are closed, and there are no others to be had."""
    postgres = scene.mesh.stack.postgres
    limits = f"ALTER ROLE billing_app CONNECTION LIMIT {FEW_CONNECTIONS}"
    await asyncio.to_thread(postgres.execute, limits)
    await asyncio.to_thread(
        postgres.execute, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'billing_app'"
    )
    yield
    await asyncio.to_thread(postgres.execute, f"ALTER ROLE billing_app CONNECTION LIMIT {_NO_LIMIT}")


def plan(seed: int, count: int) -> list[tuple[Fault, float]]:
    """`count` faults, each kind once before any comes again, with how many seconds each lasts."""
    chance = random.Random(f"plan {seed}")  # noqa: S311  repeatable on purpose
    chosen: list[Fault] = []
    while len(chosen) < count:
        chosen += chance.sample(FAULTS, len(FAULTS))
    return [(fault, chance.uniform(*fault.seconds)) for fault in chosen[:count]]
