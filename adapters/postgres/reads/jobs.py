"""Queries about jobs."""

from typing import Any

from sqlalchemy import bindparam, select

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import job
from domain.job import job_view
from domain.job_entities import Job
from schemas.codes import Code
from schemas.job import GetJob, JobPage, JobView, ListJobs
from schemas.outcome import Problem, problem

_JOBS = select(job).where(owned(job))
_JOB = _JOBS.where(job.c.id == bindparam("job_id"))
_NEWEST_FIRST = Keyset.by_time(job.c.recorded_at, job.c.id)


async def get(asking: Asking, query: GetJob) -> JobView | Problem:
    row = (await asking.connection.execute(_JOB, {**asking.parameters, "job_id": query.job_id})).one_or_none()
    return job_view(Job._make(row[1:])) if row is not None else problem(Code.JOB_NOT_FOUND)


async def listed(asking: Asking, query: ListJobs) -> JobPage | Problem:
    statement, parameters = _JOBS, dict[str, Any](asking.parameters)
    if query.kind is not None:
        statement = statement.where(job.c.kind == bindparam("kind"))
        parameters["kind"] = query.kind
    if query.status is not None:
        statement = statement.where(job.c.status == bindparam("status"))
        parameters["status"] = query.status
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    return JobPage(items=tuple(job_view(Job._make(row[1:])) for row in found.rows), next_cursor=found.next_cursor)
