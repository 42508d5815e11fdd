"""A cluster whose nodes reach each other through proxies, so that one can be cut off from its peers while clients still reach it.

Proxies and not network namespaces: those need root, `ip` and a kernel that lets them be made, and a run must be the same on every
machine. What a proxy cannot do is refuse: a cut is silent, as when packets are dropped.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self, TypeVar

import nats
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM, EVENTS_STREAM, durable_configs
from tools.faults.proxy import Proxy
from tools.stack.nats_cluster import SIZE, NatsCluster
from tools.stack.nats_server import NatsServer
from tools.stack.process import StackError

_AGREED_WITHIN_SECONDS = 60
_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 2
_Said = TypeVar("_Said")


class Bridges:
    """Between the nodes of a cluster that was made `bridged` and configured."""

    def __init__(self, cluster: NatsCluster) -> None:
        self._proxies = {pair: Proxy(to, port) for pair, (port, to) in cluster.bridges.items()}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for proxy in self._proxies.values():
            await self._open.enter_async_context(proxy)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._open.aclose()

    def isolate(self, node: str) -> None:
        for pair, proxy in self._proxies.items():
            if node in pair:
                proxy.cut()

    def heal(self) -> None:
        for proxy in self._proxies.values():
            proxy.heal()


def cluster_of(server: NatsServer) -> NatsCluster:
    """Raises StackError for a single server."""
    if not isinstance(server, NatsCluster):
        raise StackError("there is one NATS server, not a cluster")
    return server


async def leader(cluster: NatsCluster) -> str:
    """The node that leads the stream of commands."""

    async def asked(admin: Client) -> str | None:
        info = await admin.jetstream().stream_info(COMMANDS_STREAM)
        return info.cluster.leader if info.cluster is not None else None

    return await _until(cluster, asked)


async def current(cluster: NatsCluster) -> None:
    """Returns when every replica of every durable, and of the streams that matter most, has what its leader has."""
    await _until(cluster, all_current)


async def all_current(admin: Client) -> bool:
    jetstream = admin.jetstream()
    streams = [await jetstream.stream_info(name) for name in (COMMANDS_STREAM, EVENTS_STREAM)]
    durables = [await jetstream.consumer_info(stream, name) for stream, name in durable_configs()]
    clusters = [info.cluster for info in (*streams, *durables)]
    return all(
        each is not None
        and len(each.replicas or []) == SIZE - 1
        and all(peer.current and not peer.offline for peer in each.replicas or [])
        for each in clusters
    )


async def _until(cluster: NatsCluster, asked: Callable[[Client], Awaitable[_Said | None]]) -> _Said:
    """What the cluster says once it says anything. While there is no leader, JetStream answers nothing or with an error."""
    try:
        async with asyncio.timeout(_AGREED_WITHIN_SECONDS), _admin(cluster) as admin:
            while True:
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        if said := await asked(admin):
                            return said
                except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                    pass
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise StackError(f"the cluster does not agree within {_AGREED_WITHIN_SECONDS} s") from None


@asynccontextmanager
async def _admin(cluster: NatsCluster) -> AsyncIterator[Client]:
    admin = await nats.connect(**cluster.client_options("admin"), max_reconnect_attempts=-1, error_cb=_ignore)
    try:
        yield admin
    finally:
        await admin.close()


async def _ignore(_error: Exception) -> None:
    """A node is broken: that is the point."""
