"""A run: selected messages sent again in atomic batches that carry their own checkpoint, while the outcomes are counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Protocol

import nats.errors
from nats.aio.client import Client

from adapters.nats.batch_publish import Publisher, PublishError, Row
from tools.replay import checkpoint as checkpoints
from tools.replay.checkpoint import Checkpoint
from tools.replay.errors import ReplayAway, ReplayError, Stopped
from tools.replay.messages import as_command, group_of, replayed, why_not
from tools.replay.outcomes import Heard
from tools.replay.plan import selected
from tools.replay.rails import Rails
from tools.replay.selection import Selection
from tools.replay.source import PATIENCE_SECONDS, RETRY_SECONDS, Range
from tools.replay.stored import Stored

MAX_BATCH_BYTES = 4 * 1024 * 1024

# Positions read so far, and the messages to send of them.
Batches = AsyncIterator[tuple[int, list[Stored]]]


class Source(Protocol):
    """Where a run's messages come from, from a position on."""

    def __call__(self, nc: Client, checkpoint: Checkpoint) -> Batches: ...


def from_stream(nc: Client, checkpoint: Checkpoint) -> Batches:
    bounds = Range(checkpoint.following, checkpoint.last)
    return selected(nc, Selection.from_json(checkpoint.selection), bounds)


class Run:
    """`execute` once. `checkpoint` is always the last one that is stored."""

    def __init__(
        self,
        nc: Client,
        checkpoint: Checkpoint,
        *,
        groups: Sequence[str],
        stop: asyncio.Event,
        source: Source = from_stream,
        progress: Callable[[Checkpoint], None] = lambda _checkpoint: None,
        without: frozenset[int] = frozenset(),
        keep_results: bool = False,
    ) -> None:
        self._nc, self.checkpoint, self._groups, self._stop = nc, checkpoint, groups, stop
        self._source, self._progress, self._without, self._keep = source, progress, without, keep_results
        self._before = checkpoint
        self._heard: Heard
        self._publisher: Publisher
        self.results: dict[int, tuple[str, str]] = {}

    async def execute(self) -> Checkpoint:
        """Sends what is left and waits for the outcomes. A stop is a state of the checkpoint, not an exception.

        Raises ReplayAway where NATS stays away, ReplayError where another process continues the run.
        """
        async with (
            Heard.on(self._nc, keep=self._keep) as self._heard,
            Publisher(self._nc) as self._publisher,
        ):
            rails = Rails(
                self._nc,
                self.checkpoint.options,
                self._heard,
                self._groups,
                replaying=self.checkpoint.mode == "redeliver",
                stop=self._stop,
            )
            try:
                await self._send_all(rails)
                await rails.finish()
                if self._stop.is_set() and self._heard.awaited:
                    raise Stopped("stopped by Ctrl-C while outcomes were awaited")
                ended = replace(self._counted(), state="done", following=self.checkpoint.last + 1)
            except Stopped as stopped:
                ended = replace(self._counted(), state="stopped", stopped_by=str(stopped))
            self.results = self._heard.results
            await self._store([], [], ended)
        return self.checkpoint

    async def _send_all(self, rails: Rails) -> None:
        async for position, messages in self._source(self._nc, self.checkpoint):
            sendable = [each for each in messages if each.position not in self._without and why_not(each) is None]
            skipped = len(messages) - len(sendable)
            for each in _chunks(sendable, rails):
                most = self.checkpoint.options.max_count
                chunk = each if most is None else each[: most - self.checkpoint.published]
                if not chunk:
                    return
                await rails.before(chunk[0].recorded_at)
                await self._send(chunk)
                rails.sent(len(chunk))
            self.checkpoint = replace(
                self.checkpoint, following=position + 1, skipped=self.checkpoint.skipped + skipped
            )
            self._progress(self._counted())
            if self._stop.is_set():
                raise Stopped("stopped by Ctrl-C")

    async def _send(self, chunk: Sequence[Stored]) -> None:
        run = self.checkpoint
        self._heard.expect([each.position for each in chunk])
        rows = [self._row(each) for each in chunk]
        following = replace(
            self._counted(), following=chunk[-1].position + 1, published=run.published + len(chunk), state="running"
        )
        await self._store(rows, [each.position for each in chunk], following)
        self._progress(self._counted())

    def _row(self, message: Stored) -> Row:
        run, reply_to = self.checkpoint, self._heard.reply_to(message.position)
        if run.mode == "redeliver":
            return replayed(message, run.replay_id, reply_to)
        return as_command(message, run.replay_id, reply_to, new_id=run.mode == "new_ids")

    async def _store(self, rows: Sequence[Row], positions: Sequence[int], following: Checkpoint) -> None:
        """The messages and the checkpoint that counts them: together, or not at all. Waits for a NATS that is away."""
        if self.checkpoint.mode != "redeliver" and rows:
            # Another stream: not atomic with the checkpoint. What is sent twice has one message id, and one effect.
            tried = False

            async def commands() -> int:
                nonlocal tried
                again, tried = tried, True
                return await self._commands(rows, positions, again=again)

            await self._patiently(commands)
            rows = []
        following = replace(following, revision=self.checkpoint.revision)

        async def publish() -> int:
            if not rows:
                return (await self._publisher.publish(following.row())).sequence
            return await self._publisher.publish_batch([*rows, following.row()])

        revision = await self._patiently(publish, following)
        self.checkpoint = replace(following, revision=revision)

    async def _commands(self, rows: Sequence[Row], positions: Sequence[int], *, again: bool) -> int:
        try:
            return await self._publisher.publish_batch(rows)
        except PublishError as error:
            if error.transient:
                raise
        # One of them is in the stream already: a batch with a duplicate is refused as a whole.
        for row, position in zip(rows, positions, strict=True):
            if (await self._publisher.publish(row)).duplicate and not again:
                self._heard.dropped(
                    position
                )  # sent again, it may be one that this run has stored, and is to be answered
        return 0

    async def _patiently(self, publish: Callable[[], Awaitable[int]], following: Checkpoint | None = None) -> int:
        began = monotonic()
        while True:
            try:
                return await publish()
            except (PublishError, nats.errors.Error, TimeoutError) as error:
                stale = isinstance(error, PublishError) and error.error_code in checkpoints.STALE
                if (isinstance(error, PublishError) and not error.transient and not stale) or (
                    monotonic() - began > PATIENCE_SECONDS
                ):
                    raise ReplayAway(
                        f"the messages could not be stored: {str(error) or type(error).__name__}"
                    ) from None
            if following is not None and (stored := await self._stored(following, stale=stale)) is not None:
                return stored
            await asyncio.sleep(RETRY_SECONDS)

    async def _stored(self, following: Checkpoint, *, stale: bool) -> int | None:
        """The revision of a checkpoint whose acknowledgement was lost; None where it was not stored."""
        try:
            last = await checkpoints.load(self._nc, following.replay_id)
        except (ReplayAway, ReplayError):
            return None
        if last is not None and last == replace(following, revision=last.revision):
            return last.revision
        if stale and last is not None and last.revision != following.revision:
            raise ReplayError(f"another process continues run {following.replay_id}; this one ends here")
        return None

    def _counted(self) -> Checkpoint:
        """With the outcomes heard by this process added to those of the processes before it."""
        before, counts = self._before, self._heard.counts
        codes = {code: before.codes.get(code, 0) + count for code, count in self._heard.codes.items()}
        return replace(
            self.checkpoint,
            applied=before.applied + counts["applied"],
            duplicate=before.duplicate + counts["duplicate"],
            rejected=before.rejected + counts["rejected"],
            unheard=before.unheard + counts["unheard"],
            codes=before.codes | codes,
        )


def _chunks(messages: Sequence[Stored], rails: Rails) -> list[list[Stored]]:
    """As large as the rails and an atomic batch allow, in order."""
    chunks: list[list[Stored]] = []
    size, time_slice = 0, -1
    for message in messages:
        found = rails.slice_of(message.recorded_at)
        size += len(message.data)
        if not chunks or len(chunks[-1]) >= rails.chunk or size > MAX_BATCH_BYTES or found != time_slice:
            chunks.append([])
            size, time_slice = len(message.data), found
        chunks[-1].append(message)
    return chunks


def groups_of(messages: Sequence[Stored]) -> set[str]:
    return {group_of(each) for each in messages if why_not(each) is None}
