"""Jobs: slow work that a command asks for and workers do (docs/decisions/0010)."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from schemas.base import Code, CommandBody, Cursor, Note, QueryBody, WireModel

JobKind = Literal["statements", "gl_export"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
MAX_ITEMS = 10_000_000  # statements of one run: every account of a national hospital group
Count = Annotated[int, Field(ge=0, le=MAX_ITEMS)]


class CancelJob(CommandBody):
    """What is done stays done; what is not yet begun is left."""

    job_id: UUID
    reason: Note


class RetryJob(CommandBody):
    """Goes on with a job that failed or was cancelled; what it has recorded is not made again."""

    job_id: UUID


class ReportJob(CommandBody):
    """Internal: a worker says how far a job is. `total` is known once the job has been split into items."""

    job_id: UUID
    status: Literal["running", "succeeded", "failed"]
    total: Count | None = None
    error_code: Code | None = None
    error_detail: Note | None = None


class JobMessage(WireModel):
    """What travels on `billing.v1.job.<tenant>.<kind>`: the rest is in the job's row."""

    job_id: UUID


class JobResult(WireModel):
    job_id: UUID
    kind: JobKind
    status: JobStatus


class JobView(JobResult):
    """`total` is 0 until the job has been split; `error_code` is of the job as a whole, items have their own."""

    parameters: dict[str, Any]
    total: int
    done: int
    failed: int
    error_code: Code | None
    error_detail: str | None
    recorded_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class GetJob(QueryBody):
    job_id: UUID


class ListJobs(QueryBody, Cursor):
    kind: JobKind | None = None
    status: JobStatus | None = None


class JobPage(WireModel):
    items: tuple[JobView, ...]
    next_cursor: str | None
