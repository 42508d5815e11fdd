"""Connections of the operator's commands, with errors that name the server and the way out."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from tools.cli.errors import UNAVAILABLE, CliError

if TYPE_CHECKING:
    from nats.aio.client import Client

    from adapters.settings import NatsSettings

_CANCEL_ATTEMPTS, _CANCEL_SECONDS = 10, 0.2


def quiet() -> None:
    """Warnings and worse go to stderr; stdout is for data."""
    from adapters.telemetry import logging

    logging.configure("cli", level="error", log_format="console")


@asynccontextmanager
async def nats_client(
    settings: "NatsSettings | None" = None,
    *,
    timeout_seconds: float | None = None,
    inbox_prefix: str | None = None,
) -> "AsyncIterator[Client]":
    """A connection as NATS_URL says, within NATS_CONNECT_TIMEOUT_SECONDS unless told otherwise.

    Raises CliError where no server answers in time, or it refuses.
    """
    from nats.errors import Error as NatsError

    from adapters.nats.connection import connect, without_credentials
    from adapters.nats.login import login_of
    from adapters.nats.tls import tls_of
    from adapters.settings import NatsSettings, load

    settings = settings or load(NatsSettings)
    timeout_seconds = timeout_seconds or settings.nats_connect_timeout_seconds
    where = without_credentials(", ".join(settings.servers))
    try:
        client = await _within(
            timeout_seconds,
            connect(
                settings.servers,
                login=login_of(settings),
                tls=tls_of(settings),
                name="billing-cli",
                inbox_prefix=inbox_prefix,
            ),
        )
    except TimeoutError:
        raise CliError(
            f"NATS: no connection to {where} within {timeout_seconds:g} s; check NATS_URL, its user and password, and "
            "that the server runs (`billing dev status`)",
            UNAVAILABLE,
        ) from None
    except (NatsError, OSError) as error:
        reason = without_credentials(str(error)) or type(error).__name__
        raise CliError(f"NATS: {where}: {reason}; check NATS_URL", UNAVAILABLE) from None
    try:
        yield client
    finally:
        await client.close()


async def _within(timeout_seconds: float, connecting: "Coroutine[Any, Any, Client]") -> "Client":
    """Like `asyncio.wait_for`, for a client that at times swallows its cancellation while a server refuses it."""
    task = asyncio.create_task(connecting)
    done, _ = await asyncio.wait({task}, timeout=timeout_seconds)
    if done:
        return task.result()
    for _ in range(_CANCEL_ATTEMPTS):
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        if task.done():
            break
    raise TimeoutError


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns what PostgreSQL and its drivers raise into a CliError. Messages carry no credentials."""
    import asyncpg
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise CliError(
            f"PostgreSQL: {getattr(error, 'orig', None) or error}; check DATABASE_URL", UNAVAILABLE
        ) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise CliError(f"PostgreSQL: {str(error) or type(error).__name__}; check DATABASE_URL", UNAVAILABLE) from None
