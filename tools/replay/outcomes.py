"""What becomes of the messages sent: the handlers' outcomes, counted as they come to this run's own inbox."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg


class Heard:
    """`results` has the outcome by position, for those asked for with `keep`."""

    def __init__(self, nc: Client, *, keep: bool = False) -> None:
        self._inbox = nc.new_inbox()
        self._keep = keep
        self._changed = asyncio.Event()
        self.awaited: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.results: dict[int, tuple[str, str]] = {}

    @classmethod
    @asynccontextmanager
    async def on(cls, nc: Client, *, keep: bool = False) -> AsyncIterator[Self]:
        heard = cls(nc, keep=keep)
        subscription = await nc.subscribe(f"{heard._inbox}.*", cb=heard._received)
        await nc.flush()
        try:
            yield heard
        finally:
            if nc.is_connected:
                await subscription.unsubscribe()

    def reply_to(self, position: int) -> str:
        return f"{self._inbox}.{position:x}"

    def expect(self, positions: list[int]) -> None:
        self.awaited.update(positions)

    def dropped(self, position: int) -> None:
        """The stream has the command and did not take it a second time: nobody will answer."""
        self.awaited.discard(position)
        self.counts["duplicate"] += 1
        self._changed.set()

    def give_up(self) -> None:
        """Those that are awaited will not be heard any more: their commands are done, their outcomes were lost."""
        self.counts["unheard"] += len(self.awaited)
        self.awaited.clear()

    async def until(self, enough: Callable[[], bool], stall_seconds: float) -> bool:
        """Waits until `enough`; False when for `stall_seconds` nothing was heard."""
        while not enough():
            self._changed.clear()
            try:
                async with asyncio.timeout(stall_seconds):
                    await self._changed.wait()
            except TimeoutError:
                return enough()
        return True

    async def _received(self, message: Msg) -> None:
        position = int(message.subject.rpartition(".")[2], 16)
        if position not in self.awaited:
            return  # a second outcome: the message was delivered twice, which is as it may be
        self.awaited.discard(position)
        outcome = orjson.loads(message.data)
        status, error = outcome["status"], outcome.get("error") or {}
        self.counts[status] += 1
        if status == "rejected":
            self.codes[error.get("code", "unknown")] += 1
        if self._keep:
            self.results[position] = (status, error.get("code", ""))
        self._changed.set()
