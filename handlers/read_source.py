"""Where a query reads: the replica when there is one that answers and has caught up, the primary otherwise."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import NamedTuple, Protocol

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.reads.positions import Position, position_of
from handlers import query_metrics as metrics

log = structlog.get_logger()

# What a caller waits at most for a replica before the primary is asked: replay is normally milliseconds behind, and the primary
# always has the answer.
CATCH_UP_SECONDS = 0.25
CATCH_UP_POLL_SECONDS = 0.01
REPLICA_CONNECT_SECONDS = 1.0
# How long a replica that failed is left alone. One query then tries it again; the others do not wait for it.
REPLICA_RETRY_SECONDS = 5.0

# How PostgreSQL being away shows: sockets, SQLAlchemy's wrapping, and asyncpg's own errors while connecting.
DATABASE_ERRORS = (OSError, TimeoutError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Behind(Exception):
    """No server has the wanted position: it is of another timeline, or made up."""


class ReadDatabase(Protocol):
    """A database that gives read-only REPEATABLE READ transactions of one tenant."""

    def reading(self, tenant_id: str) -> AbstractAsyncContextManager[AsyncConnection]: ...


class Source(NamedTuple):
    """A transaction, and the position whose state it shows."""

    connection: AsyncConnection
    position: Position


class ReadSource:
    """Chooses per query. Keeps no connection; remembers only since when the replica is down."""

    def __init__(self, primary: ReadDatabase, replica: ReadDatabase | None) -> None:
        self._primary, self._replica = primary, replica
        self._retry_at: float | None = None

    @asynccontextmanager
    async def replica(self, tenant_id: str, at_least: str | None) -> AsyncIterator[Source | None]:
        """A transaction on the replica, or None where there is none to be had that has `at_least`.

        An error inside the block is the caller's to handle; `failed` then tells that the replica is to be left alone.
        """
        async with AsyncExitStack() as stack:
            yield await self._replica_source(stack, tenant_id, at_least)

    @asynccontextmanager
    async def primary(self, tenant_id: str, at_least: str | None) -> AsyncIterator[Source]:
        """A transaction on the primary. Raises Behind where even the primary does not have `at_least`."""
        async with self._primary.reading(tenant_id) as connection:
            position = await position_of(connection)
            if at_least is not None and not position.is_at_least(at_least):
                raise Behind
            yield Source(connection, position)

    def failed(self, error: BaseException) -> None:
        if self._retry_at is None:
            log.warning("replica_down", error=type(error).__name__)
        self._retry_at = time.monotonic() + REPLICA_RETRY_SECONDS
        metrics.REPLICA_FALLBACKS.labels("down").inc()

    async def _replica_source(self, stack: AsyncExitStack, tenant_id: str, at_least: str | None) -> Source | None:
        if self._replica is None:
            return None
        if not self._may_try():
            metrics.REPLICA_FALLBACKS.labels("skipped").inc()
            return None
        try:
            async with asyncio.timeout(REPLICA_CONNECT_SECONDS + CATCH_UP_SECONDS):
                if at_least is not None and not await self._caught_up(self._replica, tenant_id, at_least):
                    metrics.REPLICA_FALLBACKS.labels("lagging").inc()
                    return None
                connection = await stack.enter_async_context(self._replica.reading(tenant_id))
                position = await position_of(connection)
        except DATABASE_ERRORS as error:
            self.failed(error)
            return None
        self._recovered()
        return Source(connection, position)

    async def _caught_up(self, replica: ReadDatabase, tenant_id: str, at_least: str) -> bool:
        """In a transaction of its own: the query's snapshot has to be taken after the position was reached."""
        async with replica.reading(tenant_id) as connection:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    # PostgreSQL 16 has nothing that could be awaited for replay.
                    while not (await position_of(connection)).is_at_least(at_least):  # noqa: ASYNC110
                        await asyncio.sleep(CATCH_UP_POLL_SECONDS)
                    return True
        return False

    def _may_try(self) -> bool:
        """True when the replica is up, and for the one query whose turn it is to find out whether it is again."""
        if self._retry_at is None:
            return True
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + REPLICA_RETRY_SECONDS
        return True

    def _recovered(self) -> None:
        if self._retry_at is not None:
            log.info("replica_up")
        self._retry_at = None
