"""The faults: each begins, lasts, and is made good again. What is chosen when depends on the seed alone."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Literal, NamedTuple

import nats
import psutil

from adapters.nats.topology import COMMANDS_STREAM, EVENTS_STREAM
from tools.faults.cluster import Bridges, cluster_of, current, leader
from tools.faults.frames import Rewrite, doubled_and_mixed, is_acknowledgement, is_confirmation, without
from tools.faults.proxy import NatsProxy, Proxy
from tools.stack.mesh import Mesh
from tools.stack.process import StackError
from tools.stack.role_process import RoleProcess
from tools.stack.stepped_clock import NOTICED_WITHIN_SECONDS, SteppedClock, library

SLOW_HOP_SECONDS = 0.03
SLOW_COMMIT_MICROSECONDS = 50_000
FEW_CONNECTIONS = 3
POSTGRES = "postgres"  # whose clock
DOUBLED_SHARE = 0.3
STEP_SECONDS = (60, 3 * 3600)  # of a clock, forward or back
_NO_LIMIT = -1
# "": nothing. A clock needs a library.
Needs = Literal["", "one server", "cluster", "clock"]


class Scene(NamedTuple):
    """What can be broken. Every role reaches its servers through proxies. Those of a cluster's nodes are between the nodes.

    `clocks` by process name; empty where none can be stepped.
    """

    mesh: Mesh
    postgres_proxy: Proxy
    chance: random.Random
    nats_proxy: NatsProxy | None = None
    bridges: Bridges | None = None
    clocks: Mapping[str, SteppedClock] = MappingProxyType({})

    def one_of(self, role: str) -> RoleProcess:
        return self.chance.choice([process for process in self.mesh if process.role == role])

    @property
    def to_nats(self) -> NatsProxy:
        assert self.nats_proxy is not None, "the fault is not for a cluster"  # noqa: S101  the plan sees to it
        return self.nats_proxy

    @property
    def between_nodes(self) -> Bridges:
        assert self.bridges is not None, "the fault is for a cluster"  # noqa: S101  the plan sees to it
        return self.bridges


class Fault(NamedTuple):
    """`seconds`: how long it lasts, between the two. `needs`: of the scene."""

    name: str
    seconds: tuple[float, float]
    inject: Callable[[Scene], AbstractAsyncContextManager[None]]
    needs: Needs


FAULTS: list[Fault] = []
_Inject = Callable[[Scene], AsyncIterator[None]]


def _fault(shortest_seconds: float, longest_seconds: float, needs: Needs = "") -> Callable[[_Inject], _Inject]:
    def added(inject: _Inject) -> _Inject:
        name = inject.__name__.strip("_").replace("_", " ")
        FAULTS.append(Fault(name, (shortest_seconds, longest_seconds), asynccontextmanager(inject), needs))
        return inject

    return added


def kinds(*, cluster: bool = False) -> list[Fault]:
    """Those that one NATS server, or a cluster of them, can have on this machine."""
    possible: set[Needs] = {"", "cluster" if cluster else "one server"}
    return [fault for fault in FAULTS if fault.needs in possible | ({"clock"} if library() else set())]


def left_out() -> list[str]:
    """Kinds that this machine cannot do."""
    return [fault.name for fault in FAULTS if fault.needs == "clock" and library() is None]


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


@_fault(0, 1)
async def api_killed(scene: Scene) -> AsyncIterator[None]:
    async with _killed(scene.one_of("api")):
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


@_fault(1, 8)  # beyond the patience of its clients
async def api_frozen(scene: Scene) -> AsyncIterator[None]:
    async with _frozen(scene.one_of("api").pid()):
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


@_fault(0, 4, "one server")
async def nats_killed(scene: Scene) -> AsyncIterator[None]:
    await asyncio.to_thread(scene.mesh.nats.kill)
    yield
    await asyncio.to_thread(scene.mesh.nats.start)


@_fault(1, 6, "one server")
async def nats_frozen(scene: Scene) -> AsyncIterator[None]:
    async with _frozen(scene.mesh.nats.pid()):
        yield


# --- the network ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _cut(proxy: Proxy) -> AsyncIterator[None]:
    proxy.cut()
    yield
    proxy.heal()


@_fault(1, 8, "one server")
async def partition_from_nats(scene: Scene) -> AsyncIterator[None]:
    async with _cut(scene.to_nats):
        yield


@_fault(1, 8)
async def partition_from_postgres(scene: Scene) -> AsyncIterator[None]:
    async with _cut(scene.postgres_proxy):
        yield


@_fault(2, 6, "one server")
async def slow_network(scene: Scene) -> AsyncIterator[None]:
    proxies = (scene.to_nats, scene.postgres_proxy)
    for proxy in proxies:
        proxy.delay_seconds = SLOW_HOP_SECONDS
    yield
    for proxy in proxies:
        proxy.delay_seconds = 0


# --- delivery ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _rewritten(
    scene: Scene, *, to_server: Rewrite | None = None, to_client: Rewrite | None = None
) -> AsyncIterator[None]:
    scene.to_nats.to_server, scene.to_nats.to_client = to_server, to_client
    yield
    scene.to_nats.to_server = scene.to_nats.to_client = None


@_fault(3, 9, "one server")  # beyond ack_wait: what is committed comes again, behind what is newer
async def acknowledgements_lost(scene: Scene) -> AsyncIterator[None]:
    async with _rewritten(scene, to_server=without(is_acknowledgement)):
        yield


@_fault(2, 7, "one server")
async def publish_confirmations_lost(scene: Scene) -> AsyncIterator[None]:
    """The stream has the event, dead letter or command, and who published it is not told."""
    async with _rewritten(scene, to_client=without(is_confirmation)):
        yield


@_fault(2, 6, "one server")
async def deliveries_doubled_and_mixed_up(scene: Scene) -> AsyncIterator[None]:
    async with _rewritten(scene, to_client=doubled_and_mixed(scene.chance, DOUBLED_SHARE)):
        yield


# --- clocks -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _stepped(scene: Scene, clocks: Sequence[SteppedClock]) -> AsyncIterator[None]:
    """Each by an amount of its own, forward or back, and then the other way."""
    for clock in clocks:
        clock.step(scene.chance.choice((-1, 1)) * scene.chance.randint(*STEP_SECONDS))
    await asyncio.sleep(NOTICED_WITHIN_SECONDS)
    yield
    for clock in clocks:
        clock.step(0)
    await asyncio.sleep(NOTICED_WITHIN_SECONDS)


@_fault(2, 6, "clock")
async def clocks_of_roles_stepped(scene: Scene) -> AsyncIterator[None]:
    async with _stepped(scene, [clock for name, clock in scene.clocks.items() if name != POSTGRES]):
        yield


@_fault(2, 6, "clock")
async def clock_of_postgres_stepped(scene: Scene) -> AsyncIterator[None]:
    async with _stepped(scene, [scene.clocks[POSTGRES]]):
        told = await asyncio.to_thread(
            scene.mesh.stack.postgres.execute, "SELECT extract(epoch FROM clock_timestamp())"
        )
        if abs(float(told) - time.time()) < STEP_SECONDS[0] / 2:
            raise StackError("the clock of PostgreSQL was stepped, and it did not notice")
        yield


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


# --- a cluster --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _node_killed(scene: Scene, name: str) -> AsyncIterator[None]:
    """Until it has caught up again: of three, two have to be there."""
    cluster = cluster_of(scene.mesh.nats)
    await asyncio.to_thread(cluster.nodes[name].kill)
    yield
    await asyncio.to_thread(cluster.nodes[name].start)
    await current(cluster)


@_fault(3, 10, "cluster")
async def leader_killed(scene: Scene) -> AsyncIterator[None]:
    async with _node_killed(scene, await leader(cluster_of(scene.mesh.nats))):
        yield


@_fault(0, 3, "cluster")
async def all_nodes_killed(scene: Scene) -> AsyncIterator[None]:
    """The power fails."""
    cluster = cluster_of(scene.mesh.nats)
    for node in cluster.nodes.values():
        await asyncio.to_thread(node.kill)
    yield
    await asyncio.to_thread(cluster.start)
    await current(cluster)


@_fault(12, 18, "cluster")  # 10 s until it gives up leading, 4 to 9 s until the two others have elected
async def leader_partitioned_from_its_peers(scene: Scene) -> AsyncIterator[None]:
    """Clients still reach it, and it still believes that it leads."""
    cluster = cluster_of(scene.mesh.nats)
    scene.between_nodes.isolate(await leader(cluster))
    yield
    scene.between_nodes.heal()
    await current(cluster)


@_fault(6, 15, "cluster")
async def a_node_frozen(scene: Scene) -> AsyncIterator[None]:
    cluster = cluster_of(scene.mesh.nats)
    async with _frozen(cluster.nodes[scene.chance.choice(sorted(cluster.nodes))].pid()):
        yield
    await current(cluster)


def plan(seed: int, count: int, of: Sequence[Fault] = FAULTS) -> list[tuple[Fault, float]]:
    """`count` faults, each kind once before any comes again, with how many seconds each lasts."""
    chance = random.Random(f"plan {seed}")  # noqa: S311  repeatable on purpose
    chosen: list[Fault] = []
    while len(chosen) < count:
        chosen += chance.sample(of, len(of))
    return [(fault, chance.uniform(*fault.seconds)) for fault in chosen[:count]]
