"""How every role connects to NATS: reconnecting for ever, with jitter, and saying so in the log.

With the client's own defaults a pull loop freezes the event loop once 60 reconnects are used up (FACTS §1 of the
design: it spins without yielding). A connection of this module never gives up; `on_closed` is for the one way it
still ends, an error of the server that the client treats as final, and should end the process.

A server that no longer accepts our credentials says so and hangs up: they were rotated, and the new ones are in their file or
will be soon. Such a connection asks for them at each try (adapters/nats/login.py) and comes back by itself.
"""

import asyncio
import contextlib
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import structlog
from faststream.nats.security import NatsSecurity
from nats.aio.client import Client, Server
from nats.errors import AuthorizationError, Error

from adapters.nats.login import Login

log = structlog.get_logger()

CONNECT_TIMEOUT_SECONDS = 5
# Two missed pings end a connection whose peer is gone without a word: noticed after 10 to 20 s.
PING_INTERVAL_SECONDS = 10
MAX_OUTSTANDING_PINGS = 2
RECONNECT_MIN_SECONDS = 0.05
RECONNECT_MAX_SECONDS = 2.0
# What may be written while disconnected. Small on purpose: what is buffered is sent after the reconnect, when whoever
# wrote it has long timed out and may have written it again.
PENDING_BYTES = 2 * 1024 * 1024

# What servers say when credentials were changed, revoked or ran out.
_REFUSED_LOGIN = re.compile(r"authorization violation|(user |account )?authentication (expired|revoked|timeout)", re.I)

_USER_INFO = re.compile(r"//[^@/\s]*@")

Callback = Callable[[], Awaitable[None]]


def connection_options(
    *,
    name: str,
    inbox_prefix: str | None = None,
    on_closed: Callback | None = None,
    on_disconnected: Callback | None = None,
    on_reconnected: Callback | None = None,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """Keyword arguments that `nats.connect` and FastStream's `NatsBroker` both take, but for servers and security."""
    observer = _Observer(name, on_closed, on_disconnected, on_reconnected)
    options: dict[str, Any] = {
        "name": name,
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_MIN_SECONDS,
        "reconnect_to_server_handler": next_server,
        "connect_timeout": connect_timeout_seconds,
        "ping_interval": PING_INTERVAL_SECONDS,
        "max_outstanding_pings": MAX_OUTSTANDING_PINGS,
        "pending_size": PENDING_BYTES,
        "error_cb": observer.error,
        "disconnected_cb": observer.disconnected,
        "reconnected_cb": observer.reconnected,
        "closed_cb": observer.closed,
    }
    if inbox_prefix is not None:
        options["inbox_prefix"] = inbox_prefix.encode()
    return options


def broker_options(
    *, login: Login | None = None, tls: ssl.SSLContext | None = None, name: str, **options: Any
) -> dict[str, Any]:
    """Keyword arguments for `faststream.nats.NatsBroker(servers, **…)`; `options` as for `connection_options`.

    Follow the broker's `connect` with `outlive_rotation`.
    """
    return connection_options(name=name, **options) | {"security": _security(login, tls)}


async def connect(
    url: str | list[str], *, login: Login | None = None, tls: ssl.SSLContext | None = None, name: str, **options: Any
) -> Client:
    """Connect, trying until a server answers: bound it with `asyncio.timeout`. `options` as for `connection_options`.

    `url` is one URL, several with commas, or a list; its user and password never reach the log.
    """
    servers = [part.strip() for part in url.split(",")] if isinstance(url, str) else list(url)
    arguments = connection_options(name=name, **options)
    if tls is not None:
        arguments["tls"] = tls
    if login is not None:
        arguments |= login.options()
    client = await nats.connect(servers, **arguments)
    outlive_rotation(client)
    log.info("nats_connected", connection=name, server_version=str(client.connected_server_version))
    return client


def outlive_rotation(client: Client) -> None:
    """Make the connection come back when the server ends it over its credentials; by itself the client would close for good."""
    process_error, tell = client._process_err, client._error_cb

    async def tell_only(error: Exception) -> None:
        # FastStream raises what it is told, which is meant for the first connection and would end every later attempt.
        with contextlib.suppress(Error):
            await tell(error)

    async def reconnect_or_close(err_msg: str) -> None:
        if _REFUSED_LOGIN.search(err_msg):
            await client._process_op_err(AuthorizationError())
        else:
            await process_error(err_msg)

    client._error_cb = tell_only
    client._process_err = reconnect_or_close  # type: ignore[method-assign]


def next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """The server tried least, and how long to wait first: doubling from 50 ms to 2 s, ± 50 %.

    The jitter keeps a fleet that lost the same server from coming back to the next one at the same moment.
    """
    fewest = min(server.reconnects for server in servers)
    server = random.choice([server for server in servers if server.reconnects == fewest])  # noqa: S311  not a secret
    delay = min(RECONNECT_MAX_SECONDS, RECONNECT_MIN_SECONDS * 2 ** min(fewest, 10))
    return server, delay * random.uniform(0.5, 1.5)  # noqa: S311  not a secret


def without_credentials(text: str) -> str:
    """`text` with the user part of every URL replaced: error messages may quote the URL they are about."""
    return _USER_INFO.sub("//***@", text)


def _security(login: Login | None, tls: ssl.SSLContext | None) -> NatsSecurity | None:
    if login is not None:
        return login.security(tls)
    return NatsSecurity(ssl_context=tls) if tls is not None else None


class _Observer:
    """The connection's callbacks."""

    def __init__(
        self, name: str, on_closed: Callback | None, on_disconnected: Callback | None, on_reconnected: Callback | None
    ) -> None:
        self._log = log.bind(connection=name)
        self._on_closed, self._on_disconnected, self._on_reconnected = on_closed, on_disconnected, on_reconnected

    async def error(self, error: Exception) -> None:
        # A cancelled read is how the client itself ends a connection.
        if not isinstance(error, asyncio.CancelledError):
            self._log.warning("nats_error", error=type(error).__name__, detail=without_credentials(str(error)))

    async def disconnected(self) -> None:
        self._log.warning("nats_disconnected")
        await _call(self._on_disconnected)

    async def reconnected(self) -> None:
        self._log.info("nats_reconnected")
        await _call(self._on_reconnected)

    async def closed(self) -> None:
        self._log.info("nats_closed")
        await _call(self._on_closed)


async def _call(callback: Callback | None) -> None:
    if callback is not None:
        await callback()
