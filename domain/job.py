"""Jobs: what is asked of the workers, how far they are, and how it ended (docs/decisions/0010)."""

from typing import Any

from domain.decision import Accepted, Capability, Command, Decision, Event, JobMessage, Rejected, rejected
from domain.entities import Entity
from domain.job_entities import GlExport, Job
from domain.lookups import GL_EXPORT, JOB
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.job import CancelJob, JobKind, JobResult, JobView, ReportJob, RetryJob
from schemas.job import JobMessage as JobBody

ENDED = frozenset({"succeeded", "failed", "cancelled"})


def queued(command: Command[Any], kind: JobKind, parameters: dict[str, Any]) -> Job:
    """A new job. `parameters` are JSON values: whatever the worker needs that the command said."""
    return Job(
        id=command.body.job_id or command.derive("job"),
        kind=kind,
        status="queued",
        parameters=parameters,
        total=0,
        done=0,
        failed=0,
        error_code=None,
        error_detail=None,
        recorded_at=command.recorded_at,
        started_at=None,
        finished_at=None,
    )


def job_view(job: Job) -> JobView:
    return JobView(
        job_id=job.id,
        kind=job.kind,
        status=job.status,
        # Sorted, because PostgreSQL gives back an object's keys in an order of its own: the event of a job that was
        # loaded has to be, byte for byte, that of one queued in the same batch.
        parameters=dict(sorted(job.parameters.items())),
        total=job.total,
        done=job.done,
        failed=job.failed,
        error_code=job.error_code,
        error_detail=job.error_detail,
        recorded_at=job.recorded_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def job_event(name: str, job: Job) -> Event:
    return Event(name, str(job.id), job_view(job))


def job_result(job: Job) -> JobResult:
    return JobResult(job_id=job.id, kind=job.kind, status=job.status)


def running(snapshot: Snapshot, job_id: Any) -> Job | Rejected:
    """The job if a worker may still report on it."""
    job = snapshot.get(Job, job_id)
    if job is None:
        return rejected(Code.JOB_NOT_FOUND, job_id=str(job_id))
    if job.status in ENDED:
        return rejected(Code.JOB_FINISHED, job_id=str(job.id), status=job.status)
    return job


def counted(command: Command[Any], job: Job, *, failed: bool) -> Job:
    """The job with one more item; with the last one it has ended, in success as long as any item succeeded."""
    job = job._replace(failed=job.failed + 1) if failed else job._replace(done=job.done + 1)
    if job.done + job.failed < job.total:
        return job
    return job._replace(status="succeeded" if job.done else "failed", finished_at=command.recorded_at)


def needs_cancel(command: Command[CancelJob]) -> Needs:
    return [(JOB, command.body.job_id), (GL_EXPORT, command.body.job_id)]


def decide_cancel(snapshot: Snapshot, command: Command[CancelJob]) -> Decision:
    job = running(snapshot, command.body.job_id)
    if isinstance(job, Rejected):
        return job
    cancelled = job._replace(status="cancelled", finished_at=command.recorded_at)
    return _accepted(snapshot, "job.finished", cancelled)


def needs_retry(command: Command[RetryJob]) -> Needs:
    return [(JOB, command.body.job_id)]


def decide_retry(snapshot: Snapshot, command: Command[RetryJob]) -> Decision:
    """Announces a job again: one that failed, was cancelled, or whose message was lost. What it has recorded stays.

    A GL export that has ended gave its range free: it is asked for anew.
    """
    job = snapshot.get(Job, command.body.job_id)
    if job is None:
        return rejected(Code.JOB_NOT_FOUND, job_id=str(command.body.job_id))
    nothing_left = job.status == "succeeded" or 0 < job.total <= job.done + job.failed
    if nothing_left or (job.kind == "gl_export" and job.status in ENDED):
        return rejected(Code.JOB_FINISHED, job_id=str(job.id), status=job.status)
    if job.status in ENDED:
        job = job._replace(status="queued", error_code=None, error_detail=None, finished_at=None)
    message = JobMessage(job.kind, JobBody(job_id=job.id))
    return Accepted(job_result(job), (job_event("job.queued", job),), (job,), jobs=(message,))


def needs_report(command: Command[ReportJob]) -> Needs:
    return [(JOB, command.body.job_id), (GL_EXPORT, command.body.job_id)]


def decide_report(snapshot: Snapshot, command: Command[ReportJob]) -> Decision:
    """A run with nothing to do reports `succeeded` itself; one with items ends with the last of them."""
    body = command.body
    job = running(snapshot, body.job_id)
    if isinstance(job, Rejected):
        return job
    total = job.total if body.total is None else body.total
    if total < job.done + job.failed:
        return rejected(Code.AMOUNT_OUT_OF_RANGE, total=total, recorded=job.done + job.failed)
    reported = job._replace(
        status=body.status,
        total=total,
        error_code=body.error_code,
        error_detail=body.error_detail,
        started_at=job.started_at or command.recorded_at,
        finished_at=command.recorded_at if body.status in ENDED else None,
    )
    return _accepted(snapshot, "job.finished" if body.status in ENDED else "job.started", reported)


def _accepted(snapshot: Snapshot, event: str, job: Job) -> Accepted:
    writes: list[Entity] = [job]
    if job.kind == "gl_export" and job.status in ("failed", "cancelled"):
        export = snapshot.get(GlExport, job.id)
        writes += [export._replace(status="abandoned")] if export else []
    return Accepted(job_result(job), (job_event(event, job),), tuple(writes))


CAPABILITIES = {
    "job.cancel": Capability(needs_cancel, decide_cancel),
    "job.retry": Capability(needs_retry, decide_retry),
    "job.report": Capability(needs_report, decide_report),
}
