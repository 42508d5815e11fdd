"""A TCP proxy on loopback between a role and a server, which can be cut without either side being told (a partition), or slow.

A cut connection stays open and silent, as when packets are dropped; what was under way arrives when the cut is healed.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from tools.faults.frames import Frames, Rewrite

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens once started; `cut`, `heal` and `delay_seconds` count for open connections too."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        """`port` 0: a free one."""
        self._target_port, self._wanted_port = target_port, port
        self._passing = asyncio.Event()
        self._passing.set()
        self.delay_seconds = 0.0
        self._server: asyncio.Server
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._wanted_port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        self._passing.clear()

    def heal(self) -> None:
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is None:
            return
        self._connections.add(task)
        try:
            await self._passing.wait()
            with suppress(OSError):
                upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(reader, upstream_writer, self._to_server()))
                    both.create_task(self._pass(upstream_reader, writer, self._to_client()))
        finally:
            writer.close()
            self._connections.discard(task)

    def _to_server(self) -> "_Change":
        return _as_it_is

    def _to_client(self) -> "_Change":
        return _as_it_is

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: "_Change") -> None:
        try:
            with suppress(OSError):
                while data := await reader.read(_CHUNK_BYTES):
                    if self.delay_seconds:
                        await asyncio.sleep(self.delay_seconds)
                    await self._passing.wait()
                    writer.write(change(data))
                    await writer.drain()
        finally:
            writer.close()


class NatsProxy(Proxy):
    """One that understands what it passes on: `to_server` and `to_client` change it, None for nothing."""

    to_server: Rewrite | None = None
    to_client: Rewrite | None = None

    def _to_server(self) -> "_Change":
        frames = Frames()
        return lambda data: _rewritten(frames.feed(data), self.to_server)

    def _to_client(self) -> "_Change":
        frames = Frames()
        return lambda data: _rewritten(frames.feed(data), self.to_client)


def _rewritten(frames: Sequence[bytes], rewrite: Rewrite | None) -> bytes:
    return b"".join(rewrite(frames) if rewrite is not None else frames)


def _as_it_is(data: bytes) -> bytes:
    return data


_Change = Callable[[bytes], bytes]
