"""A TCP proxy on loopback between a role and a server, which can be cut without either side being told (a partition), or slow.

A cut connection stays open and silent, as when packets are dropped; what was under way arrives when the cut is healed.
"""

import asyncio
from contextlib import suppress
from typing import Self

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a free port once started; `cut`, `heal` and `delay_seconds` count for open connections too."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._passing = asyncio.Event()
        self._passing.set()
        self.delay_seconds = 0.0
        self._server: asyncio.Server
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
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
                    both.create_task(self._pass(reader, upstream_writer))
                    both.create_task(self._pass(upstream_reader, writer))
        finally:
            writer.close()
            self._connections.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while data := await reader.read(_CHUNK_BYTES):
                    if self.delay_seconds:
                        await asyncio.sleep(self.delay_seconds)
                    await self._passing.wait()
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
