"""The HTTP server every role uses: what it does with its sockets."""

import asyncio
import socket

from adapters.telemetry.http_server import _listen


async def test_no_response_waits_for_the_clients_delayed_acknowledgement() -> None:
    """Headers and body are two writes; with Nagle's algorithm the second waits 40 ms, on the plain event loop at least."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = _listen("127.0.0.1", 0)
    async with await asyncio.start_server(serve, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(10):
            assert await accepted
        writer.close()
        await writer.wait_closed()
