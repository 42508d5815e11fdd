"""Work that is due by the clock, done by one of the workers: overdue marks, the inbox's clean-up, ledger verification.

The owner holds a session advisory lock; when it dies, another worker has it within OWNERSHIP_POLL_SECONDS and runs everything
at once. Each piece of work may therefore be done twice: marks are commands with derived ids, the rest changes nothing twice.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import structlog

from adapters.neighbours.ports import TenantDirectory
from adapters.postgres.dsn import Dsn
from adapters.postgres.ledger_stream import ReadDatabase
from adapters.postgres.overdue import overdue
from adapters.postgres.owner import SCHEDULES, OwnerSession
from domain.calendar import business_date
from domain.ids import derived_id
from handlers import schedule_metrics as metrics
from handlers.integrity import Integrity
from handlers.job_outcomes import Stopping
from handlers.pacing import paced
from handlers.relay_pump import pause
from handlers.reporting import Reporter
from handlers.stopping import unless_stopped
from schemas.base import MAX_LINES
from schemas.invoice import MarkOverdue
from schemas.tenant import TenantProfile

log = structlog.get_logger()

OWNERSHIP_POLL_SECONDS = 2.0
SESSION_CHECK_SECONDS = 2.0  # how long a lost session, and with it the lock, may go unnoticed
BACK_OFF_SECONDS = 5.0
STATEMENT_TIMEOUT_SECONDS = 60.0  # of the owner's session: one chunk of the inbox's clean-up
INBOX_CHUNK = 10_000
_NO_COMMAND = UUID(int=0)
_FIRST = UUID(int=0)


class Intervals(NamedTuple):
    """How often each schedule runs, and how long outcomes are kept."""

    overdue: timedelta
    verify: timedelta
    verify_full: timedelta
    inbox_cleanup: timedelta
    inbox_retention: timedelta


class Schedule(NamedTuple):
    name: str
    interval: timedelta
    run: Callable[[], Awaitable[None]]


class TenantsSchedule(NamedTuple):
    """Work over all tenants: `run` is given their ids."""

    name: str
    interval: timedelta
    run: Callable[[Sequence[str]], Awaitable[None]]


class Scheduler:
    """`database` reads one tenant at a time; `dsn` is the role `billing_relay`."""

    def __init__(
        self,
        *,
        dsn: Dsn,
        database: ReadDatabase,
        directory: TenantDirectory,
        reporter: Reporter,
        intervals: Intervals,
        more: Sequence["TenantsSchedule"] = (),
    ) -> None:
        """`more`: other schedules of the same owner."""
        self._dsn, self._database, self._directory, self._reporter = dsn, database, directory, reporter
        self._intervals, self._more = intervals, more

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Outages are logged, counted and outlived, never raised."""
        while not stop.is_set():
            try:
                await self._session(stop)
            except Exception as error:  # as for the relay: asyncpg may raise anything when PostgreSQL restarts under it
                metrics.RUNS.labels("session", "lost").inc()
                log.warning("schedules_session_lost", exc_info=error)
                await pause(stop, BACK_OFF_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  jitter

    async def _session(self, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            session = await OwnerSession.open(self._dsn, timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
            await stack.enter_async_context(session)
            while not await session.try_own(SCHEDULES):
                if await pause(stop, OWNERSHIP_POLL_SECONDS * random.uniform(0.5, 1.5)):  # noqa: S311  jitter
                    return
            log.info("schedules_owned")
            metrics.OWNED.set(1)
            stack.callback(metrics.disown)
            await self._own(session, self._schedules(session), stop)

    def _schedules(self, session: OwnerSession) -> list[Schedule]:
        given, integrity = self._intervals, Integrity(self._database, self._intervals.verify_full)

        async def mark() -> None:
            for tenant_id in await session.tenants():
                async with paced():
                    await self.mark_overdue(tenant_id)

        async def verify() -> None:
            await integrity.run(await session.tenants())

        async def clean() -> None:
            older_than = datetime.now(UTC) - given.inbox_retention
            for tenant_id in await session.tenants():
                async with paced():
                    await clean_inbox(session, tenant_id, older_than)

        return [
            Schedule("overdue", given.overdue, mark),
            Schedule("verify", given.verify, verify),
            Schedule("inbox_cleanup", given.inbox_cleanup, clean),
            *(_of_tenants(session, each) for each in self._more),
        ]

    async def _own(self, session: OwnerSession, schedules: Sequence[Schedule], stop: asyncio.Event) -> None:
        """Each schedule by itself, so that a long verification holds no other up. Raises when the session is lost: somebody
        else may be the owner by then."""
        async with asyncio.TaskGroup() as tasks:
            for schedule in schedules:
                tasks.create_task(_keep_running(schedule, stop))
            tasks.create_task(_watch(session, stop))

    async def mark_overdue(self, tenant_id: str) -> int:
        """Commands for the tenant's invoices past due on its own business date; how many were marked."""
        profile = await self._directory.profile(tenant_id)
        if not isinstance(profile, TenantProfile):
            log.warning("overdue_tenant_skipped", tenant_id=tenant_id, code=profile.code)
            return 0
        as_of, after, marked = business_date(profile, datetime.now(UTC)), _FIRST, 0
        while True:
            async with self._database.reading(tenant_id) as connection:
                found = await overdue(connection, tenant_id, as_of, after, MAX_LINES)
            if not found:
                break
            after = found[-1]
            body = MarkOverdue(as_of=as_of, invoice_ids=tuple(found))
            outcome = await self._reporter.report(
                tenant_id, "invoice.mark_overdue", marking_id(tenant_id, as_of, found), body
            )
            if outcome.error is not None:
                log.error("overdue_refused", tenant_id=tenant_id, code=outcome.error.code)
                break
            marked += int((outcome.result or {}).get("marked", 0))
        metrics.OVERDUE_MARKED.inc(marked)
        return marked


def marking_id(tenant_id: str, as_of: date, invoice_ids: Sequence[UUID]) -> UUID:
    """The same invoices on the same day are the same command, whoever asks and how often."""
    day = datetime.combine(as_of, time(), UTC)
    digest = sha256(b"".join(each.bytes for each in invoice_ids)).hexdigest()
    return derived_id(tenant_id, _NO_COMMAND, day, "overdue", as_of.isoformat(), digest)


async def clean_inbox(session: OwnerSession, tenant_id: str, older_than: datetime) -> int:
    """Chunk by chunk, so that no transaction is long; how many rows went."""
    removed = 0
    while count := await session.clean_inbox(tenant_id, older_than, INBOX_CHUNK):
        removed += count
        metrics.INBOX_REMOVED.inc(count)
    return removed


def _of_tenants(session: OwnerSession, given: TenantsSchedule) -> Schedule:
    async def run() -> None:
        await given.run(await session.tenants())

    return Schedule(given.name, given.interval, run)


async def _watch(session: OwnerSession, stop: asyncio.Event) -> None:
    while not await pause(stop, SESSION_CHECK_SECONDS):
        await session.check()


async def _keep_running(schedule: Schedule, stop: asyncio.Event) -> None:
    """At once, and then at its interval, counted from the end of a run."""
    while not stop.is_set():
        # Cut short: the next owner does all of it again, and a round over every tenant may take far longer than a stop may.
        with suppress(Stopping):
            await unless_stopped(_run(schedule), stop)
        await pause(stop, schedule.interval.total_seconds())


async def _run(schedule: Schedule) -> None:
    """One run; what goes wrong waits for the next one and stands in no other schedule's way."""
    try:
        await schedule.run()
    except Exception as error:
        metrics.RUNS.labels(schedule.name, "failed").inc()
        log.error("schedule_failed", schedule=schedule.name, exc_info=error)
        return
    metrics.RUNS.labels(schedule.name, "done").inc()
    metrics.LAST_RUN.labels(schedule.name).set(datetime.now(UTC).timestamp())
