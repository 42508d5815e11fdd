"""Who may go to the database: one transaction per tenant at a time in this process, and a bounded number in all.

PostgreSQL's advisory lock is what makes a tenant's writer single across processes. Taking turns here first means that a
busy tenant occupies one pooled connection of this process, not one per consumer group.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Shared by all consumer groups of a process. `concurrency` should not exceed the connection pool's size."""

    def __init__(self, concurrency: int) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, tenant_id: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(tenant_id, asyncio.Lock())
        self._waiting[tenant_id] = self._waiting.get(tenant_id, 0) + 1
        try:
            async with lock, self._slots:
                yield
        finally:
            self._waiting[tenant_id] -= 1
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id], self._locks[tenant_id]
