"""Publishing pre-encoded messages to JetStream: as one atomic batch, or singly.

An atomic batch (nats-server 2.12 and up, stream option `allow_atomic`) is stored wholly or not at all, and one fsync
covers it. nats-py has no method for it. Rows carry their complete header block (`schemas.wire_headers`), so a message
costs a few bytes' concatenation here.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from adapters.nats import raw_write
from schemas.wire_headers import END

MAX_BATCH_MESSAGES = 1_000  # the server's limit, error 10199
_NO_RESPONDERS = "503"
_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503


class Row(NamedTuple):
    """A message to be: `headers` is the whole header block as on the wire and should hold a `Nats-Msg-Id`."""

    subject: str
    headers: bytes
    body: bytes


class PublishError(Exception):
    """The server did not confirm a publish.

    `transient` is True where the same publish may well succeed later (no answer, no stream, overload) and the stream
    as a whole is affected; False where the server refused this message or batch. `error_code` is JetStream's, where
    it gave one.
    """

    def __init__(self, message: str, *, transient: bool, error_code: int | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.error_code = error_code


@dataclass(frozen=True, slots=True)
class Stored:
    """A publish that is stored. `duplicate`: its message id was there already, which is as good."""

    sequence: int
    duplicate: bool


class Publisher:
    """Publishes on one connection; replies come to one inbox of its own. Use as `async with Publisher(nc) as
    publisher`.
    """

    def __init__(self, nc: Client, *, timeout_seconds: float = 5.0) -> None:
        self._nc = nc
        self._timeout_seconds = timeout_seconds
        self._inbox = nc.new_inbox()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._requests = 0
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        self._subscription = await self._nc.subscribe(f"{self._inbox}.*", cb=self._received)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._subscription is not None and not self._nc.is_closed and not self._nc.is_draining:
            await self._subscription.unsubscribe()

    async def publish(self, row: Row) -> Stored:
        """Publish one message and wait for its PubAck. Raises PublishError, or a nats error when not connected."""
        self._check(row)
        ack = await self._request(lambda reply: [_frame(row, b"", reply)], len(row.body))
        return Stored(int(ack["seq"]), bool(ack.get("duplicate")))

    async def publish_batch(self, rows: Sequence[Row]) -> int:
        """Publish `rows`, all of one stream, as one atomic batch; the stream sequence of the last, when all are stored.

        Raises PublishError or a nats error; then nothing was stored, unless the answer was lost: publishing the same
        message ids again is always safe. Raises ValueError for no rows or more than MAX_BATCH_MESSAGES.
        """
        if not 0 < len(rows) <= MAX_BATCH_MESSAGES:
            raise ValueError(f"an atomic batch has 1 to {MAX_BATCH_MESSAGES} messages, not {len(rows)}")
        for row in rows:
            self._check(row)
        batch_id = self._nc.new_inbox().rpartition(".")[2]
        ack = await self._request(lambda reply: batch_frames(batch_id, rows, reply), sum(len(row.body) for row in rows))
        if ack.get("count") != len(rows):
            raise PublishError(f"{ack.get('count')} of {len(rows)} messages confirmed", transient=False)
        return int(ack["seq"])

    def _check(self, row: Row) -> None:
        """What nats-server answers by closing the connection must not get that far."""
        if not raw_write.is_safe_subject(row.subject):
            raise PublishError("not a subject", transient=False)
        size = len(row.headers) + len(row.body)
        if size > self._nc.max_payload - _BATCH_HEADERS_BYTES:
            raise PublishError(f"{size} bytes are more than the server takes", transient=False)

    async def _request(self, frames: Any, body_bytes: int) -> dict[str, Any]:
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = answer
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await raw_write.write(self._nc, frames(reply), body_bytes)
                return _ack(await answer)
        except TimeoutError:
            raise PublishError(f"no answer within {self._timeout_seconds} s", transient=True) from None
        finally:
            del self._waiting[reply]

    async def _received(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject)
        if answer is not None and not answer.done():
            answer.set_result(message)


# Batch id (22 characters), sequence, commit, with their names: under 100 bytes.
_BATCH_HEADERS_BYTES = 128


def batch_frames(batch_id: str, rows: Sequence[Row], reply: str) -> list[bytes]:
    """The frames of an atomic batch; the last one commits it and carries the reply subject."""
    last = len(rows)
    frames = []
    for sequence, row in enumerate(rows, start=1):
        extra = b"Nats-Batch-Id:%b\r\nNats-Batch-Sequence:%d\r\n" % (batch_id.encode(), sequence)
        if sequence == last:
            frames.append(_frame(row, extra + b"Nats-Batch-Commit:1\r\n", reply))
        else:
            frames.append(_frame(row, extra, ""))
    return frames


def _frame(row: Row, extra_headers: bytes, reply: str) -> bytes:
    block = row.headers[: -len(END)] + extra_headers + END if extra_headers else row.headers
    return raw_write.hpub(row.subject, block, row.body, reply)


def _ack(message: Msg) -> dict[str, Any]:
    """The PubAck in an answer, or the PublishError it amounts to."""
    if (message.headers or {}).get("Status") == _NO_RESPONDERS:
        raise PublishError("no stream takes the subject", transient=True, error_code=_UNAVAILABLE)
    ack: dict[str, Any] = json.loads(message.data)
    if error := ack.get("error"):
        transient = error["code"] in (_TOO_MANY_REQUESTS, _UNAVAILABLE)
        raise PublishError(str(error.get("description")), transient=transient, error_code=error.get("err_code"))
    return ack
