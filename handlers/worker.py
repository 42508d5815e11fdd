"""The `worker` role: the outbox relay, the jobs and the schedules, until asked to stop."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

import structlog
from nats.aio.client import Client

from adapters.gateways.provider import Gateways
from adapters.nats.batch_publish import Publisher
from adapters.nats.connection import connect
from adapters.nats.login import login_of
from adapters.nats.tls import tls_of
from adapters.nats.topology import JOB_QUEUES
from adapters.neighbours.ports import TenantDirectory
from adapters.postgres import contact
from adapters.postgres.database import Database
from adapters.settings import (
    DatabaseSettings,
    FhirSettings,
    GatewaySettings,
    NatsSettings,
    ObjectStoreSettings,
    RuntimeSettings,
    WorkerSettings,
)
from adapters.telemetry.probes import Check, probes
from handlers.fhir_events import FhirEvents, PushPolicy
from handlers.fhir_push import Pusher
from handlers.gateway_circuits import CircuitReports
from handlers.gateway_jobs import GATEWAY_RETRY, GatewayJobs
from handlers.gateway_recovery import GatewayRecovery, Patience
from handlers.gl_export import GlExporter
from handlers.jobs import JobQueue, JobRunner, RetryPolicy
from handlers.neighbours import fhir_gateway, neighbours
from handlers.relay import run_relay
from handlers.reporting import Reporter
from handlers.schedules import Intervals, Scheduler, TenantsSchedule
from handlers.statement_items import StatementItems
from handlers.statement_run import RunSource
from handlers.statement_split import StatementSplit
from handlers.store_keeper import StoreKeeper
from schemas.hold import GatewayJob

log = structlog.get_logger()


class WorkerConfig(NamedTuple):
    """The settings the role reads. Without `objects` it runs no jobs that write files; without `gateways` it asks no payment
    gateway."""

    runtime: RuntimeSettings
    database: DatabaseSettings
    nats: NatsSettings
    worker: WorkerSettings
    objects: ObjectStoreSettings | None = None
    gateways: GatewaySettings | None = None
    fhir: FhirSettings | None = None


async def run_worker(config: WorkerConfig, stop: asyncio.Event) -> bool:
    """Relays and works until `stop` is set. Returns False where NATS closed the connection for good."""
    closed_by_server = asyncio.Event()

    async def on_closed() -> None:
        if not stop.is_set():
            closed_by_server.set()
            stop.set()

    contact.use_file(config.database.contact_keys)
    connection = await connect(
        config.nats.servers,
        login=login_of(config.nats),
        tls=tls_of(config.nats),
        name="billing-worker",
        on_closed=on_closed,
    )
    try:
        async with AsyncExitStack() as resources:
            database = await resources.enter_async_context(_read_database(config.database))
            reporter = await resources.enter_async_context(Reporter.on(connection))
            outside = neighbours(config.runtime)
            resources.push_async_callback(outside.aclose)
            runner, queues = await _jobs(config, connection, database, reporter, outside.directory, resources)
            charging = await _charging(config, database, reporter, outside.directory, resources)
            if charging is not None:
                queues = [*queues, charging.queue]
            scheduler = _scheduler(config, database, reporter, outside.directory, charging)
            fhir = await _fhir(config, connection, database, outside.directory, resources)
            liveness: dict[str, Check] = {"jobs": runner.check} if queues else {}
            if fhir is not None:
                liveness["fhir"] = fhir.check
            await resources.enter_async_context(
                probes(
                    config.runtime.metrics_port,
                    host=config.runtime.metrics_host,
                    liveness=liveness,
                    readiness={"nats": lambda: None if connection.is_connected else "not connected"},
                )
            )
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_relay(config, connection, stop))
                tasks.create_task(scheduler.run(stop))
                if fhir is not None:
                    tasks.create_task(fhir.run(stop))
                if queues:
                    tasks.create_task(runner.run(queues, stop))
                if charging is not None:
                    tasks.create_task(charging.circuits.run(stop))
                log.info("worker_started", shard_groups=config.worker.relay_shards, queues=[q.durable for q in queues])
    finally:
        stop.set()
        await connection.close()
    log.info("worker_stopped")
    return not closed_by_server.is_set()


async def _relay(config: WorkerConfig, connection: Client, stop: asyncio.Event) -> None:
    dsn = config.database.database_relay_url or config.database.database_url
    await run_relay(
        dsn=dsn,
        nats_connection=connection,
        stop=stop,
        groups=config.worker.relay_shards,
        batch_size=config.worker.relay_batch_size,
        poll_min_seconds=config.worker.relay_poll_min_seconds,
        poll_max_seconds=config.worker.relay_poll_max_seconds,
    )


class Charging(NamedTuple):
    """What a worker does with payment gateways."""

    queue: JobQueue
    schedules: tuple[TenantsSchedule, ...]
    circuits: CircuitReports


async def _charging(
    config: WorkerConfig,
    database: Database,
    reporter: Reporter,
    directory: TenantDirectory,
    resources: AsyncExitStack,
) -> Charging | None:
    settings = config.gateways
    if settings is None:
        return None
    circuits = CircuitReports(reporter)
    gateways = Gateways(settings, config.runtime.open_secrets(), on_circuit=circuits.changed)
    resources.push_async_callback(gateways.aclose)
    jobs = GatewayJobs(database, directory, gateways, reporter)
    patience = Patience.of(timedelta(seconds=settings.gateway_silent_seconds))
    recovery = GatewayRecovery(database, directory, gateways, reporter, patience)
    return Charging(
        JobQueue(
            "gateway",
            jobs.handle,
            settings.gateway_job_concurrency,
            per_tenant=settings.gateway_concurrency,
            body=GatewayJob,
            leave=jobs.leave,
            retry=GATEWAY_RETRY,
        ),
        (
            TenantsSchedule(
                "gateway_recovery", timedelta(seconds=settings.gateway_recovery_interval_seconds), recovery.run
            ),
            TenantsSchedule(
                "hold_expiry", timedelta(seconds=settings.gateway_expiry_interval_seconds), recovery.expire
            ),
        ),
        circuits,
    )


def _scheduler(
    config: WorkerConfig,
    database: Database,
    reporter: Reporter,
    directory: TenantDirectory,
    charging: Charging | None,
) -> Scheduler:
    given, dsn = config.worker, config.database.database_relay_url or config.database.database_url
    return Scheduler(
        dsn=dsn,
        database=database,
        directory=directory,
        reporter=reporter,
        intervals=Intervals(
            overdue=timedelta(seconds=given.overdue_interval_seconds),
            verify=timedelta(seconds=given.verify_interval_seconds),
            verify_full=timedelta(seconds=given.verify_full_interval_seconds),
            inbox_cleanup=timedelta(seconds=given.inbox_cleanup_interval_seconds),
            inbox_retention=timedelta(days=given.inbox_retention_days),
        ),
        more=charging.schedules if charging is not None else (),
    )


async def _jobs(
    config: WorkerConfig,
    connection: Client,
    database: Database,
    reporter: Reporter,
    directory: TenantDirectory,
    resources: AsyncExitStack,
) -> tuple[JobRunner, list[JobQueue]]:
    """The queues this worker consumes, with what they need open for as long as `resources`."""
    retry = RetryPolicy(config.worker.job_max_deliveries, config.worker.job_retry_first_seconds)
    runner = JobRunner(connection, reporter, retry=retry)
    if config.objects is None:
        log.warning("jobs_not_run", queues=list(JOB_QUEUES), unset="OBJECT_STORE_BUCKET")
        return runner, []
    keeper = await resources.enter_async_context(StoreKeeper.keeping(config.objects))
    source = RunSource(database, directory, config.runtime.region, config.runtime.country_profile)
    threads = config.worker.render_threads or os.cpu_count() or 1
    renderers = resources.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="render"))
    exports = GlExporter(database, lambda: keeper.store, reporter, config.runtime.region)
    split = StatementSplit(connection, reporter, source)
    items = StatementItems(reporter, source, lambda: keeper.store, renderers, region=config.runtime.region)
    return runner, [
        JobQueue("statements", split.handle),
        JobQueue("gl-export", exports.handle),
        JobQueue("statements-items", items.handle, config.worker.job_concurrency),
    ]


async def _fhir(
    config: WorkerConfig,
    connection: Client,
    database: Database,
    directory: TenantDirectory,
    resources: AsyncExitStack,
) -> FhirEvents | None:
    """None where there is no gateway: then the events wait in their stream."""
    gateway = fhir_gateway(config.fhir) if config.fhir is not None else None
    if gateway is None or config.fhir is None:
        log.warning("fhir_not_pushed", unset="FHIR_GATEWAY_URL")
        return None
    resources.push_async_callback(gateway.aclose)
    publisher = await resources.enter_async_context(Publisher(connection))
    policy = PushPolicy(
        concurrency=config.fhir.fhir_concurrency,
        tenant_concurrency=config.fhir.fhir_tenant_concurrency,
        tries=config.fhir.fhir_max_tries,
        first_seconds=config.fhir.fhir_retry_first_seconds,
    )
    region, country = config.runtime.region, config.runtime.country_profile
    return FhirEvents(connection, publisher, Pusher(database, gateway), directory, region, country, policy)


@asynccontextmanager
async def _read_database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """Workers only read; they write through commands (docs/decisions/0010)."""
    database = Database(
        settings.database_read_url or settings.database_url,
        application_name="billing-worker",
        pool_size=settings.database_pool_size,
        checkout_timeout_seconds=settings.database_pool_timeout_seconds,
        statement_timeout_ms=int(settings.database_statement_timeout_seconds * 1000),
    )
    try:
        yield database
    finally:
        await database.close()
