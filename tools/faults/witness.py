"""Looks into PostgreSQL at the very moment at which somebody has heard that a command is applied."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg

_PATIENCE_SECONDS = 1.0


class Witness:
    """As the superuser, past the proxies and the mesh. Close it at the end."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Any = None
        self._one_at_a_time = asyncio.Lock()

    async def committed(self, command_id: UUID) -> bool | None:
        """Whether PostgreSQL has it applied; None where PostgreSQL is not there to be asked."""
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    if self._connection is None:
                        self._connection = await asyncpg.connect(self._dsn)
                    statement = "SELECT status = 'applied' FROM inbox WHERE command_id = $1"
                    return bool(await self._connection.fetchval(statement, command_id))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                self.close()
                return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
