"""An object store that a role holds without depending on it: opened in the background, for as long as it takes.

A bucket that is away when the process starts must not keep the relay or the queries from starting.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import structlog

from adapters.objects.errors import ObjectStoreError
from adapters.objects.store import ObjectStore
from adapters.settings import ObjectStoreSettings
from handlers.job_outcomes import Outage, Stopping
from handlers.relay_pump import pause
from handlers.stopping import unless_stopped

log = structlog.get_logger()

OPEN_BACK_OFF_SECONDS = (0.5, 15.0)
LINK_SECONDS = 900  # long enough to open a document that a person asked for, short enough to be worthless when it leaks


class StoreKeeper:
    """Made by `keeping`."""

    def __init__(self) -> None:
        self._store: ObjectStore | None = None
        self._failure: ObjectStoreError | None = None
        self._closing = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def keeping(cls, settings: ObjectStoreSettings) -> AsyncIterator[Self]:
        """Opens and, at the end of the block, closes. Raises nothing: `store` says what is wrong."""
        keeper = cls()
        task = asyncio.create_task(keeper._keep(settings))
        try:
            yield keeper
        finally:
            keeper._closing.set()
            await task

    @property
    def store(self) -> ObjectStore:
        """Raises the last ObjectStoreError where it could not be opened, and Outage before it is known whether it can."""
        if self._store is not None:
            return self._store
        if self._failure is None:
            raise Outage("the object store is being opened")
        raise type(self._failure)(str(self._failure))

    async def presign(self, key: str) -> str | None:
        """A link of LINK_SECONDS, or None while the store is not open. Asks nobody."""
        if self._store is None:
            return None
        try:
            return await self._store.presigned_get(key, LINK_SECONDS)
        except ObjectStoreError as error:
            log.warning("link_not_made", code=error.code)
            return None

    async def _keep(self, settings: ObjectStoreSettings) -> None:
        back_off, longest = OPEN_BACK_OFF_SECONDS
        while not self._closing.is_set():
            # A store that is away is tried for many seconds by its client; nobody has to wait for that at the end.
            with suppress(Stopping):
                await unless_stopped(self._open(settings), self._closing)
            await pause(self._closing, back_off)
            back_off = min(2 * back_off, longest)

    async def _open(self, settings: ObjectStoreSettings) -> None:
        """Holds it open until cancelled; returns where it cannot be opened."""
        try:
            async with ObjectStore.open(settings) as self._store:
                log.info("object_store_opened", bucket=settings.object_store_bucket)
                await asyncio.Event().wait()
        except ObjectStoreError as error:
            self._failure = error
            log.warning("object_store_not_opened", code=error.code, detail=str(error))
        finally:
            self._store = None
