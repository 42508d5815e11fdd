"""Being the one process of many that does something: a session advisory lock on a connection of its own.

The lock lives and dies with the connection, so a process that is killed is succeeded as soon as PostgreSQL notices. It needs a
direct connection or session pooling. The role is `billing_relay`, the only one that may look across tenants.
"""

import asyncio
from datetime import datetime
from typing import Self

from adapters.postgres.dsn import Connection, Dsn, connect
from adapters.postgres.outbox import KEEPALIVES, LOCK_SPACE
from adapters.postgres.release import stamped

SCHEDULES = 1_000  # second key of the lock; the relay's shards have the keys below
_TRY_LOCK = "SELECT pg_try_advisory_lock($1, $2)"


class OwnerSession:
    """Use as `async with await OwnerSession.open(…)`. Statements of concurrent tasks take turns."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, dsn: Dsn, *, timeout_seconds: float) -> Self:
        """`timeout_seconds` bounds the connecting and every statement. Raises what asyncpg raises."""
        connection = await connect(
            dsn,
            timeout=timeout_seconds,
            command_timeout=timeout_seconds,
            server_settings={"application_name": stamped("billing-schedules"), **KEEPALIVES},
        )
        return cls(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Not close(): that waits for a statement, and for a server that may be gone. The lock goes with the connection.
        self._connection.terminate()

    async def try_own(self, key: int) -> bool:
        """Whether this session is the owner now; asking again as the owner is no harm."""
        async with self._turn:
            return bool(await self._connection.fetchval(_TRY_LOCK, LOCK_SPACE, key))

    async def check(self) -> None:
        """Raises what asyncpg raises where the session, and the lock with it, is gone."""
        async with self._turn:
            await self._connection.execute("SELECT 1")

    async def tenants(self) -> list[str]:
        """Every tenant that ever had a command, sorted."""
        async with self._turn:
            rows = await self._connection.fetch("SELECT tenant_id FROM tenant_book ORDER BY tenant_id")
        return [row["tenant_id"] for row in rows]

    async def clean_inbox(self, tenant_id: str, older_than: datetime, at_most: int) -> int:
        """Removes up to that many of the tenant's oldest outcomes from before `older_than` (and 91 days); how many."""
        async with self._turn:
            return int(
                await self._connection.fetchval("SELECT clean_inbox($1, $2, $3)", tenant_id, older_than, at_most)
            )
