"""A statement run is split: who gets a statement, counted first, then published in chunks as job messages.

Splitting twice changes nothing: the cut fixes the rows, so that the second split finds the same chunks and gives them the same
message ids. The total is reported before the first chunk, since a run ends with the last of `total`.
"""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import structlog
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.nats.topology import JOBS_STREAM
from adapters.postgres import statement_rows as rows
from domain.statement_parties import balances, payer, recipients
from handlers.job_outcomes import JobEnded, JobFailure, Stopping
from handlers.jobs import JobWork
from handlers.reporting import Reporter
from handlers.statement_run import Run, RunSource
from schemas import headers
from schemas.codes import Code
from schemas.job import JobMessage, ReportJob
from schemas.statement_job import MAX_CHUNK, StatementChunk, StatementItem
from schemas.subjects import job_subject

log = structlog.get_logger()

ITEMS_KIND = "statements-items"
# Accounts whose balances one statement sums up: ~10 ms each of a ledger with a hundred entries an account.
PAGE_ACCOUNTS = 500
PUBLISH_TIMEOUT_SECONDS = 5.0
_SHOWN_UNKNOWN = 5


class StatementSplit:
    """Handles the messages of the queue `statements`."""

    def __init__(self, connection: Client, reporter: Reporter, source: RunSource) -> None:
        self._jetstream = connection.jetstream()
        self._reporter = reporter
        self._source = source

    async def handle(self, work: JobWork) -> None:
        job_id = JobMessage.model_validate_json(work.data).job_id
        run = await self._source.run(work.tenant_id, job_id, work.run_id)
        await self._source.profile(work.tenant_id)
        total = 0
        async for items in self._pages(run, work):
            total += len(items)
        await self._report(run, total)
        if total:
            await self._publish(run, work)
        log.info("statement_run_split", tenant_id=work.tenant_id, job_id=str(job_id), statements=total)

    async def _report(self, run: Run, total: int) -> None:
        """A run that has no statement to make has succeeded with that."""
        body = ReportJob(job_id=run.job_id, status="running" if total else "succeeded", total=total)
        outcome = await self._reporter.report(run.cut.tenant_id, "job.report", run.command_id("split"), body)
        if outcome.error is not None and outcome.error.code is Code.JOB_FINISHED and total:
            raise JobEnded
        if outcome.error is not None and outcome.error.code is not Code.JOB_FINISHED:
            raise JobFailure(outcome.error.code, outcome.error.message, retryable=False)

    async def _publish(self, run: Run, work: JobWork) -> None:
        number = 0
        async for items in self._pages(run, work):
            for start in range(0, len(items), MAX_CHUNK):
                await self._publish_chunk(run, number, tuple(items[start : start + MAX_CHUNK]))
                number += 1

    async def _publish_chunk(self, run: Run, number: int, items: tuple[StatementItem, ...]) -> None:
        """JetStream drops what it has already; a chunk that comes twice all the same finds its statements recorded."""
        await self._jetstream.publish(
            job_subject(run.cut.tenant_id, ITEMS_KIND),
            StatementChunk(job_id=run.job_id, run_id=run.run_id, items=items).model_dump_json().encode(),
            stream=JOBS_STREAM,
            timeout=PUBLISH_TIMEOUT_SECONDS,
            headers={headers.MESSAGE_ID: str(run.command_id("chunk", str(number)))},
        )

    async def _pages(self, run: Run, work: JobWork) -> AsyncIterator[list[StatementItem]]:
        """The statements to make, page by page of accounts, in order of account and party; one page in memory."""
        async for account_ids in self._account_pages(run):
            if work.stopping.is_set():
                raise Stopping
            async with self._source.reading(run.cut) as connection:
                yield await _items(connection, run, account_ids)

    async def _account_pages(self, run: Run) -> AsyncIterator[Sequence[UUID]]:
        if run.account_ids is not None:
            named = sorted(set(run.account_ids))
            for start in range(0, len(named), PAGE_ACCOUNTS):
                yield named[start : start + PAGE_ACCOUNTS]
            return
        after = UUID(int=0)
        while True:
            async with self._source.reading(run.cut) as connection:
                found = await rows.accounts_after(connection, run.cut.tenant_id, after, PAGE_ACCOUNTS)
            if not found:
                return
            yield found
            after = found[-1]


async def _items(connection: AsyncConnection, run: Run, account_ids: Sequence[UUID]) -> list[StatementItem]:
    """Raises JobFailure for accounts asked for by name that nobody opened: a run of half of what was asked helps nobody."""
    accounts = await rows.accounts(connection, run.cut.tenant_id, account_ids)
    if unknown := [account_id for account_id in account_ids if account_id not in accounts]:
        shown = ", ".join(map(str, unknown[:_SHOWN_UNKNOWN]))
        raise JobFailure(Code.ACCOUNT_NOT_FOUND, f"{len(unknown)} unknown: {shown}", retryable=False)
    sub_ledgers = await rows.sub_ledgers(connection, run.cut, account_ids)
    billed = await rows.billed(connection, run.cut.tenant_id, account_ids)
    items = []
    for account_id in account_ids:
        payer_id = payer(accounts[account_id].parties, billed.get(account_id, {}))
        found = balances(sub_ledgers.get(account_id, ()), payer_id)
        for party_id in recipients(found, payer_id, named=run.account_ids is not None):
            items.append(StatementItem(account_id=account_id, party_id=party_id))
    return items
