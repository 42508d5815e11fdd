"""Competing workers on BILLING_JOBS: one message at a time into each free slot, alive under a heartbeat, retried, buried.

A message is acknowledged when its effects are recorded, so a kill -9 costs a redelivery after JOBS_ACK_WAIT and repeats command
ids and object keys, never effects. What can be away without anybody being able to say so (PostgreSQL, the command groups) is
waited for in place; only failures of the work itself, and crashes, use deliveries up.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError
from pydantic import BaseModel, ValidationError

from adapters.nats.consumer_state import ConsumerMissing, consumer_state
from adapters.nats.fetch import AdaptiveFetch
from adapters.nats.topology import DLQ_STREAM, JOBS_ACK_WAIT, JOBS_STREAM
from adapters.postgres import errors
from adapters.telemetry import tracing
from domain.ids import derived_id
from handlers import job_metrics as metrics
from handlers.answers import DLQ_TIMEOUT_SECONDS, dead_letter_headers
from handlers.inbound import Delivery, delivery
from handlers.job_outcomes import JobEnded, JobFailure, Outage, Stopping
from handlers.relay_pump import pause
from handlers.reporting import Reporter, ReportTimeout
from handlers.stopping import unless_stopped
from schemas import headers
from schemas.codes import Code
from schemas.job import ReportJob
from schemas.outcome import Outcome, Problem, problem
from schemas.subjects import JOB_PREFIX, TENANT, dlq_subject

log = structlog.get_logger()

# Three heartbeats per ack wait: one may be lost, one may be late.
HEARTBEAT_SECONDS = JOBS_ACK_WAIT / 1e9 / 3
OUTAGE_BACK_OFF_SECONDS = (0.25, 10.0)
# What is in hand has this long to reach a checkpoint when the worker is stopped; well inside SHUTDOWN_GRACE_SECONDS.
DRAIN_SECONDS = 10.0
FETCH_FAILING_SECONDS = 30.0  # as for the command groups: longer than an election, then a restart is the better try
DEPTH_INTERVAL_SECONDS = 5.0
MAX_DETAIL_CHARACTERS = 500
# What a tenant's share of a queue cannot take comes again after about this long. Some hundreds of such messages cost a few
# hundred deliveries a second, each a fraction of a millisecond.
TENANT_BUSY_SECONDS = 1.0

_OUTAGES = (Outage, ReportTimeout, nats_errors.Error, JetStreamError)


class RetryPolicy(NamedTuple):
    """Failed work waits `first_seconds`, doubling to `longest_seconds`, and is given up at delivery number `deliveries`."""

    deliveries: int = 8
    first_seconds: float = 1.0
    longest_seconds: float = 60.0

    def delay_seconds(self, delivered: int) -> float:
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(delivered - 1, 16))


class JobWork(NamedTuple):
    """A job message in hand. `run_id` is its message id: what is reported or published for it derives its ids from that.

    `stopping` is set when the worker drains: work checks it between items and raises Stopping.
    """

    tenant_id: str
    run_id: UUID
    data: bytes
    delivery: Delivery
    stopping: asyncio.Event


class JobOf(BaseModel):
    """Whose job a message is about, whatever else its body has."""

    job_id: UUID


class JobQueue(NamedTuple):
    """One durable of BILLING_JOBS and who handles its messages. `concurrency` is per worker, and so is `per_tenant`: what is
    above that goes back for a moment, so that a tenant whose work is stuck holds up nobody else's.

    `leave`: takes what cannot be done; without it the job of the message's `job_id` is failed, and a message that was tried to
    its end buried.
    """

    durable: str
    handle: Callable[[JobWork], Awaitable[None]]
    concurrency: int = 1
    per_tenant: int | None = None
    body: type[BaseModel] = JobOf
    leave: Callable[[JobWork, JobFailure], Awaitable[None]] | None = None
    retry: RetryPolicy | None = None


class JobRunner:
    """Runs the queues of one worker until `stop`."""

    def __init__(self, connection: Client, reporter: Reporter, *, retry: RetryPolicy | None = None) -> None:
        self._connection = connection
        self._jetstream = connection.jetstream()
        self._reporter = reporter
        self._retry = retry or RetryPolicy()
        self._fetches: dict[str, AdaptiveFetch] = {}

    def check(self) -> str | None:
        """Why a queue is not consumed although it could be, or None: for the liveness probe."""
        for durable, fetch in self._fetches.items():
            since = fetch.failing_since
            if since is not None and self._connection.is_connected and monotonic() - since > FETCH_FAILING_SECONDS:
                return f"fetching {durable} has failed for {monotonic() - since:.0f} s: {fetch.failure}"
        return None

    async def run(self, queues: Sequence[JobQueue], stop: asyncio.Event) -> None:
        """Returns once `stop` is set and what was in hand has reached a checkpoint, with the rest given back."""
        async with asyncio.TaskGroup() as tasks:
            for queue in queues:
                tasks.create_task(self._consume(queue, stop))
            tasks.create_task(self._report_depth(queues, stop))

    async def _consume(self, queue: JobQueue, stop: asyncio.Event) -> None:
        fetch = AdaptiveFetch(None, self._connection, stream=JOBS_STREAM, durable=queue.durable, batch_size=1)
        self._fetches[queue.durable] = fetch
        slots, turns = asyncio.Semaphore(queue.concurrency), TenantTurns(queue.per_tenant)
        draining = asyncio.create_task(drain_on(stop, fetch))
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                await slots.acquire()
                try:
                    (message,) = await fetch.fetch(1)
                except nats_errors.TimeoutError:
                    slots.release()
                    continue
                tenant_id = _tenant_of(message)
                if not turns.take(tenant_id):
                    slots.release()
                    await self._back_for_a_moment(queue, message)
                    continue
                working = tasks.create_task(self._one(queue, message, stop))
                working.add_done_callback(partial(turns.done, tenant_id, slots))
        await draining

    async def _one(self, queue: JobQueue, message: Msg, stop: asyncio.Event) -> None:
        """Handles one message to its end. Raises nothing: what cannot be said now is said at the next delivery."""
        in_flight, began = metrics.IN_FLIGHT.labels(queue.durable), monotonic()
        in_flight.inc()
        try:
            parent = (message.headers or {}).get(headers.TRACEPARENT)
            with tracing.span(f"job {queue.durable}", "consumer", traceparent=parent):
                async with heartbeat(message):
                    outcome = await unless_stopped(self._handle(queue, message, stop), stop, DRAIN_SECONDS)
                tracing.annotate({"billing.outcome": outcome})
        except Stopping:
            with suppress(nats_errors.Error):
                await message.nak()
            outcome = "given_back"
        except (nats_errors.Error, JetStreamError, OSError, TimeoutError) as error:
            log.warning("job_not_answered", queue=queue.durable, error=type(error).__name__)
            outcome = "unanswered"
        except Exception as error:
            log.exception("job_crashed", queue=queue.durable, error=type(error).__name__)
            outcome = "crashed"
            with suppress(nats_errors.Error):
                await message.nak(delay=self._retry.longest_seconds)
        finally:
            in_flight.dec()
        metrics.JOBS.labels(queue.durable, outcome).inc()
        metrics.DURATION.labels(queue.durable).observe(monotonic() - began)

    async def _handle(self, queue: JobQueue, message: Msg, stop: asyncio.Event) -> str:
        found = delivery(message.reply)
        work = _work(queue, message, found, stop)
        if isinstance(work, Problem):
            await self._bury(queue, message, found, work)
            return "malformed"
        if found.delivered > self._retry_of(queue).deliveries:
            failure = JobFailure(
                "worker_lost", "every worker that took the job ended before it was done", retryable=False
            )
            return await self._give_up(queue, message, work, failure)
        try:
            await self._work(queue, work)
        except JobEnded:
            await message.ack()
            return "ended"
        except Stopping:
            await message.nak()
            return "given_back"
        except JobFailure as failure:
            return await self._failed(queue, message, work, failure)
        except Exception as error:
            log.exception("job_failed", **_ids(queue, work), error=type(error).__name__)
            unknown = JobFailure("job_failed", type(error).__name__, retryable=True)
            return await self._failed(queue, message, work, unknown)
        await message.ack()
        return "done"

    async def _work(self, queue: JobQueue, work: JobWork) -> None:
        """Waits outages out, for as long as they last."""
        back_off, longest = OUTAGE_BACK_OFF_SECONDS
        while True:
            try:
                return await queue.handle(work)
            except Exception as error:
                if not (isinstance(error, _OUTAGES) or errors.transient(error)):
                    raise
                log.warning("job_waits", **_ids(queue, work), error=type(error).__name__)
            if await pause(work.stopping, back_off):
                raise Stopping
            back_off = min(2 * back_off, longest)

    async def _failed(self, queue: JobQueue, message: Msg, work: JobWork, failure: JobFailure) -> str:
        delivered = work.delivery.delivered
        retry = self._retry_of(queue)
        if failure.retryable and delivered < retry.deliveries:
            delay = retry.delay_seconds(delivered)
            log.warning("job_retried", **_ids(queue, work), code=failure.code, delay_seconds=delay)
            await message.nak(delay=delay)
            return "retried"
        return await self._give_up(queue, message, work, failure)

    async def _give_up(self, queue: JobQueue, message: Msg, work: JobWork, failure: JobFailure) -> str:
        """The job is told; a message whose work was tried and tried again is kept with its body for people to look at."""
        if queue.leave is not None:
            await queue.leave(work, failure)
            await message.ack()
            return "left"
        await self._report_failed(work, failure)
        if work.delivery.delivered >= self._retry.deliveries:
            details = {"failure": failure.code}
            await self._bury(queue, message, work.delivery, problem(Code.COMMAND_FAILED, failure.detail, **details))
        else:
            await message.ack()
        return "failed"

    async def _report_failed(self, work: JobWork, failure: JobFailure) -> None:
        job_id = JobOf.model_validate_json(work.data).job_id
        # Per message, not per job: after a retry another message may fail the job again.
        command_id = derived_id(work.tenant_id, work.run_id, work.delivery.recorded_at, "failed")
        detail = failure.detail[:MAX_DETAIL_CHARACTERS]
        body = ReportJob(job_id=job_id, status="failed", error_code=failure.code, error_detail=detail)
        outcome = await self._reporter.report(work.tenant_id, "job.report", command_id, body)
        log.error(
            "job_given_up",
            tenant_id=work.tenant_id,
            job_id=str(job_id),
            command_id=str(command_id),
            code=failure.code,
            told=_code(outcome) or "yes",
        )

    async def _bury(self, queue: JobQueue, message: Msg, found: Delivery, why: Problem) -> None:
        tenant_id = _tenant_of(message)
        log.warning(
            "job_dead_lettered",
            queue=queue.durable,
            tenant_id=tenant_id,
            run_id=(message.headers or {}).get(headers.MESSAGE_ID),
            code=why.code,
            stream_sequence=found.stream_sequence,
        )
        await self._jetstream.publish(
            dlq_subject(f"jobs-{queue.durable}", tenant_id),
            message.data,
            timeout=DLQ_TIMEOUT_SECONDS,
            stream=DLQ_STREAM,
            headers=dead_letter_headers(message, found, f"jobs-{queue.durable}", why),
        )
        await message.term()

    def _retry_of(self, queue: JobQueue) -> RetryPolicy:
        return queue.retry or self._retry

    async def _back_for_a_moment(self, queue: JobQueue, message: Msg) -> None:
        metrics.JOBS.labels(queue.durable, "tenant_busy").inc()
        with suppress(nats_errors.Error):  # disconnected: it comes again after its ack wait
            await message.nak(delay=TENANT_BUSY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  jitter

    async def _report_depth(self, queues: Sequence[JobQueue], stop: asyncio.Event) -> None:
        while not stop.is_set():
            for queue in queues:
                with suppress(ConsumerMissing, nats_errors.Error, TimeoutError):
                    state = await consumer_state(self._connection, JOBS_STREAM, queue.durable)
                    metrics.DEPTH.labels(queue.durable).set(state.depth)
                    metrics.OLDEST_AGE.labels(queue.durable).set(state.oldest_age_seconds(datetime.now(UTC)))
            await pause(stop, DEPTH_INTERVAL_SECONDS)


class TenantTurns:
    """How many messages of each tenant one queue has in hand. `limit` None: any number."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._in_hand: dict[str, int] = {}

    def take(self, tenant_id: str) -> bool:
        taken = self._in_hand.get(tenant_id, 0)
        if self._limit is not None and taken >= self._limit:
            return False
        self._in_hand[tenant_id] = taken + 1
        return True

    def done(self, tenant_id: str, slots: asyncio.Semaphore, _work: "asyncio.Task[None]") -> None:
        self._in_hand[tenant_id] -= 1
        if not self._in_hand[tenant_id]:
            del self._in_hand[tenant_id]
        slots.release()


def _tenant_of(message: Msg) -> str:
    """As the subject says; `_` for one that names none, which is buried."""
    tokens = message.subject.split(".")
    return tokens[3] if len(tokens) > 3 else "_"


async def drain_on(stop: asyncio.Event, fetch: AdaptiveFetch) -> None:
    await stop.wait()
    with suppress(nats_errors.Error):  # disconnected: the server gives out again what it sent
        await fetch.drain()


@asynccontextmanager
async def heartbeat(message: Msg) -> AsyncIterator[None]:
    """Tells the server that the message is being worked on, so that it is not given to another worker."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            with suppress(nats_errors.Error):
                await message.in_progress()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


def _work(queue: JobQueue, message: Msg, found: Delivery, stop: asyncio.Event) -> JobWork | Problem:
    tokens = message.subject.split(".")
    run_id = headers.command_id((message.headers or {}).get(headers.MESSAGE_ID))
    if not message.subject.startswith(f"{JOB_PREFIX}.") or len(tokens) != 5 or not TENANT.fullmatch(tokens[3]):
        return problem(Code.MALFORMED_COMMAND, "the subject is not that of a job")
    if run_id is None:
        return problem(Code.MESSAGE_ID_MISSING)
    try:
        queue.body.model_validate_json(message.data)
    except ValidationError:
        return problem(Code.MALFORMED_COMMAND, "the body names no job")
    return JobWork(tokens[3], run_id, message.data, found, stop)


def _ids(queue: JobQueue, work: JobWork) -> dict[str, str]:
    return {"queue": queue.durable, "tenant_id": work.tenant_id, "run_id": str(work.run_id)}


def _code(outcome: Outcome) -> str | None:
    return outcome.error.code.value if outcome.error is not None else None
