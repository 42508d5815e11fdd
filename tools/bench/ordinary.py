"""The ordinary consumer: FastStream, one message at a time, one ORM session each, ack after the commit.

`python -m tools.bench.ordinary` is a process like the `handlers` role: the same settings, probes, event loop, decoding,
admission and outcomes. `BENCH_FETCH` messages are fetched at once; they are handled concurrently, by `BENCH_WORKERS`
workers where that is above 1, else all of a fetch together.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from faststream import AckPolicy
from faststream.exceptions import RejectMessage
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.nats.annotations import NatsMessage as IncomingMessage
from nats.aio.client import Client
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from adapters.nats.connection import broker_options
from adapters.nats.topology import COMMANDS_STREAM, command_subjects, durable
from adapters.neighbours.ports import TenantDirectory
from adapters.postgres.dsn import sqlalchemy_url
from adapters.settings import DatabaseSettings, NatsSettings, RuntimeSettings, TelemetrySettings, load
from adapters.telemetry.probes import probes
from domain.admission import admission
from domain.decision import Command
from handlers.answers import outcome
from handlers.inbound import Inbound, decode
from handlers.neighbours import neighbours
from schemas.base import CommandBody
from schemas.outcome import Problem
from schemas.tenant import TenantProfile
from tools.bench.ordinary_store import apply
from tools.cli.run_role import run_role

GROUP = "payments"
log = structlog.get_logger()
_STATEMENT_CACHE_SIZE = 500


class Consumer:
    """Applies one message, answers it; FastStream acks once `consume` has returned."""

    def __init__(self, connection: Client, engine: AsyncEngine, directory: TenantDirectory, region: str) -> None:
        self._connection = connection
        self._sessions = async_sessionmaker(engine, expire_on_commit=False, autoflush=False)
        self._directory = directory
        self._region = region

    async def consume(self, message: Any) -> None:
        """`message` is nats-py's. Malformed ones, and those of unknown tenants, are dropped: the benchmark sends none."""
        inbound = decode(message)
        profile = await self._directory.profile(inbound.tenant_id)
        if not isinstance(inbound, Inbound) or not isinstance(profile, TenantProfile):
            raise RejectMessage
        async with self._sessions() as session:
            verdict = await apply(session, _command(inbound, profile, admission(profile, self._region)))
            if verdict.failure is not None:
                raise verdict.failure
            if inbound.reply_to:
                body = outcome(inbound.command_id, verdict, await _position(session))
                await self._connection.publish(inbound.reply_to, body)


def _command(inbound: Inbound, profile: TenantProfile, refusal: Problem | None) -> Command[CommandBody]:
    return Command(
        tenant=profile,
        name=inbound.name,
        command_id=inbound.command_id,
        body=inbound.body,
        payload_hash=inbound.payload_hash,
        recorded_at=inbound.delivery.recorded_at,
        stream_sequence=inbound.delivery.stream_sequence,
        actor=inbound.actor,
        correlation_id=inbound.correlation_id,
        traceparent=inbound.traceparent,
        refusal=refusal,
    )


async def _position(session: AsyncSession) -> str:
    return str(await session.scalar(select(func.pg_current_wal_insert_lsn())))


def _subscribe(broker: Any, consumer: Consumer) -> None:
    workers = int(os.environ.get("BENCH_WORKERS", "1"))
    subscriber = broker.subscriber(
        command_subjects(GROUP)[0],
        stream=JStream(COMMANDS_STREAM, declare=False),
        durable=durable(GROUP),
        pull_sub=PullSub(batch_size=int(os.environ.get("BENCH_FETCH", "1")), timeout=1.0),
        max_workers=workers if workers > 1 else None,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        decoder=_undecoded,
        include_in_schema=False,
    )

    @subscriber  # type: ignore[untyped-decorator]
    async def consume(message: IncomingMessage) -> None:
        try:
            await consumer.consume(message.raw_message)
        except SQLAlchemyError as error:
            log.warning("message_given_back", error=type(error).__name__, detail=str(error)[:500])
            raise


async def _undecoded(_message: NatsMessage) -> None:
    """Bodies are validated by `decode`, as in the mesh; FastStream need not parse them a second time."""


@asynccontextmanager
async def _engine(settings: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(
        sqlalchemy_url(settings.database_url.get_secret_value()),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        connect_args={
            "prepared_statement_cache_size": _STATEMENT_CACHE_SIZE,
            "server_settings": {"application_name": "bench-ordinary", "jit": "off"},
        },
    )
    try:
        yield engine
    finally:
        await engine.dispose()


async def _run(runtime: RuntimeSettings, stop: asyncio.Event) -> bool:
    nats = load(NatsSettings)
    async with _engine(load(DatabaseSettings)) as engine:
        broker: Any = NatsBroker(nats.servers, **broker_options(name="bench-ordinary"), logger=None)
        connection: Client = await broker.connect()
        directory = neighbours(runtime).directory
        _subscribe(broker, Consumer(connection, engine, directory, runtime.region))
        await broker.start()
        async with probes(runtime.metrics_port, host=runtime.metrics_host):
            await stop.wait()
        await broker.stop()
    return True


def main() -> int:
    """Runs until a signal; the exit codes are those of the roles."""
    runtime = load(RuntimeSettings)
    return run_role("ordinary", lambda stop: _run(runtime, stop), runtime=runtime, settings=load(TelemetrySettings))


if __name__ == "__main__":
    sys.exit(main())
