"""A process that has nothing to do still shows that it is there: `billing migrate` must not contract under it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from adapters.postgres.database import Database
from adapters.postgres.release import PRESENCE_SECONDS

log = structlog.get_logger()


@asynccontextmanager
async def present(database: Database) -> AsyncIterator[None]:
    """Inside the block a session is open in the pool, from the first moment and again soon after PostgreSQL was away."""
    pinging = asyncio.create_task(_ping(database))
    try:
        yield
    finally:
        pinging.cancel()


async def _ping(database: Database) -> None:
    well = True
    while True:
        try:
            await database.ping()
            well = True
        except Exception as error:  # whatever it is: the next try may succeed
            if well:
                log.warning("presence_not_shown", error=type(error).__name__)
            well = False
        await asyncio.sleep(PRESENCE_SECONDS / 2)
