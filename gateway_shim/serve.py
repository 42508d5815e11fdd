"""The `billing api` role: the shim on HTTP_PORT, its probes on METRICS_PORT, until SIGTERM or SIGINT."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

import httpx
import structlog

from adapters.nats.connection import connect
from adapters.nats.login import login_of
from adapters.nats.tls import tls_of
from adapters.rate_limits import Allowance, RateLimits
from adapters.settings import NatsSettings, RuntimeSettings, ShimSettings, TelemetrySettings, check, load
from adapters.telemetry.http_server import serving
from adapters.telemetry.probes import probes
from adapters.telemetry.process import telemetry
from gateway_shim.app import create_app
from gateway_shim.auth import Authenticator
from gateway_shim.jwks import Jwks
from gateway_shim.messaging import Messenger

ROLE = "api"
START_TIMEOUT_SECONDS = 30.0  # without NATS by then, end and be restarted: the reason is in the log
JWKS_CONNECTIONS = 2  # refreshes are single-flight; one spare for a connection that hangs

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The settings groups this role reads."""

    shim: ShimSettings
    nats: NatsSettings
    runtime: RuntimeSettings
    telemetry: TelemetrySettings

    @classmethod
    def load(cls) -> Self:
        """From the environment. Raises SettingsError naming every bad variable of the role."""
        check(ShimSettings, NatsSettings, RuntimeSettings, TelemetrySettings)
        return cls(load(ShimSettings), load(NatsSettings), load(RuntimeSettings), load(TelemetrySettings))


class Ports(NamedTuple):
    http: int
    metrics: int


async def serve(settings: ApiSettings) -> None:
    """Run until SIGTERM, SIGINT or the end of the NATS connection, then finish what is in flight.

    Raises TimeoutError where NATS cannot be reached at the start, OSError where a port is taken.
    """
    stop = asyncio.Event()
    with telemetry(ROLE, settings.telemetry):
        async with running(settings, stop=stop) as ports:
            # Only from here on: while still connecting, the default action (to end) is the right one.
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, stop.set)
            log.info("api_ready", http_port=ports.http, metrics_port=ports.metrics)
            await stop.wait()
            log.info("api_stopping")


@asynccontextmanager
async def running(settings: ApiSettings, *, stop: asyncio.Event) -> AsyncIterator[Ports]:
    """The shim inside the caller's event loop. `stop` makes it unready; it is set when NATS closes for good."""
    shim = settings.shim

    async def closed() -> None:
        stop.set()

    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        client = await connect(
            settings.nats.servers,
            login=login_of(settings.nats),
            tls=tls_of(settings.nats),
            name="billing-api",
            on_closed=closed,
            connect_timeout_seconds=settings.nats.nats_connect_timeout_seconds,
        )
    try:
        async with httpx.AsyncClient(
            limits=httpx.Limits(max_connections=JWKS_CONNECTIONS), follow_redirects=False
        ) as http:
            messenger = Messenger(client, reply_timeout_seconds=shim.reply_timeout_seconds)
            await messenger.start()
            authenticator = Authenticator(
                Jwks(shim.jwks_url, http, cache_seconds=shim.jwks_cache_seconds),
                issuer=shim.jwt_issuer,
                audience=shim.jwt_audience,
                leeway_seconds=shim.jwt_leeway_seconds,
            )
            limits = RateLimits(
                Allowance(shim.rate_limit_tenant_per_second, shim.rate_limit_route_per_second), shim.redis_url
            )
            secrets = settings.runtime.open_secrets()
            app = create_app(
                messenger,
                authenticator,
                limits,
                webhook_secret_of=lambda name: secrets.get(name, multiline=True),
                body_max_bytes=shim.body_max_bytes,
                in_flight_max=shim.in_flight_max,
            )
            readiness = {"nats": messenger.check, "stopping": lambda: "stopping" if stop.is_set() else None}
            runtime = settings.runtime
            async with (
                limits.running(),
                probes(runtime.metrics_port, host=runtime.metrics_host, readiness=readiness) as metrics_port,
                serving(
                    app, host=shim.http_host, port=shim.http_port, grace_seconds=runtime.shutdown_grace_seconds
                ) as http_port,
            ):
                yield Ports(http_port, metrics_port)
    finally:
        await client.close()
