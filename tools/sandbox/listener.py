"""One service on a port of its own that can be taken down (connection refused) and put up again at the same place."""

import asyncio
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tools.sandbox.faults import TRANSPORT

HOST = "127.0.0.1"
_BACKLOG = 512


class ServerTls:
    """A service's side of TLS. `mutual`: every client must show a certificate of the CA."""

    def __init__(self, *, ca: Path, certificate: Path, key: Path, mutual: bool = True) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        self.context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
        self.context.load_cert_chain(certificate, key)

    def reload(self, certificate: Path, key: Path) -> None:
        """New connections are made with this certificate."""
        self.context.load_cert_chain(certificate, key)


class Listener:
    """`client_serials` counts requests per serial number of the client certificate that was shown."""

    def __init__(self, app: ASGIApp, port: int, tls: ServerTls | None) -> None:
        self._port, self._tls = port, tls
        self.client_serials: Counter[str] = Counter()
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
        self._config.load()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{HOST}:{self._port}"

    @property
    def is_up(self) -> bool:
        return self._server is not None

    async def up(self) -> None:
        """Listen. Raises OSError where the port is taken."""
        if self._server is not None:
            return
        # By address, not with a socket of ours: asyncio turns Nagle's algorithm off (40 ms per answer) only for sockets whose
        # protocol is set, and `socket.create_server` leaves it at 0.
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol, HOST, self._port, ssl=self._tls.context if self._tls else None, backlog=_BACKLOG
        )

    def down(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._state.connections):
            connection.transport.abort()

    def _protocol(self) -> asyncio.Protocol:
        return _Protocol(self, self._config, self._state)


class _Protocol(HttpToolsProtocol):
    def __init__(self, listener: Listener, config: uvicorn.Config, server_state: ServerState) -> None:
        super().__init__(config=config, server_state=server_state, app_state={})
        self._listener = listener

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: Any = self.scope
        scope[TRANSPORT] = self.transport
        shown = self.transport.get_extra_info("peercert")
        if shown:
            self._listener.client_serials[shown["serialNumber"]] += 1
