"""The job runtime on real servers: heartbeats, retries, dead letters, outages, draining; and how workers report."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import nats
import orjson
import pytest
import pytest_asyncio
from nats.aio.client import Client

from adapters.nats import topology
from adapters.nats.topology import DLQ_STREAM, JOBS_STREAM
from handlers import jobs
from handlers.job_outcomes import JobEnded, JobFailure, Outage, Stopping
from handlers.jobs import JobQueue, JobRunner, JobWork, RetryPolicy
from handlers.reporting import Reporter, ReportTimeout
from schemas.job import ReportJob
from schemas.subjects import job_subject
from tests.fixtures.servers import TEMPLATE
from tests.integration.pipeline_support import stream_messages
from tests.integration.relay_support import until
from tests.integration.statements_support import Office
from tools.stack import Stack
from tools.stack.mesh import Mesh

pytestmark = pytest.mark.timeout(60)
QUEUE, KIND = "gl-export", "gl_export"
QUICK = RetryPolicy(deliveries=3, first_seconds=0.05, longest_seconds=0.1)
Handle = Callable[[JobWork], Awaitable[None]]


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    """The command groups alone: the tests are the workers, and nothing relays the job messages but they."""
    with Mesh.isolated(stack, template=TEMPLATE, roles=("handlers",)) as started:
        yield started


class Bench:
    """A worker's connection, a tenant with a queued job, and a stream to put job messages on."""

    def __init__(self, office: Office, admin: Client, worker: Client, reporter: Reporter, job_id: UUID) -> None:
        self.office, self.admin, self.worker, self.reporter, self.job_id = office, admin, worker, reporter, job_id

    async def put(self, body: bytes | None = None) -> UUID:
        """A job message on the queue; its id."""
        run_id = uuid4()
        await self.admin.jetstream().publish(
            job_subject(self.office.tenant, KIND),
            body if body is not None else orjson.dumps({"job_id": self.job_id}),
            headers={"Nats-Msg-Id": str(run_id)},
        )
        return run_id

    @asynccontextmanager
    async def running(self, handle: Handle, concurrency: int = 1) -> AsyncIterator[None]:
        """A worker with this handler while the block runs; drained at its end."""
        stop, runner = asyncio.Event(), JobRunner(self.worker, self.reporter, retry=QUICK)
        task = asyncio.create_task(runner.run([JobQueue(QUEUE, handle, concurrency)], stop))
        try:
            yield
            assert runner.check() is None
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await task

    async def dead_letters(self) -> list[Any]:
        return await stream_messages(self.admin, DLQ_STREAM, f"billing.v1.dlq.jobs-{QUEUE}.{self.office.tenant}")

    async def unfinished(self) -> int:
        await self.worker.flush()
        info = await self.admin.jetstream().consumer_info(JOBS_STREAM, QUEUE)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def idle(self) -> None:
        async def nothing_left() -> bool:
            return not await self.unfinished()

        await until(nothing_left, 20)

    async def ended(self) -> Any:
        """The job once it has failed. Asked for: without a relay there is no event to wait for."""

        async def failed() -> bool:
            return bool((await self.job())["status"] == "failed")

        await until(failed, 20)
        return await self.job()

    async def job(self) -> Any:
        return await self.office.ask("job.get", job_id=self.job_id)


@pytest_asyncio.fixture
async def bench(mesh: Mesh) -> AsyncIterator[Bench]:
    tenant = mesh.add_tenant(f"t-{uuid.uuid4().hex[:12]}").tenant_id
    admin, worker = await nats.connect(mesh.nats_url("admin")), await nats.connect(mesh.nats_url("worker"))
    try:
        async with Office.of(mesh, tenant) as office, Reporter.on(worker) as reporter:
            yield Bench(office, admin, worker, reporter, await office.run())
    finally:
        await worker.close()
        await admin.close()


class Calls:
    """A handler that notes what it is given and does what it is told, the last thing again and again."""

    def __init__(self, *script: BaseException | None) -> None:
        self.script = list(script)
        self.seen: list[JobWork] = []
        self.times: list[float] = []
        self.last = asyncio.Event()

    async def __call__(self, work: JobWork) -> None:
        self.seen.append(work)
        self.times.append(asyncio.get_running_loop().time())
        step = self.script[min(len(self.seen), len(self.script)) - 1]
        if len(self.seen) >= len(self.script):
            self.last.set()
        if step is not None:
            raise step

    async def done(self) -> None:
        async with asyncio.timeout(20):
            await self.last.wait()


# --- what becomes of a message ----------------------------------------------------------------------------------------


async def test_a_job_is_done_once(bench: Bench) -> None:
    run_id, calls = await bench.put(), Calls(None)
    async with bench.running(calls):
        await calls.done()
    assert [(work.tenant_id, work.run_id) for work in calls.seen] == [(bench.office.tenant, run_id)]
    assert await bench.unfinished() == 0


@pytest.mark.parametrize("ending", [JobEnded(), None], ids=["cancelled", "done"])
async def test_what_has_ended_is_not_given_out_again(bench: Bench, ending: BaseException | None) -> None:
    await bench.put()
    calls = Calls(ending)
    async with bench.running(calls):
        await calls.done()
    assert await bench.unfinished() == 0
    assert await bench.dead_letters() == []


async def test_failed_work_is_retried_later_and_later_then_buried_and_the_job_told(bench: Bench) -> None:
    await bench.put()
    calls = Calls(*[JobFailure("object_store_full", "no room", retryable=True)] * 3)
    async with bench.running(calls):
        job = await bench.ended()
    assert [work.delivery.delivered for work in calls.seen] == [1, 2, 3]
    assert calls.times[1] - calls.times[0] >= 0.05
    assert calls.times[2] - calls.times[1] >= 0.1
    assert (job["status"], job["error_code"], job["error_detail"]) == ("failed", "object_store_full", "no room")
    (letter,) = await bench.dead_letters()
    assert orjson.loads(letter.data) == {"job_id": str(bench.job_id)}
    assert await bench.unfinished() == 0


async def test_what_cannot_succeed_is_failed_at_once(bench: Bench) -> None:
    await bench.put()
    calls = Calls(JobFailure("account_not_found", "1 unknown", retryable=False))
    async with bench.running(calls):
        job = await bench.ended()
    assert (job["error_code"], len(calls.seen)) == ("account_not_found", 1)
    assert await bench.dead_letters() == []  # the job says it all


async def test_a_bug_is_retried_and_its_text_told_to_nobody(bench: Bench) -> None:
    await bench.put()
    async with bench.running(Calls(*[RuntimeError("Zahra owes 5")] * 3)):
        job = await bench.ended()
    assert (job["error_code"], job["error_detail"]) == ("job_failed", "RuntimeError")


async def test_an_outage_uses_no_delivery_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "OUTAGE_BACK_OFF_SECONDS", (0.01, 0.02))
    await bench.put()
    calls = Calls(*[Outage("PostgreSQL"), ReportTimeout("x"), OSError(), TimeoutError(), Outage("again")], None)
    async with bench.running(calls):
        await calls.done()
    assert [work.delivery.delivered for work in calls.seen] == [1] * 6
    assert await bench.unfinished() == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"job_id": 7}', b"\xff"])
async def test_a_message_that_names_no_job_is_buried_unseen(bench: Bench, body: bytes) -> None:
    await bench.put(body)
    await bench.put()
    calls = Calls(None)
    async with bench.running(calls):
        await calls.done()
    assert len(calls.seen) == 1
    assert [letter.data for letter in await bench.dead_letters()] == [body]


async def test_a_job_that_every_worker_died_of_is_not_tried_for_ever(bench: Bench) -> None:
    await bench.put()
    consumer = await bench.admin.jetstream().pull_subscribe_bind(QUEUE, stream=JOBS_STREAM)
    for _ in range(QUICK.deliveries):
        (message,) = await consumer.fetch(1, timeout=10)
        await message.nak()
    calls = Calls(None)
    async with bench.running(calls):
        job = await bench.ended()
    assert (calls.seen, job["error_code"]) == ([], "worker_lost")
    assert len(await bench.dead_letters()) == 1


# --- several at once --------------------------------------------------------------------------------------------------


async def test_a_long_job_is_kept_by_its_heartbeat(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, the server gives the message out again after the ack wait, here after a second."""
    await _set_ack_wait(bench.admin, 1.0)
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.3)
    began = []

    async def long(work: JobWork) -> None:
        began.append(work.delivery.delivered)
        await asyncio.sleep(2.5)  # two and a half ack waits are the test

    try:
        await bench.put()
        async with bench.running(long, concurrency=2):
            await bench.idle()
        assert began == [1]
    finally:
        await _set_ack_wait(bench.admin, topology.JOBS_ACK_WAIT / 1e9)


async def _set_ack_wait(admin: Client, seconds: float) -> None:
    info = await admin.jetstream().consumer_info(JOBS_STREAM, QUEUE)
    info.config.ack_wait = seconds
    await admin.jetstream().add_consumer(JOBS_STREAM, info.config)


async def test_no_more_than_the_slots_are_taken(bench: Bench) -> None:
    go, full, running, most = asyncio.Event(), asyncio.Event(), 0, 0

    async def wait(_work: JobWork) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            full.set()
        await go.wait()
        running -= 1

    for _ in range(5):
        await bench.put()
    async with bench.running(wait, concurrency=2):
        async with asyncio.timeout(20):
            await full.wait()
            info = await bench.admin.jetstream().consumer_info(JOBS_STREAM, QUEUE)
            assert (info.num_ack_pending, info.num_pending) == (2, 3)  # the rest is for other workers
            go.set()
            await bench.idle()
    assert most == 2


async def test_a_draining_worker_hands_over_at_once(bench: Bench) -> None:
    await bench.put()
    begun = asyncio.Event()

    async def until_stopped(work: JobWork) -> None:
        begun.set()
        await work.stopping.wait()
        raise Stopping

    async with bench.running(until_stopped), asyncio.timeout(20):
        await begun.wait()
    calls = Calls(None)
    async with bench.running(calls), asyncio.timeout(5):  # far below the ack wait
        await calls.last.wait()
    assert [work.delivery.delivered for work in calls.seen] == [2]


async def test_what_does_not_come_to_an_end_is_given_back_when_the_worker_stops(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report to command groups that are being stopped too, a store that does not answer: the next worker has it at once."""
    monkeypatch.setattr(jobs, "DRAIN_SECONDS", 0.05)
    await bench.put()
    begun = asyncio.Event()

    async def endless(_work: JobWork) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with bench.running(endless), asyncio.timeout(20):
        await begun.wait()
    calls = Calls(None)
    async with bench.running(calls), asyncio.timeout(5):  # far below the ack wait
        await calls.last.wait()
    assert [work.delivery.delivered for work in calls.seen] == [2]


# --- reporting --------------------------------------------------------------------------------------------------------


def _report(job_id: UUID, total: int | None = None) -> ReportJob:
    return ReportJob(job_id=job_id, status="running", total=total)


async def test_many_reports_at_once_and_each_has_its_own_outcome(bench: Bench) -> None:
    count = 500
    jobs_asked = [bench.job_id, *(uuid4() for _ in range(count - 1))]
    began = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(
        *(bench.reporter.report(bench.office.tenant, "job.report", uuid4(), _report(job_id)) for job_id in jobs_asked)
    )
    seconds = asyncio.get_running_loop().time() - began
    assert outcomes[0].status == "applied"
    assert {outcome.error.code for outcome in outcomes[1:] if outcome.error} == {"job_not_found"}
    assert count / seconds > 20  # one after the other they would be fewer; several hundred on an idle machine


async def test_a_report_that_is_repeated_has_one_effect_and_the_first_outcome(bench: Bench) -> None:
    command_id = uuid4()
    first = await bench.reporter.report(bench.office.tenant, "job.report", command_id, _report(bench.job_id, 3))
    again = await bench.reporter.report(bench.office.tenant, "job.report", command_id, _report(bench.job_id, 3))
    other = await bench.reporter.report(bench.office.tenant, "job.report", command_id, _report(bench.job_id, 4))
    assert (first.status, again.status, again.result) == ("applied", "duplicate", first.result)
    assert other.error is not None
    assert other.error.code == "idempotency_key_reused"
    assert (await bench.job())["total"] == 3


async def test_a_report_outlives_the_handlers_or_says_that_it_timed_out(bench: Bench, mesh: Mesh) -> None:
    handlers = mesh["handlers"]
    handlers.send(signal.SIGSTOP)
    try:
        with pytest.raises(ReportTimeout):
            await bench.reporter.report(
                bench.office.tenant, "job.report", uuid4(), _report(bench.job_id), timeout_seconds=0.5
            )
        waiting = asyncio.create_task(
            bench.reporter.report(bench.office.tenant, "job.report", uuid4(), _report(bench.job_id, 9))
        )
        await bench.worker.flush()
        assert not waiting.done()
    finally:
        handlers.send(signal.SIGCONT)
    assert (await waiting).error is None
    assert (await bench.job())["total"] == 9


async def test_only_workers_may_report(bench: Bench, mesh: Mesh) -> None:
    refused: list[Exception] = []
    refusal = asyncio.Event()

    async def on_error(error: Exception) -> None:
        refused.append(error)
        refusal.set()

    for url in (mesh.tenant_nats_url(bench.office.tenant), mesh.nats_url("shim")):
        refusal.clear()
        client = await nats.connect(url, error_cb=on_error, inbox_prefix=f"_INBOX.{bench.office.tenant}".encode())
        await client.publish(f"billing.v1.cmd.{bench.office.tenant}.job.report", b"{}")
        async with asyncio.timeout(10):
            await refusal.wait()
        await client.close()
    assert all("permissions violation" in str(error).lower() for error in refused)
