"""The pool, and a tenant's transaction: the only way from a handler to PostgreSQL.

SQLAlchemy owns the pool and runs the queries; the hot statements of a batch go straight to asyncpg on the same connection.
Transactions are ours (`BEGIN` shares a round trip with the tenant's lock), so the engine itself is in autocommit.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from adapters.postgres.dsn import Connection, Dsn, connect
from adapters.postgres.release import stamped
from schemas.subjects import TENANT

POOL_SIZE = 20
CHECKOUT_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 5.0
# A batch holds its tenant's lock for tens of milliseconds, and 8 replicas may queue for it: whoever waits this long is behind
# something stuck, and the rest of its consumer group's batch waits with it.
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000
# A process that stopped between two statements of a batch would hold its tenant's lock for ever.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000
ROLLBACK_TIMEOUT_SECONDS = 2.0
# One text per combination of lookups, and of tables, that batches really have; each is planned once per connection.
STATEMENT_CACHE_SIZE = 500
STATEMENT_LIFETIME_SECONDS = 60  # a plan that was made while its tables were empty lives no longer than this

_BEGIN_WRITING = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Row-level security obeys the setting, rows are written for the argument: the two statements of a batch compare them.
SAME_TENANT = "coalesce(current_setting('billing.tenant', true) = $1::text, false)"


class WrongTenant(Exception):
    """Rows were asked for or written in a transaction of another tenant: a bug, stopped before it did anything."""


class RolledBack(Exception):
    """A transaction was to commit but could not: a bug in whoever caught the error of one of its statements."""


@dataclass
class Transaction:
    """One tenant's write transaction. Set `wants_position` before it ends to find its commit in `position` afterwards."""

    connection: Connection
    wants_position: bool = False
    position: str | None = None


class Database:
    """A pool of connections of one role. Open it inside the event loop that uses it; `close` when done."""

    def __init__(
        self,
        dsn: Dsn,
        *,
        application_name: str,
        pool_size: int = POOL_SIZE,
        checkout_timeout_seconds: float = CHECKOUT_TIMEOUT_SECONDS,
        statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
        lock_timeout_ms: int = LOCK_TIMEOUT_MS,
        settings: dict[str, str] | None = None,
    ) -> None:
        """`dsn` may be a setting that follows its file. `settings` are further PostgreSQL settings of every session."""
        options = {
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "statement_cache_size": STATEMENT_CACHE_SIZE,
            "max_cached_statement_lifetime": STATEMENT_LIFETIME_SECONDS,
            # By default asyncpg prepares statements above 15 kB anew each time: just the large saves.
            "max_cacheable_statement_size": 0,
            "server_settings": {
                "application_name": stamped(application_name),
                "lock_timeout": str(lock_timeout_ms),
                "statement_timeout": str(statement_timeout_ms),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
                "jit": "off",
                **(settings or {}),
            },
        }

        async def new_connection() -> Connection:
            return await connect(dsn, **options)

        self._engine = create_async_engine(
            "postgresql+asyncpg://",  # who and where is asked at each connection
            async_creator=new_connection,
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=checkout_timeout_seconds,
        )
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed)

    async def close(self) -> None:
        await self._engine.dispose()

    async def ping(self) -> None:
        """A round trip on a connection of the pool, which stays open. Raises what asyncpg and SQLAlchemy raise."""
        async with self._engine.connect() as pooled:
            await (await _driver(pooled)).execute("SELECT 1")

    @asynccontextmanager
    async def transaction(self, tenant_id: str) -> AsyncIterator[Transaction]:
        """A write transaction as the tenant's only writer: commits at the end, rolls back on any exception.

        Waits for the tenant's lock, so it sees everything committed before. Raises what asyncpg and SQLAlchemy raise;
        `errors.transient` tells whether trying again can help. After an error in the commit itself the outcome is unknown.
        """
        async with self._engine.connect() as pooled:
            connection = await _driver(pooled)
            transaction = Transaction(connection)
            try:
                # One round trip. The lock comes before the first snapshot of READ COMMITTED that reads a table.
                await connection.execute(
                    f"{_BEGIN_WRITING}; {_set_tenant(tenant_id)}, pg_advisory_xact_lock({lock_key(tenant_id)})"
                )
                yield transaction
                await _commit(connection)
                if transaction.wants_position:
                    transaction.position = str(await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text"))
            except BaseException:
                await _abandon(pooled, connection)
                raise

    @asynccontextmanager
    async def reading(self, tenant_id: str) -> AsyncIterator[AsyncConnection]:
        """A read-only transaction of one tenant: every statement in it sees the same moment. Works on a replica."""
        async with self._engine.connect() as pooled:
            connection = await _driver(pooled)
            try:
                await connection.execute(f"{_BEGIN_READING}; {_set_tenant(tenant_id)}")
                yield pooled
                await connection.execute("COMMIT")  # nothing was written: how it ends does not matter
            except BaseException:
                await _abandon(pooled, connection)
                raise


def lock_key(tenant_id: str) -> int:
    """The advisory lock of a tenant's writer: a signed 64-bit hash in a class of its own.

    Two tenants with the same hash would only take turns, never see each other's rows.
    """
    digest = hashlib.blake2b(tenant_id.encode(), digest_size=8, person=b"billing.tenant").digest()
    return int.from_bytes(digest, "big", signed=True)


def _set_tenant(tenant_id: str) -> str:
    # The simple protocol, which lets BEGIN share the round trip, takes no parameters: only the subject's grammar gets in.
    if not re.fullmatch(TENANT, tenant_id):
        raise ValueError("not a tenant id")
    return f"SELECT set_config('billing.tenant', '{tenant_id}', true)"


async def _driver(pooled: AsyncConnection) -> Connection:
    raw = await pooled.get_raw_connection()
    driver: Any = raw.driver_connection
    return driver  # type: ignore[no-any-return]


def _refuse_closed(adapted: Any, _entry: ConnectionPoolEntry, _proxy: Any) -> None:
    """A connection that died in the pool (PostgreSQL restarted) is replaced at checkout. Costs no round trip."""
    if adapted.driver_connection.is_closed():
        raise exc.DisconnectionError


async def _commit(connection: Connection) -> None:
    # PostgreSQL answers the COMMIT of a failed transaction with a cheerful ROLLBACK.
    if await connection.execute("COMMIT") != "COMMIT":
        raise RolledBack("a statement of this transaction had failed, and its error was swallowed")


async def _abandon(pooled: AsyncConnection, connection: Connection) -> None:
    """Roll back; a connection that cannot do so soon is thrown away, and PostgreSQL rolls back when it is gone."""
    try:
        async with asyncio.timeout(ROLLBACK_TIMEOUT_SECONDS):
            await connection.execute("ROLLBACK")
    except Exception:
        connection.terminate()
        await pooled.invalidate()
