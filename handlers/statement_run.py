"""A statement run as its workers see it: the job's row, the cut of the ledger it is made of, and the ids that follow."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.neighbours.ports import TenantDirectory
from adapters.postgres.database import Database
from adapters.postgres.reads import READS, Asking
from adapters.postgres.statement_rows import Behind, Cut, check_reached
from domain.admission import admission
from domain.ids import derived_id
from domain.job import ENDED
from handlers.job_outcomes import JobEnded, JobFailure, Outage
from schemas.job import GetJob, JobView
from schemas.outcome import Problem
from schemas.tenant import TenantProfile


class Run(NamedTuple):
    """`run_id` is the id of the message that announced the job; `account_ids` None: every account."""

    job_id: UUID
    run_id: UUID
    period: str
    cut: Cut
    recorded_at: datetime
    account_ids: tuple[UUID, ...] | None

    @property
    def made_at(self) -> datetime:
        """The date of its documents, to the second. The job's, not the clock's: rendered again, they are the same bytes."""
        return self.recorded_at.replace(microsecond=0)

    def statement_id(self, account_id: UUID, party_id: str) -> UUID:
        """The same however often the job is tried: a statement that is there is not made again."""
        return self._derived(self.job_id, "statement", str(account_id), party_id)

    def command_id(self, *parts: str) -> UUID:
        """Of this try of the job: a refusal that was final for another try (`job_finished`) says nothing about this one."""
        return self._derived(self.run_id, *parts)

    def _derived(self, source: UUID, *parts: str) -> UUID:
        return derived_id(self.cut.tenant_id, source, self.recorded_at, *parts)


class RunSource:
    """Reads of statement runs, as `billing_read`: one short transaction per page or chunk."""

    def __init__(self, database: Database, directory: TenantDirectory, region: str, country_profile: str) -> None:
        """`region` and `country_profile` are the deployment's (domain.admission)."""
        self._database, self._directory = database, directory
        self._region, self._country_profile = region, country_profile

    async def profile(self, tenant_id: str) -> TenantProfile:
        """The tenant's, admitted as any command's would be. Raises Outage, JobFailure."""
        profile = await self._directory.profile(tenant_id)
        refusal = admission(profile, self._region, self._country_profile)
        if refusal is not None and refusal.retryable:
            raise Outage(refusal.code)
        if refusal is not None or isinstance(profile, Problem):
            code = refusal.code if refusal is not None else "tenant_not_entitled"
            raise JobFailure(code, "the tenant is not admitted", retryable=False)
        return profile

    async def run(self, tenant_id: str, job_id: UUID, run_id: UUID) -> Run:
        """Raises JobEnded where there is nothing left to do, JobFailure where there is no such job."""
        async with self._database.reading(tenant_id) as connection:
            found = await READS["job.get"](Asking(connection, tenant_id, date.min), GetJob(job_id=job_id))
        if not isinstance(found, JobView):
            # A replica may not have it yet; one that nobody has is given up in the end.
            raise JobFailure("job_not_found", "no such job", retryable=True)
        if found.status in ENDED:
            raise JobEnded
        given = found.parameters
        starts_on, ends_on = date.fromisoformat(given["starts_on"]), date.fromisoformat(given["ends_on"])
        cut = Cut(tenant_id, starts_on, ends_on, given["upto_sequence"])
        named = tuple(UUID(account_id) for account_id in given["account_ids"]) if given["account_ids"] else None
        return Run(job_id, run_id, given["period"], cut, found.recorded_at, named)

    @asynccontextmanager
    async def reading(self, cut: Cut) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees the whole cut. Raises Outage where the server has not replayed that far."""
        async with self._database.reading(cut.tenant_id) as connection:
            try:
                await check_reached(connection, cut)
            except Behind:
                raise Outage("the replica is behind") from None
            yield connection
