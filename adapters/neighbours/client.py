"""An HTTP client for one outside service: bounded in time, in concurrency and in what it believes.

    neighbour = Neighbour("tenant-service", url, tls=context, limits=Limits(deadline_seconds=2))
    profile = await neighbour.ask(Ask("GET", "/tenants/kabul"), read_profile)

Whatever the service does (refuses, stalls, talks nonsense), the caller sees an answer that `read` has accepted, or `Unavailable`.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import httpx
import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from adapters.neighbours import metrics
from adapters.neighbours.pools import Limits, Pools
from adapters.telemetry import tracing

T = TypeVar("T")

RETRY_FIRST_SECONDS, RETRY_MAX_SECONDS = 0.05, 0.5  # before the 2nd and 3rd try, with full jitter
# A service that does not answer costs every caller the whole wait, so once is enough; one that answers with errors is only
# taken for away after several in a row (it may dislike a single question).
_STRIKES_TO_BE_AWAY = 5
_STRIKES = {"timeout": _STRIKES_TO_BE_AWAY, "unreachable": _STRIKES_TO_BE_AWAY, "failed": 1}
PROBE_SECONDS = 0.5  # while away: how often one request goes through to see whether it is back

log = structlog.get_logger()


class Unavailable(Exception):
    """No usable answer. `outcome` is that of metrics.REQUESTS, or `away`: not even asked."""

    def __init__(self, outcome: str, detail: str = "") -> None:
        self.outcome = outcome
        super().__init__(f"{outcome}: {detail}" if detail else outcome)


class Ask(NamedTuple):
    """A question. `expected` are the statuses that answer it; any other is a failure of the service.

    `repeatable`: asking twice does no harm, so a try that failed may be repeated.
    """

    method: str
    path: str
    params: Mapping[str, str] | None = None
    body: Any = None
    headers: Mapping[str, str] = {}
    expected: frozenset[int] = frozenset({200})
    repeatable: bool = True


class Reply(NamedTuple):
    status: int
    body: bytes


class Neighbour:
    """Open it inside the event loop that uses it; `aclose` when done."""

    def __init__(
        self, name: str, base_url: str, *, tls: ssl.SSLContext | None = None, limits: Limits | None = None
    ) -> None:
        """`tls` None: the system's CAs and no client certificate."""
        self.name, self.limits = name, limits or Limits()
        self._slots = asyncio.Semaphore(self.limits.concurrency)
        self._strikes = 0
        self._next_probe_at = float("-inf")
        self._pools = Pools(base_url, tls, self.limits)
        metrics.AWAY.labels(name).set(0)

    async def aclose(self) -> None:
        await self._pools.aclose()

    @property
    def away(self) -> bool:
        """Whether it lately did not answer, so that nobody should wait for it."""
        return self._strikes >= _STRIKES_TO_BE_AWAY

    @property
    def busy(self) -> bool:
        """Whether a further question would have to wait for one of ours to be answered."""
        return self._slots.locked()

    def may_ask(self) -> bool:
        """True while it answers; while it is away, for one caller every `PROBE_SECONDS`, who then has to ask."""
        now = time.monotonic()
        if self.away and now < self._next_probe_at:
            return False
        self._next_probe_at = now + PROBE_SECONDS
        return True

    async def ask(self, ask: Ask, read: Callable[[Reply], T]) -> T:
        """What `read` makes of the answer; its ValueError means that the answer is not to be believed.

        Raises Unavailable after the last try or at the deadline.
        """
        tries = self.limits.tries if ask.repeatable and not self.away else 1
        retrying = AsyncRetrying(
            stop=stop_after_attempt(tries),
            wait=wait_random_exponential(multiplier=RETRY_FIRST_SECONDS, max=RETRY_MAX_SECONDS),
            retry=retry_if_exception(_worth_repeating),
            reraise=True,
        )
        progress = _Progress()
        try:
            with tracing.span(
                f"{self.name} {ask.method}", "client", attributes={"billing.neighbour": self.name}
            ) as parent:
                async with asyncio.timeout(self.limits.deadline_seconds):
                    answer: T = await retrying(self._try, ask, read, parent, progress)
        except TimeoutError:
            outcome = "timeout" if progress.seconds > self.limits.deadline_seconds / 2 else "busy"
            self._failed(outcome)
            raise Unavailable(outcome, "no answer by the deadline") from None
        except Unavailable as error:
            self._failed(error.outcome)
            raise
        self._answered()
        return answer

    async def _try(self, ask: Ask, read: Callable[[Reply], T], traceparent: str | None, progress: "_Progress") -> T:
        outcome, started = "busy", None
        try:
            async with self._slots:
                outcome, started = "timeout", time.perf_counter()
                with metrics.IN_FLIGHT.labels(self.name).track_inprogress():
                    reply = await self._send(ask, traceparent)
            if reply.status not in ask.expected:
                raise Unavailable("failed", f"status {reply.status}")
            try:
                answer = read(reply)
            except ValueError as error:
                # Only the kind: the text of a validation error quotes what the service sent.
                raise Unavailable("invalid", type(error).__name__) from None
            outcome = "ok"
            return answer
        except Unavailable as error:
            outcome = error.outcome
            raise
        finally:
            metrics.REQUESTS.labels(self.name, outcome).inc()
            if started is not None:
                seconds = time.perf_counter() - started
                progress.seconds += seconds
                metrics.DURATION.labels(self.name).observe(seconds)

    async def _send(self, ask: Ask, traceparent: str | None) -> Reply:
        headers = {**ask.headers, **({"traceparent": traceparent} if traceparent else {})}
        body = bytearray()
        try:
            async with (
                self._pools.current() as http,
                http.stream(ask.method, ask.path, params=ask.params, json=ask.body, headers=headers) as response,
            ):
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > self.limits.max_answer_bytes:
                        raise Unavailable("too_large")
        except httpx.TimeoutException as error:
            raise Unavailable("timeout", type(error).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Unavailable("unreachable", type(error).__name__) from None
        return Reply(response.status_code, bytes(body))

    def _answered(self) -> None:
        if self.away:
            log.info("neighbour_back", neighbour=self.name)
        self._strikes = 0
        metrics.AWAY.labels(self.name).set(0)

    def _failed(self, outcome: str) -> None:
        was_away = self.away
        self._strikes += _STRIKES.get(outcome, 0)
        if self.away and not was_away:
            self._next_probe_at = time.monotonic() + PROBE_SECONDS
            metrics.AWAY.labels(self.name).set(1)
            log.warning("neighbour_away", neighbour=self.name, outcome=outcome)
        elif not self.away:
            log.warning("neighbour_failed", neighbour=self.name, outcome=outcome)


class _Progress:
    """How long the service has had to answer. Time spent in our own queue says nothing about it."""

    seconds = 0.0


def _worth_repeating(error: BaseException) -> bool:
    return isinstance(error, Unavailable)
