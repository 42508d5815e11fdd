"""How many requests a tenant may make: counted in Redis by all replicas together, or by each process for itself.

    limits = RateLimits(Allowance(per_tenant, per_route), url)
    async with limits.running():
        refusal = await limits.hit("kabul-hospital", "payment.record")   # None: go ahead

Redis decides fast or not at all: without an answer within STORE_TIMEOUT_SECONDS the process counts for itself until a probe finds
Redis answering again, and `billing_http_rate_limit_store` says which of the two it is. Nothing is ever refused for want of Redis.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter, Gauge
from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

# A short burst is no abuse: only the average over the window counts. A counter of the window before and one of this, per tenant
# and route: two keys of Redis each.
WINDOW_SECONDS = 10
STORE_TIMEOUT_SECONDS = (
    0.05  # an answer takes 0.3 ms; this much more, once, is what a Redis that stalls costs a request
)
PROBE_SECONDS = 1.0
CONNECTIONS = 32  # per process; each is busy for a millisecond, so good for some 30,000 requests a second

STORE = Gauge(
    "billing_http_rate_limit_store", "1 for the store that counts requests: all replicas' or this process's", ("store",)
)
LIMITED = Counter("billing_http_rate_limited", "Requests refused with 429", ("scope",))
STORE_LOST = Counter("billing_http_rate_limit_store_lost", "Times Redis did not answer and the process took over")

Scope = Literal["tenant", "route"]

log = structlog.get_logger()


class Allowance(NamedTuple):
    """Requests per second, as an average over WINDOW_SECONDS: of a tenant in all, and of a tenant on one route."""

    tenant_per_second: int
    route_per_second: int


class Refusal(NamedTuple):
    """Which limit is used up, how many requests a window has, and after how many seconds some are free again."""

    scope: Scope
    limit: int
    retry_after_seconds: int


class _Counters:
    """Both limits on one store."""

    def __init__(self, storage: MemoryStorage | RedisStorage, allowance: Allowance) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._tenant = RateLimitItemPerSecond(allowance.tenant_per_second * WINDOW_SECONDS, WINDOW_SECONDS, "tenant")
        self._route = RateLimitItemPerSecond(allowance.route_per_second * WINDOW_SECONDS, WINDOW_SECONDS, "route")

    async def hit(self, tenant_id: str, route: str) -> Refusal | None:
        if not await self._limiter.hit(self._route, tenant_id, route):
            return await self._refusal("route", self._route, tenant_id, route)
        if not await self._limiter.hit(self._tenant, tenant_id):
            return await self._refusal("tenant", self._tenant, tenant_id)
        return None

    async def _refusal(self, scope: Scope, limit: RateLimitItemPerSecond, *names: str) -> Refusal:
        free_at = (await self._limiter.get_window_stats(limit, *names)).reset_time
        return Refusal(scope, limit.amount, min(WINDOW_SECONDS, max(1, math.ceil(free_at - time.time()))))


class RateLimits:
    def __init__(self, allowance: Allowance, redis_url: SecretStr | None = None) -> None:
        """`redis_url` may follow its file: each time Redis is looked for, it is asked again."""
        self._allowance, self._url = allowance, redis_url
        self._process = _Counters(MemoryStorage(), allowance)
        self._redis: _Counters | None = None
        self._pool: BlockingConnectionPool | None = None
        self._lost = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks for Redis while the block runs; without a URL, each process counts for itself."""
        self._use(None)
        if self._url is None:
            yield
            return
        with contextlib.suppress(Exception):
            self._use(await self._connected(self._url))
        keeping = asyncio.create_task(self._keep_looking(self._url), name="rate-limit-store")
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            await self._close()

    async def hit(self, tenant_id: str, route: str) -> Refusal | None:
        """Count a request; the refusal where there have been too many. Takes STORE_TIMEOUT_SECONDS at the very most."""
        refusal = await self._hit(tenant_id, route)
        if refusal is not None:
            LIMITED.labels(refusal.scope).inc()
        return refusal

    async def _hit(self, tenant_id: str, route: str) -> Refusal | None:
        if (redis := self._redis) is not None:
            try:
                async with asyncio.timeout(STORE_TIMEOUT_SECONDS):
                    return await redis.hit(tenant_id, route)
            except Exception as error:  # whatever is wrong with it, this request shall not suffer
                self._lose(redis, error)
        return await self._process.hit(tenant_id, route)

    def _lose(self, redis: _Counters, error: Exception) -> None:
        if self._redis is not redis:
            return  # another request was first
        STORE_LOST.inc()
        log.warning("rate_limit_store_lost", error=type(error).__name__)
        self._use(None)

    def _use(self, redis: _Counters | None) -> None:
        self._redis = redis
        STORE.labels("redis").set(redis is not None)
        STORE.labels("process").set(redis is None)
        if redis is None:
            self._lost.set()
        else:
            self._lost.clear()

    async def _keep_looking(self, url: SecretStr) -> None:
        while True:
            await self._lost.wait()
            await asyncio.sleep(PROBE_SECONDS)
            try:
                self._use(await self._connected(url))
            except Exception as error:
                log.debug("rate_limit_store_away", error=type(error).__name__)
            else:
                log.info("rate_limit_store_back")

    async def _connected(self, redis_url: SecretStr) -> _Counters:
        """Counters on a Redis that has just answered. Raises whatever the client does, TimeoutError among it."""
        await self._close()
        url = redis_url.get_secret_value()
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=STORE_TIMEOUT_SECONDS,
            socket_timeout=STORE_TIMEOUT_SECONDS,
            socket_connect_timeout=4 * STORE_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        options: dict[str, object] = {"connection_pool": self._pool}
        storage = RedisStorage(url, implementation="redispy", key_prefix="billing-shim", **options)  # type: ignore[arg-type]
        counters = _Counters(storage, self._allowance)
        async with asyncio.timeout(10 * STORE_TIMEOUT_SECONDS):
            if not await storage.check():
                raise ConnectionError
            # The script is loaded, and the way back and forth tried.
            await counters.hit("", "")
        return counters

    async def _close(self) -> None:
        if (pool := self._pool) is not None:
            self._pool = None
            with contextlib.suppress(Exception):
                async with asyncio.timeout(10 * STORE_TIMEOUT_SECONDS):
                    await pool.disconnect()
