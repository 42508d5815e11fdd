"""A chunk of a statement run: read set-based, rendered in threads, stored, recorded one by one.

Objects are put before the statement is recorded, under keys that carry their digest: what a recorded statement names is what was
rendered, whatever another worker renders meanwhile, and an object that no statement names is seen by nobody.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from time import perf_counter
from typing import NamedTuple
from uuid import UUID

import structlog

from adapters.documents.errors import DocumentError, LogoUnusable
from adapters.documents.statement import render, to_json
from adapters.objects.errors import ObjectNotFound, ObjectStoreError, ObjectStoreMisplaced
from adapters.objects.store import ObjectStore
from domain.statement import StatementContent, StatementMismatch
from handlers import job_metrics as metrics
from handlers.job_outcomes import JobEnded, JobFailure, Stopping
from handlers.jobs import JobWork
from handlers.reporting import Reporter
from handlers.statement_content import ChunkRows, content_of, load_chunk
from handlers.statement_run import Run, RunSource
from schemas.codes import Code
from schemas.statement import RecordStatement, StatementFile
from schemas.statement_job import StatementChunk, StatementItem
from schemas.tenant import TenantProfile

log = structlog.get_logger()

KIND = "statements"
# What is recorded as the reason of a single statement; the run goes on.
MISMATCH, FAILED = "statement_mismatch", "statement_failed"
# Said of a statement that somebody has recorded already, this worker before a redelivery or another one.
_DONE = (Code.ALREADY_EXISTS, Code.IDEMPOTENCY_KEY_REUSED)


class Documents(NamedTuple):
    pdf: bytes
    pdf_sha256: str
    json: bytes
    json_sha256: str


class _Chunk(NamedTuple):
    """What the statements of one chunk share. `halt` is set by the first of them that cannot go on."""

    work: JobWork
    run: Run
    rows: ChunkRows
    tenant: TenantProfile
    logo: bytes | None
    halt: asyncio.Event


class StatementItems:
    """Handles the messages of the queue `statements-items`. `store` raises ObjectStoreError while there is none."""

    def __init__(
        self,
        reporter: Reporter,
        source: RunSource,
        store: Callable[[], ObjectStore],
        renderers: ThreadPoolExecutor,
        *,
        region: str,
    ) -> None:
        self._reporter, self._source, self._store = reporter, source, store
        self._renderers, self._region = renderers, region

    async def handle(self, work: JobWork) -> None:
        body = StatementChunk.model_validate_json(work.data)
        run = await self._source.run(work.tenant_id, body.job_id, body.run_id)
        tenant = await self._source.profile(work.tenant_id)
        async with self._source.reading(run.cut) as connection:
            rows = await load_chunk(connection, run, body.items)
        logo = await self._logo(tenant)
        chunk = _Chunk(work, run, rows, tenant, logo, asyncio.Event())
        left = [item for item in body.items if run.statement_id(item.account_id, item.party_id) not in rows.recorded]
        metrics.ITEMS.labels(KIND, "skipped").inc(len(body.items) - len(left))
        results = await asyncio.gather(*(self._one(chunk, item) for item in left), return_exceptions=True)
        _raise_worst([result for result in results if isinstance(result, BaseException)])

    async def _one(self, chunk: _Chunk, item: StatementItem) -> None:
        try:
            await self._made(chunk, item)
        except BaseException:
            chunk.halt.set()
            raise

    async def _made(self, chunk: _Chunk, item: StatementItem) -> None:
        """One statement to its end, or the reason why there is none. Raises what stops the chunk."""
        try:
            content = content_of(chunk.run, chunk.rows, item, chunk.tenant)
            documents = await self._rendered(chunk, item, content)
        except (Stopping, OSError, MemoryError):
            raise
        except StatementMismatch:
            return await self._refused(chunk, item, MISMATCH)
        except LogoUnusable as error:
            raise JobFailure(error.code, str(error), retryable=False) from None
        except DocumentError as error:
            return await self._refused(chunk, item, error.code)
        except Exception as error:
            # A bug with this one content: tried again it would fail again, and take the whole run with it.
            log.exception("statement_crashed", tenant_id=chunk.run.cut.tenant_id, error=type(error).__name__)
            return await self._refused(chunk, item, FAILED)
        record = await self._stored(chunk, item, content, documents)
        await self._record(chunk, item, record, "issued")

    async def _rendered(self, chunk: _Chunk, item: StatementItem, content: StatementContent) -> Documents:
        """In a thread: typst lets the others run meanwhile, so the event loop keeps its heartbeats."""
        profile = chunk.tenant.statement
        calendar = (profile and profile.calendar) or chunk.tenant.fiscal_calendar
        locale = chunk.rows.accounts[item.account_id].locale

        def work() -> Documents:
            if chunk.halt.is_set() or chunk.work.stopping.is_set():  # waited for a thread meanwhile
                raise Stopping
            began = perf_counter()
            made = render(content, locale=locale, calendar=calendar, logo=chunk.logo, timestamp=chunk.run.made_at)
            data = to_json(content)
            metrics.RENDER_DURATION.observe(perf_counter() - began)
            return Documents(made.pdf, made.sha256.hex(), data, sha256(data).hexdigest())

        return await asyncio.get_running_loop().run_in_executor(self._renderers, work)

    async def _stored(
        self, chunk: _Chunk, item: StatementItem, content: StatementContent, documents: Documents
    ) -> RecordStatement:
        pdf = await self._put(chunk, item, documents.pdf, documents.pdf_sha256, "pdf", "application/pdf")
        json = await self._put(chunk, item, documents.json, documents.json_sha256, "json", "application/json")
        return self._body(chunk, item).model_copy(
            update={
                "opening_minor": content.opening_minor,
                "closing_minor": content.closing_minor,
                "due_minor": content.due.amount_minor,
                "pdf_file": pdf,
                "json_file": json,
            }
        )

    async def _put(
        self, chunk: _Chunk, item: StatementItem, data: bytes, digest: str, suffix: str, content_type: str
    ) -> StatementFile:
        run = chunk.run
        folder = f"{self._region}/{run.cut.tenant_id}/statements/{run.period}/{run.job_id}"
        key = f"{folder}/{self._id(chunk, item)}.{digest[:16]}.{suffix}"
        try:
            await self._store().put(key, data, content_type=content_type, sha256=bytes.fromhex(digest))
        except ObjectStoreError as error:
            raise _store_failure(error) from error
        return StatementFile(key=key, sha256=digest, bytes=len(data))

    async def _refused(self, chunk: _Chunk, item: StatementItem, code: str) -> None:
        """The error's text is not logged: it may hold amounts, or the characters of a name."""
        statement_id = str(self._id(chunk, item))
        log.warning("statement_not_made", tenant_id=chunk.run.cut.tenant_id, statement_id=statement_id, code=code)
        await self._record(chunk, item, self._body(chunk, item).model_copy(update={"error_code": code}), "failed")

    async def _record(self, chunk: _Chunk, item: StatementItem, body: RecordStatement, outcome: str) -> None:
        command_id = chunk.run.command_id("statement", str(item.account_id), item.party_id)
        answer = await self._reporter.report(chunk.run.cut.tenant_id, "statement.record", command_id, body)
        code = answer.error.code if answer.error is not None else None
        if code is Code.JOB_FINISHED:
            raise JobEnded
        if code is not None and code not in _DONE:
            raise JobFailure(code, f"statement {body.statement_id} was not recorded", retryable=True)
        metrics.ITEMS.labels(KIND, outcome).inc()

    def _body(self, chunk: _Chunk, item: StatementItem) -> RecordStatement:
        account = chunk.rows.accounts[item.account_id]
        return RecordStatement(
            statement_id=self._id(chunk, item),
            job_id=chunk.run.job_id,
            account_id=account.id,
            party_id=item.party_id,
            period=chunk.run.period,
            locale=account.locale,
            currency=account.currency,
        )

    def _id(self, chunk: _Chunk, item: StatementItem) -> UUID:
        return chunk.run.statement_id(item.account_id, item.party_id)

    async def _logo(self, tenant: TenantProfile) -> bytes | None:
        key = tenant.statement.logo_object_key if tenant.statement else None
        if key is None:
            return None
        try:
            return await self._store().get(key)
        except ObjectNotFound:
            raise JobFailure("logo_not_found", f"no object {key}", retryable=False) from None
        except ObjectStoreError as error:
            raise _store_failure(error) from error


def _store_failure(error: ObjectStoreError) -> JobFailure:
    """A denial is retried too: a key that is being rotated, a policy on its way. A bucket in the wrong region is not."""
    return JobFailure(error.code, str(error), retryable=not isinstance(error, ObjectStoreMisplaced))


def _raise_worst(failures: list[BaseException]) -> None:
    """The reason the chunk stops for. Those that only stopped because of another one are not it."""
    order: tuple[type[BaseException], ...] = (asyncio.CancelledError, JobEnded, JobFailure)
    for kind in order:
        for failure in failures:
            if isinstance(failure, kind):
                raise failure
    for failure in failures:
        if not isinstance(failure, Stopping):
            raise failure
    if failures:
        raise failures[0]
