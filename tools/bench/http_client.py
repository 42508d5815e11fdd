"""A keep-alive HTTP/1.1 client that costs next to nothing, so that what is measured is the server.

httpx spends more CPU on a request than the shim does, on the same cores. Kong, which stands before the shim, is of this kind:
few connections, kept open, one request at a time on each.
"""

import asyncio
from types import TracebackType
from typing import NamedTuple, Self, cast
from urllib.parse import urlsplit

import httptools


class Answer(NamedTuple):
    status: int
    body: bytes


class HttpClient:
    """Up to `connections` at a time, made when they are needed; who finds none free waits for the first that is."""

    def __init__(self, base_url: str, *, connections: int) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._permits = asyncio.Semaphore(connections)
        self._free: list[_Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._free:
            connection.close()

    async def post(self, path: str, fields: dict[str, str], body: bytes) -> Answer:
        """Raises OSError where there is no connection or it ends before the answer does."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        async with self._permits:
            connection = self._free.pop() if self._free else await self._connect()
            answer = await connection.exchange(head.encode() + body)
            self._free.append(connection)
            return answer

    async def _connect(self) -> "_Connection":
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection


class _Connection(asyncio.Protocol):
    """The methods named `on_` are httptools' callbacks."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    async def exchange(self, request: bytes) -> Answer:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server closed a connection that was idle")
        self._body, self._answer = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), self._body))
