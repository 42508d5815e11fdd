"""The `worker` role: the outbox relay, until asked to stop."""

import asyncio
from typing import NamedTuple

import structlog

from adapters.nats.connection import connect
from adapters.settings import DatabaseSettings, NatsSettings, RuntimeSettings, WorkerSettings
from adapters.telemetry.probes import probes
from handlers.relay import run_relay

log = structlog.get_logger()


class WorkerConfig(NamedTuple):
    """The settings the role reads."""

    runtime: RuntimeSettings
    database: DatabaseSettings
    nats: NatsSettings
    worker: WorkerSettings


async def run_worker(config: WorkerConfig, stop: asyncio.Event) -> bool:
    """Relays until `stop` is set. Returns False where NATS closed the connection for good."""
    closed_by_server = asyncio.Event()

    async def on_closed() -> None:
        if not stop.is_set():
            closed_by_server.set()
            stop.set()

    connection = await connect(
        config.nats.servers, creds=config.nats.nats_creds, name="billing-worker", on_closed=on_closed
    )
    dsn = config.database.database_relay_url or config.database.database_url
    try:
        async with probes(
            config.runtime.metrics_port,
            host=config.runtime.metrics_host,
            readiness={"nats": lambda: None if connection.is_connected else "not connected"},
        ):
            log.info("worker_started", shard_groups=config.worker.relay_shards)
            await run_relay(
                dsn=dsn.get_secret_value(),
                nats_connection=connection,
                stop=stop,
                groups=config.worker.relay_shards,
                batch_size=config.worker.relay_batch_size,
                poll_min_seconds=config.worker.relay_poll_min_seconds,
                poll_max_seconds=config.worker.relay_poll_max_seconds,
            )
    finally:
        stop.set()
        await connection.close()
    log.info("worker_stopped")
    return not closed_by_server.is_set()
