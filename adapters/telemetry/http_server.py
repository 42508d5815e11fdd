"""uvicorn inside a running event loop: no signal handling of its own, its own socket, stopped by leaving the block."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

BACKLOG = 2_048
# Longer than Kong's upstream idle time of 60 s: the side that pools connections must be the one that closes them.
KEEP_ALIVE_SECONDS = 75


class _Server(uvicorn.Server):
    """uvicorn re-raises captured signals when it stops, which would kill the role before it has cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp, *, host: str, port: int, grace_seconds: float = 5) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the port (chosen when `port` is 0).

    Leaving the block stops accepting, then waits up to `grace_seconds` for requests in flight.
    Raises OSError when the port is taken.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(grace_seconds)),
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http:{listener.getsockname()[1]}")
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named. With it on, a body that leaves behind its headers
    # waits for the client's delayed acknowledgement: 40 ms per response.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Connections queue from here on, so whoever learns the port may use it before uvicorn has started.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
