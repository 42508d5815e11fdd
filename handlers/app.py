"""The `handlers` role: one batch subscriber per consumer group, the queries, and the probes, until asked to stop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, NamedTuple, Self

import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.nats.annotations import NatsMessage as IncomingMessage
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr

from adapters.nats import fetch, tolerant
from adapters.nats.batch_publish import Publisher
from adapters.nats.connection import broker_options, outlive_rotation
from adapters.nats.login import login_of, without_users
from adapters.nats.tls import tls_of
from adapters.nats.topology import (
    COMMANDS_STREAM,
    REPLAY_STREAM,
    canary_durable,
    durable,
    durable_configs,
    replay_durable,
)
from adapters.neighbours.ports import TenantDirectory
from adapters.postgres import contact
from adapters.postgres.database import Database
from adapters.settings import (
    DatabaseSettings,
    HandlersSettings,
    NatsSettings,
    ObjectStoreSettings,
    RuntimeSettings,
    SettingsError,
)
from adapters.telemetry.probes import probes
from domain.admission import admission
from handlers.answers import Answers
from handlers.audit import AuditTrail, QueryAudit
from handlers.neighbours import Neighbours, neighbours
from handlers.pipeline import Pipeline
from handlers.prepare import Preparation
from handlers.presence import present
from handlers.queries import CONCURRENCY, Outside, Queries, register
from handlers.store_keeper import StoreKeeper
from handlers.suspects import Quarantine, Suspects
from handlers.turns import Turns
from handlers.watchdog import Watchdog, report_depth
from schemas.codes import Code
from schemas.registry import GROUPS
from schemas.subjects import parse
from schemas.tenant import TenantProfile

log = structlog.get_logger()


# A batch's statements have one good plan whatever their parameters: a load goes key by key (adapters/postgres/load.py), a save
# inserts. Left to itself PostgreSQL planned the load anew nearly each time, 0.5 ms of a small transaction.
BATCH_SETTINGS = {"plan_cache_mode": "force_generic_plan"}


class HandlersConfig(NamedTuple):
    """The settings the role reads."""

    runtime: RuntimeSettings
    database: DatabaseSettings
    nats: NatsSettings
    handlers: HandlersSettings
    objects: ObjectStoreSettings | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The consumer groups to run: those asked for, or all. Raises SettingsError for a name that is none."""
        chosen = self.handlers.handler_groups or tuple(GROUPS)
        if unknown := [name for name in chosen if name not in GROUPS]:
            raise SettingsError([f"HANDLER_GROUPS: no such group: {', '.join(unknown)}; there are {', '.join(GROUPS)}"])
        return tuple(chosen)

    def durables(self, group: str) -> list[tuple[str, str]]:
        """What a process takes of a group, as (stream, durable).

        Without a canary a process takes all, the canary's share included: what its mapping has sent there is applied whether or
        not anybody still runs it. A canary takes nothing else, no replays and no queries.
        """
        canary = (COMMANDS_STREAM, canary_durable(group))
        # Replayed commands wait in a queue of their own, so that a long replay does not delay what is new.
        own = [(COMMANDS_STREAM, durable(group)), (REPLAY_STREAM, replay_durable(group))]
        return {"all": [*own, canary], "stable": own, "canary": [canary]}[self.handlers.handler_commands]


class PoolShares(NamedTuple):
    """How the connections to the primary are shared out: a rush of queries must not keep payments waiting, nor they it."""

    pipeline: int
    queries: int

    @classmethod
    def of(cls, pool_size: int) -> Self:
        """A quarter for the queries, which go to the replica where there is one; at least one each."""
        queries = max(1, pool_size // 4)
        return cls(pool_size - queries, queries)


async def run_handlers(config: HandlersConfig, stop: asyncio.Event) -> bool:
    """Consumes until `stop` is set, then drains: what is in hand is finished, what was only fetched is given back.

    Returns False where NATS closed the connection for good, in which case the process should end as failed.
    """
    closed_by_server = asyncio.Event()

    async def on_closed() -> None:
        if not stop.is_set():
            closed_by_server.set()
            stop.set()

    async with AsyncExitStack() as resources:
        broker, watchdogs = await _start(config, resources, on_closed)
        connection = watchdogs[0].connection
        liveness = {f"consumer_{watchdog.durable}": watchdog.check for watchdog in watchdogs}
        await resources.enter_async_context(
            probes(
                config.runtime.metrics_port,
                host=config.runtime.metrics_host,
                liveness=liveness,
                readiness={"nats": lambda: None if connection.is_connected else "not connected"},
            )
        )
        log.info("handlers_started", groups=config.groups, commands=config.handlers.handler_commands)
        depth = asyncio.create_task(report_depth(connection, config.groups, stop))
        await stop.wait()
        log.info("handlers_draining")
        depth.cancel()
        for watchdog in watchdogs:
            await watchdog.drain()
        await broker.stop()
    log.info("handlers_stopped")
    return not closed_by_server.is_set()


async def _start(
    config: HandlersConfig, resources: AsyncExitStack, on_closed: Callable[[], Awaitable[None]]
) -> tuple[NatsBroker, list[Watchdog]]:
    contact.use_file(config.database.contact_keys)
    outside = neighbours(config.runtime)
    resources.push_async_callback(outside.aclose)
    shares = PoolShares.of(config.database.database_pool_size)
    database = await resources.enter_async_context(
        _database(config.database, config.database.database_url, shares.pipeline, BATCH_SETTINGS)
    )
    login = login_of(config.nats)
    await resources.enter_async_context(present(database))
    options = broker_options(login=login, tls=tls_of(config.nats), name="billing-handlers", on_closed=on_closed)
    broker: Any = NatsBroker(
        config.nats.servers if login is None else without_users(config.nats.servers),
        **options,
        graceful_timeout=config.runtime.shutdown_grace_seconds,
        logger=None,
    )
    connection: Client = await broker.connect()
    outlive_rotation(connection)
    tolerant.install(connection)
    publisher = await resources.enter_async_context(Publisher(connection))
    trail = AuditTrail(database, publisher)
    turns = Turns(min(config.handlers.tenant_concurrency, shares.pipeline))
    quarantine = Quarantine()
    preparation = Preparation(
        outside.directory, outside.terminology, config.runtime.region, config.runtime.country_profile
    )
    watchdogs, subscribers = [], []
    for group in config.groups:
        answers = Answers(connection, connection.jetstream(), group, trail)
        suspects = Suspects(connection, connection.jetstream(), group, quarantine)
        pipeline = Pipeline(
            group, database=database, preparation=preparation, answers=answers, turns=turns, suspects=suspects
        )
        for watchdog in (Watchdog(stream, name, connection) for stream, name in config.durables(group)):
            subscribers.append(_subscribe(broker, _sizes(config.handlers).largest, pipeline, watchdog))
            watchdogs.append(watchdog)
    if config.handlers.handler_commands != "canary":
        register(broker, await _queries(config, resources, outside, shares.queries, publisher))
    await broker.start()
    for watchdog, subscriber in zip(watchdogs, subscribers, strict=True):
        watchdog.fetch = fetch.install(
            subscriber,
            connection,
            durable=watchdog.durable,
            batch_size=_sizes(config.handlers).usual,
            lane=_tenant_of,
        )
    return broker, watchdogs


async def _queries(
    config: HandlersConfig, resources: AsyncExitStack, outside: Neighbours, connections: int, publisher: Publisher
) -> Queries:
    """On connections of their own, `connections` to the primary."""
    primary = await resources.enter_async_context(_database(config.database, config.database.database_url, connections))
    replica = None
    if (read_url := config.database.database_read_url) is not None:
        replica = await resources.enter_async_context(_database(config.database, read_url, CONCURRENCY))
    presign = None
    if config.objects is not None:
        presign = (await resources.enter_async_context(StoreKeeper.keeping(config.objects))).presign
    suggest: dict[str, Outside] = {"charge.suggest_codes": outside.suggestions.suggest}
    return Queries(
        primary,
        replica,
        _profile(outside.directory, config.runtime),
        presign=presign,
        outside=suggest,
        audit=QueryAudit(AuditTrail(primary, publisher), config.runtime.region, config.runtime.country_profile),
    )


def _subscribe(broker: NatsBroker, batch_size: int, pipeline: Pipeline, watchdog: Watchdog) -> Any:
    """A batch subscriber that sees raw messages: one that does not parse must not fail its neighbours."""
    subscriber = broker.subscriber(
        durable_configs()[watchdog.stream, watchdog.durable]["filter_subjects"][0],
        stream=JStream(watchdog.stream, declare=False),
        durable=watchdog.durable,
        pull_sub=PullSub(batch_size=batch_size, batch=True, timeout=1.0),
        ack_policy=AckPolicy.MANUAL,
        decoder=_undecoded,
        include_in_schema=False,
    )

    @subscriber
    async def consume(message: IncomingMessage) -> None:
        watchdog.handling(monotonic())
        try:
            messages: Any = message.raw_message  # in batch mode, all of them
            await pipeline.handle(messages)
        finally:
            watchdog.handling(None)

    return subscriber


class _Sizes(NamedTuple):
    """Messages of a fetch: of few tenants, and at most."""

    usual: int
    largest: int


def _sizes(settings: HandlersSettings) -> _Sizes:
    return _Sizes(settings.fetch_batch_size, max(settings.fetch_batch_size, settings.fetch_batch_max))


def _tenant_of(message: Msg) -> str:
    address = parse(message.subject)
    return address.tenant_id if address else ""


async def _undecoded(message: NatsMessage) -> None:
    """The pipeline decodes; FastStream need not."""


def _profile(directory: TenantDirectory, runtime: RuntimeSettings) -> Callable[[str], Awaitable[TenantProfile | Code]]:
    """Queries pass the same admission as commands."""

    async def profile(tenant_id: str) -> TenantProfile | Code:
        found = await directory.profile(tenant_id)
        refusal = admission(found, runtime.region, runtime.country_profile)
        if refusal is not None:
            return refusal.code
        return found if isinstance(found, TenantProfile) else found.code

    return profile


@asynccontextmanager
async def _database(
    settings: DatabaseSettings, url: SecretStr, pool_size: int, session: dict[str, str] | None = None
) -> AsyncIterator[Database]:
    database = Database(
        url,
        application_name="billing-handlers",
        pool_size=pool_size,
        checkout_timeout_seconds=settings.database_pool_timeout_seconds,
        statement_timeout_ms=int(settings.database_statement_timeout_seconds * 1000),
        settings=session,
    )
    try:
        yield database
    finally:
        await database.close()
