"""Answers of an outside service, kept for a while: one question at a time per key, and nobody waits for a service that is
away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

import structlog

from adapters.neighbours import metrics
from adapters.neighbours.client import Neighbour, Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

REFRESH_AT = 0.8  # of an answer's fresh time: a key in use is asked for again before anybody has to wait

log = structlog.get_logger()


class Found(NamedTuple, Generic[V]):
    """An answer. Fresh for `fresh_seconds`; for `stale_seconds` in all it is better than none while the service is away."""

    value: V
    fresh_seconds: float
    stale_seconds: float


class _Entry(NamedTuple, Generic[V]):
    value: V
    refresh_at: float
    fresh_until: float
    stale_until: float


class Cache(Generic[K, V]):
    """`fetch` asks the service; it raises Unavailable. `patience_seconds` bounds how long `get` waits for it.

    A fetch that outlives its caller's patience goes on, and what it brings is kept for the next.
    """

    def __init__(
        self,
        neighbour: Neighbour,
        fetch: Callable[[K], Awaitable[Found[V]]],
        *,
        patience_seconds: float,
        size: int,
    ) -> None:
        self._neighbour, self._fetch = neighbour, fetch
        self._patience_seconds, self._size = patience_seconds, size
        self._entries: dict[K, _Entry[V]] = {}
        self._fetching: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """The answer kept, or a new one. Raises Unavailable where there is none soon enough."""
        now = time.monotonic()
        entry = self._entries.get(key)
        if entry is not None and now < entry.fresh_until:
            if now >= entry.refresh_at and self._neighbour.may_ask():
                self._begin(key)
            self._count("hit")
            return entry.value
        try:
            value = await self._ask(key)
        except Unavailable:
            if entry is None or time.monotonic() >= entry.stale_until:
                self._count("none")
                raise
            self._count("stale")
            return entry.value
        self._count("miss")
        return value

    async def aclose(self) -> None:
        """Gives up what is under way."""
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)

    async def _ask(self, key: K) -> V:
        away = self._neighbour.away
        task = self._fetching.get(key)
        if task is None:
            if not self._neighbour.may_ask():
                raise Unavailable("away")
            task = self._begin(key)
        if away:
            # The question is under way, to see whether the service is back; who asked is not made to wait for that.
            raise Unavailable("away")
        # Waiting does not cancel the task, whatever becomes of the waiter.
        done, _ = await asyncio.wait({task}, timeout=self._patience_seconds)
        if not done:
            raise Unavailable("timeout", "no answer yet")
        return task.result()

    def _begin(self, key: K) -> "asyncio.Task[V]":
        """The question to the service: one per key at a time."""
        under_way = self._fetching.get(key)
        if under_way is not None:
            return under_way
        task = asyncio.create_task(self._fetch_and_keep(key), name=f"{self._neighbour.name}-lookup")
        self._fetching[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def _fetch_and_keep(self, key: K) -> V:
        found = await self._fetch(key)
        if found.fresh_seconds > 0:
            now = time.monotonic()
            self._entries.pop(key, None)  # so that the order is that of the last answers
            self._entries[key] = _Entry(
                found.value,
                now + REFRESH_AT * found.fresh_seconds,
                now + found.fresh_seconds,
                now + max(found.fresh_seconds, found.stale_seconds),
            )
            if len(self._entries) > self._size:
                del self._entries[next(iter(self._entries))]
            metrics.CACHE_ENTRIES.labels(self._neighbour.name).set(len(self._entries))
        else:
            self._entries.pop(key, None)
        return found.value

    def _ended(self, key: K, task: "asyncio.Task[V]") -> None:
        del self._fetching[key]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unavailable):
            log.error("neighbour_lookup_failed", neighbour=self._neighbour.name, exc_info=error)

    def _count(self, result: str) -> None:
        metrics.CACHE.labels(self._neighbour.name, result).inc()
