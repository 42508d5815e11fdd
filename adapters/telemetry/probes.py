"""`/metrics`, `/livez` and `/readyz` of a role, on the metrics port.

    async with probes(9464, liveness={"fetch": fetch_watchdog}, readiness={"nats": nats_check}):
        …

A check returns None when it is well, else a reason in a few words without data. Liveness is about this process only
(its event loop, its consumers): a neighbour that is away makes a role unready, never dead.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from adapters.telemetry.http_server import serving

Check = Callable[[], str | Awaitable[str | None] | None]

HEARTBEAT_SECONDS = 0.5
# A loop this late serves nobody: the longest callback of ours (one 2,000-message batch) takes well under a second.
STALLED_AFTER_SECONDS = 10.0
CHECK_TIMEOUT_SECONDS = 2.0  # of one asynchronous check; Kubernetes' own probe timeout has to be longer

_LAG = Gauge("billing_event_loop_lag_seconds", "How late the event loop's heartbeat was last time")


class Heartbeat:
    """Measures how late the event loop runs a timer."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            now = time.monotonic()
            _LAG.set(max(0.0, now - self._last - HEARTBEAT_SECONDS))
            self._last = now

    def check(self) -> str | None:
        silent = time.monotonic() - self._last
        return None if silent < STALLED_AFTER_SECONDS else f"no heartbeat for {silent:.0f} s"


@asynccontextmanager
async def probes(
    port: int,
    *,
    host: str = "0.0.0.0",  # noqa: S104  the pod's network policy is the fence
    liveness: Mapping[str, Check] | None = None,
    readiness: Mapping[str, Check] | None = None,
) -> AsyncIterator[int]:
    """Serve the three paths while the block runs; yields the port (chosen when `port` is 0). OSError if it is taken."""
    heartbeat = Heartbeat()
    beating = asyncio.create_task(heartbeat.run(), name="heartbeat")
    app = Router(
        [
            Route("/metrics", _metrics),
            Route("/livez", _endpoint({"event_loop": heartbeat.check, **(liveness or {})})),
            Route("/readyz", _endpoint(dict(readiness or {}))),
        ],
        redirect_slashes=False,
    )
    try:
        async with serving(app, host=host, port=port, grace_seconds=1) as bound:
            yield bound
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


def _metrics(_request: Request) -> Response:
    """Runs in a worker thread (Starlette does that for plain functions): a large scrape must not stall the loop."""
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


def _endpoint(checks: Mapping[str, Check]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_request: Request) -> Response:
        reasons = await asyncio.gather(*(_run(check) for check in checks.values()))
        failing = {name: reason for name, reason in zip(checks, reasons, strict=True) if reason is not None}
        body = {"status": "failing" if failing else "ok", "failing": failing, "checks": sorted(checks)}
        return Response(orjson.dumps(body), 503 if failing else 200, media_type="application/json")

    return respond


async def _run(check: Check) -> str | None:
    try:
        answer = check()
        if inspect.isawaitable(answer):
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                return await answer
        return answer
    except TimeoutError:
        return f"check took longer than {CHECK_TIMEOUT_SECONDS:.0f} s"
    except Exception as error:  # a check that fails is a reason, not a crash of the probe
        return f"check failed: {type(error).__name__}"
