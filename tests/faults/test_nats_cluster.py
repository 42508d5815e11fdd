"""Three NATS servers, streams on all of them, mTLS everywhere: the one that leads dies under load and comes back."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator

import nats
import pytest
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM
from tests.fixtures.servers import TEMPLATE
from tools.faults.checker import check
from tools.faults.cluster import all_current
from tools.faults.history import History
from tools.faults.run import TENANTS, nothing_left, verified
from tools.faults.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.nats_cluster import SIZE, NatsCluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(110)]
PER_SECOND = 80
WAIT_SECONDS = 30


@pytest.fixture
def mesh(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(
        stack, template=TEMPLATE, tenants=TENANTS, roles=("handlers", "worker"), cluster=True
    ) as started:
        yield started


async def test_the_consumer_leaders_node_is_killed_under_load(mesh: Mesh) -> None:
    cluster = mesh.nats
    assert isinstance(cluster, NatsCluster)
    await _refuses_without_a_certificate(cluster)
    admin = await nats.connect(**cluster.client_options("admin"), max_reconnect_attempts=-1, error_cb=_ignore)
    history = History()
    async with Workload(mesh.nats, TENANTS, history, seed=6, per_second=PER_SECOND, hurried=True).running():
        await _acked(history, 60)
        leader = await _leader(admin)
        await asyncio.to_thread(cluster.nodes[leader].kill)
        await _until(lambda: _leads_elsewhere(admin, leader))
        await _acked(history, 100)
        await asyncio.to_thread(cluster.nodes[leader].start)
        await _until(lambda: all_current(admin))
        await _acked(history, 60)
    await nothing_left(mesh)
    await check(mesh, history)
    await verified(mesh)
    await admin.close()


async def _refuses_without_a_certificate(cluster: NatsCluster) -> None:
    server = cluster.client_options("admin")["servers"][0]
    trusting = ssl.create_default_context(cafile=cluster.tls.ca)
    client = Client()
    with pytest.raises((nats.errors.Error, OSError)):
        await client.connect(server, tls=trusting, allow_reconnect=False, connect_timeout=5, error_cb=_ignore)
    await client.close()


async def _acked(history: History, more: int) -> None:
    """Until so many more commands are stored."""
    wanted = len(history.sent) + more

    async def enough() -> bool:
        return len(history.sent) >= wanted

    await _until(enough)


async def _leader(admin: Client) -> str:
    """The node that leads the durable of payments; it and the command stream are on all three."""
    info = await admin.jetstream().consumer_info(COMMANDS_STREAM, "payments")
    assert info.cluster is not None and len(info.cluster.replicas or []) == SIZE - 1
    assert info.cluster.leader is not None
    return str(info.cluster.leader)


async def _leads_elsewhere(admin: Client, dead: str) -> bool:
    return await _leader(admin) != dead


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    """While there is no leader, JetStream answers nothing or with an error; nothing announces an election."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                if await condition():
                    return
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                pass
            await asyncio.sleep(0.1)


async def _ignore(_error: Exception) -> None:
    """A server is killed: that is the test."""
