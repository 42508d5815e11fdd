"""Adaptive fetching: one message when idle, a full batch under load, and no spinning when something is gone.

FastStream's batch subscriber calls `fetch` until its batch is full or its window is over, so a lone command would
wait out the window. `AdaptiveFetch` takes the place of `subscriber.subscription` and answers the first call of a
batch with whatever waits (or the first message to come), and every further call of the same batch with "nothing
more".

It asks with `no_wait` and `expires` together, which nats-server treats as one shot: deliver what there is, or wait
for the first message, then end the request with a status message. Each request has its own reply token under an inbox
of its own, so a late status of an old request cannot end a new one, and late messages are simply the next batch's
first.

Behind a full batch there is most likely another: it is asked for while the first is being handled, so that a consumer that
has fallen behind never waits for its messages. It holds two batches then, and one that keeps up never more than one.

A batch is shared out into lanes (tenants), each of which costs a transaction. The next batch is larger than the first one's
size where the last one had so many lanes that each got little of it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.client import JetStreamContext

log = structlog.get_logger()

# One request a second and durable when idle. Also how long a request lost in a reconnect goes unnoticed.
LONG_POLL_SECONDS: Final = 1.0
# The server ends a request with a status message; without one, this long after the poll, the request was lost.
STATUS_GRACE_SECONDS: Final = 0.5
# What a lane's transaction should have: below this its fixed cost, four round trips, is more than that of what it does.
MESSAGES_PER_LANE: Final = 20
# Of one batch: half of what nats-py lets wait in a subscription before it throws messages away.
MAX_BYTES: Final = 64 * 1024 * 1024
BACK_OFF_MIN_SECONDS: Final = 0.05
BACK_OFF_MAX_SECONDS: Final = 2.0

_STATUS = "Status"
_DESCRIPTION = "Description"
# 404 no messages, 408 request over: the ordinary ends of a request.
_ORDINARY = ("404", "408")
# The durable is there but busy: not a failure, but asking again at once would spin.
_BUSY = ("exceeded maxackpending", "exceeded maxwaiting", "exceeded maxrequestbatch")


class AdaptiveFetch:
    """Takes the place of a pull subscription. Attributes it does not have itself are those of `inner`.

    `failing_since` is the `time.monotonic()` of the first of the failures that have not ended yet, None when well, and
    `failure` says what it is ("disconnected", or the server's status such as "409 Consumer Deleted").
    """

    def __init__(
        self,
        inner: Any,
        nc: Client,
        *,
        stream: str,
        durable: str,
        batch_size: int,
        largest_batch_size: int | None = None,
        lane: Callable[[Msg], str] = lambda _message: "",
        ask_ahead: bool = False,
    ) -> None:
        """`largest_batch_size` is what `fetch` is called with; `batch_size`, of few lanes, is at most that. All one without.

        `ask_ahead`: whether two batches may be in hand, which is not for messages that take long.
        """
        self._inner = inner
        self._nc = nc
        self._batch_size = self._size = batch_size
        self._largest = largest_batch_size or batch_size
        self._lane = lane
        self._asks_ahead = ask_ahead
        self._next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._inbox = nc.new_inbox()
        self._log = log.bind(stream=stream, durable=durable)
        self._subscription: Subscription | None = None
        self._messages: deque[Msg] = deque()
        self._status: Msg | None = None
        self._request = 0
        self._wanted = 0
        self._ahead: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._draining = asyncio.Event()
        self._back_off_seconds = BACK_OFF_MIN_SECONDS
        self.failing_since: float | None = None
        self.failure: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def fetch(
        self,
        batch: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109  nats-py's signature
        heartbeat: float | None = None,
    ) -> list[Msg]:
        """What waits, up to a batch, when `batch` is the largest size; nothing otherwise.

        Raises nats.errors.TimeoutError when there is nothing, after at most LONG_POLL_SECONDS plus the back-off.
        """
        if batch < self._largest:
            raise errors.TimeoutError
        if self._draining.is_set():
            await asyncio.sleep(BACK_OFF_MIN_SECONDS)  # the caller's loop may take a moment to see that it is over
            raise errors.TimeoutError
        self._take_over()
        await self._asked_ahead()
        if not self._messages:
            await self._ask(self._size)
            self._take_over()
        return self._hand_over()

    async def drain(self) -> None:
        """Stop asking, and give back (nak) what was fetched but not handed over. Messages handed over stay the
        caller's.
        """
        self._draining.set()
        self._arrived.set()
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            if self._nc.is_connected:
                # Ends the request at the server, then waits for all it sent before that to be here.
                await subscription.drain()  # type: ignore[no-untyped-call]
        await self._asked_ahead()
        self._take_over()
        while self._messages:
            await self._messages.popleft().nak()

    async def unsubscribe(self) -> None:
        """What FastStream calls on stop; drains first."""
        await self.drain()
        if not self._nc.is_closed:
            await self._inner.unsubscribe()

    def _take_over(self) -> None:
        """What came to `inner` after its own last fetch had given up: a request that FastStream began before `install` can be
        answered at that very moment, and nobody else would look there until ack_wait is over."""
        inner = getattr(self._inner, "_sub", None)
        while inner is not None and not inner._pending_queue.empty():
            message = inner._pending_queue.get_nowait()
            inner._pending_size -= len(message.data)
            if not JetStreamContext.is_status_msg(message):
                self._messages.append(message)

    def _hand_over(self) -> list[Msg]:
        if not self._messages or self._draining.is_set():
            raise errors.TimeoutError
        full = len(self._messages) >= self._size
        handed = [self._messages.popleft() for _ in range(min(self._size, len(self._messages)))]
        self._size = self._batch_size
        if full:
            wanted = MESSAGES_PER_LANE * len({self._lane(message) for message in handed})
            self._size = min(max(wanted, self._batch_size), self._largest)
            if self._asks_ahead and not self._messages:
                self._ahead = asyncio.create_task(self._ask(self._size), name=f"fetch ahead {self._next_subject}")
        return handed

    async def _asked_ahead(self) -> None:
        """Until the request that was made during the last batch has ended, if there was one."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            await ahead

    async def _ask(self, batch: int) -> None:
        """One request, until its messages or its end are here. Backs off when it failed."""
        if self._draining.is_set():  # since it was asked for ahead
            return
        if not self._nc.is_connected:
            await self._failed("disconnected")
            return
        if self._subscription is None:
            self._subscription = await self._nc.subscribe(f"{self._inbox}.*", cb=self._received)
        self._request += 1
        self._wanted, self._status = batch, None
        self._arrived.clear()
        body = b'{"batch":%d,"expires":%d,"max_bytes":%d,"no_wait":true}' % (
            batch,
            int(LONG_POLL_SECONDS * 1e9),
            MAX_BYTES,
        )
        try:
            await self._nc.publish(self._next_subject, body, reply=f"{self._inbox}.{self._request}")
            async with asyncio.timeout(LONG_POLL_SECONDS + STATUS_GRACE_SECONDS):
                await self._arrived.wait()
        except (TimeoutError, errors.Error) as error:
            if not self._messages:
                await self._failed(f"no answer ({error!r})")
            return
        await self._judge()

    async def _judge(self) -> None:
        """Note whether the request that just ended shows the durable to be well."""
        headers = (self._status.headers or {}) if self._status is not None else {}
        # nats-py runs the lines after the status together; the first is the description.
        status, description = headers.get(_STATUS, ""), headers.get(_DESCRIPTION, "").partition("\n")[0].strip()
        if self._messages or self._draining.is_set() or status in _ORDINARY:
            self._well()
        elif description.lower() in _BUSY:
            self._well()
            await self._pause(BACK_OFF_MIN_SECONDS)
        else:
            await self._failed(f"{status} {description}".strip())

    async def _received(self, message: Msg) -> None:
        """The inbox: a message of the stream, or the status that ends a request."""
        if not message.subject.startswith(self._inbox):
            self._messages.append(message)
            if len(self._messages) >= self._wanted:
                self._arrived.set()
        elif message.subject == f"{self._inbox}.{self._request}":
            self._status = message
            self._arrived.set()

    def _well(self) -> None:
        if self.failing_since is not None:
            self._log.info("fetch_recovered", seconds=round(time.monotonic() - self.failing_since, 3))
        self.failing_since = self.failure = None
        self._back_off_seconds = BACK_OFF_MIN_SECONDS

    async def _failed(self, failure: str) -> None:
        if self.failing_since is None:
            self.failing_since = time.monotonic()
        if failure != self.failure:
            self._log.warning("fetch_failing", failure=failure)
        self.failure = failure
        await self._pause(self._back_off_seconds)
        self._back_off_seconds = min(2 * self._back_off_seconds, BACK_OFF_MAX_SECONDS)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            pass


def install(subscriber: Any, nc: Client, *, durable: str, batch_size: int, lane: Callable[[Msg], str]) -> AdaptiveFetch:
    """Put an `AdaptiveFetch` in place of a started FastStream batch subscriber's subscription, and return it.

    The subscriber's own batch size is the largest there will be.

    To be called right after `await broker.start()`. A fetch FastStream has begun by then ends by itself; what comes too late
    for it is taken over.
    """
    fetch = AdaptiveFetch(
        subscriber.subscription,
        nc,
        stream=subscriber.stream.name,
        durable=durable,
        batch_size=min(batch_size, subscriber.pull_sub.batch_size),
        largest_batch_size=subscriber.pull_sub.batch_size,
        lane=lane,
        ask_ahead=True,
    )
    subscriber.subscription = fetch
    return fetch
