"""A GL export as a job: the ledger checked while it is read, written in the customer's codes, recorded by `gl.record`.

Every entry of the tenant up to the export's bound goes through the hash chain, in the range or not: an export vouches for the
books it comes from. Any damage ends the job; nothing of it is then to be seen in the object store.
"""

import asyncio
from collections.abc import Callable
from datetime import date
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import structlog

from adapters.gl.files import Files, MissingMapping, Place, Unbalanced, manifest, place
from adapters.gl.layout import GlCodes
from adapters.objects import ObjectStore, ObjectStoreError, Upload
from adapters.postgres import ledger_stream
from adapters.postgres.ledger_stream import Entry, Extent, ReadDatabase
from adapters.postgres.reads import jobs
from adapters.postgres.reads.asking import Asking
from adapters.postgres.statement_rows import Behind
from adapters.postgres.verify import verify_balances
from domain.ids import derived_id
from domain.job import ENDED
from domain.ledger import GENESIS, transfer_hash
from handlers import job_metrics as metrics
from handlers.job_outcomes import JobEnded, JobFailure, Stopping
from handlers.jobs import JobWork
from handlers.reporting import Reporter
from schemas.base import CommandBody
from schemas.codes import Code
from schemas.gl import GlForm, GlFormat, RecordGlExport
from schemas.job import GetJob, JobMessage, JobView, ReportJob
from schemas.outcome import Outcome, Problem

log = structlog.get_logger()

KIND = "gl_export"
# Pages between two looks at whether the job was cancelled: 100,000 entries, a few seconds.
PAGES_PER_LOOK = 50


class LedgerDamaged(Exception):
    """An entry is missing or not what was recorded. `sequence` names it."""

    def __init__(self, sequence: int, what: str) -> None:
        super().__init__(f"ledger entry {sequence}: {what}")
        self.sequence = sequence


class Plan(NamedTuple):
    """What a job's parameters ask for. `upto` is the ledger's last sequence at the request, or the end of a range."""

    scope: str
    period: str | None
    days: tuple[date, date] | None
    first: int
    upto: int
    form: GlForm
    formats: tuple[GlFormat, ...]

    @classmethod
    def of(cls, job: JobView) -> "Plan":
        given = job.parameters
        days = None
        if given["period"] is not None:
            days = (date.fromisoformat(given["starts_on"]), date.fromisoformat(given["ends_on"]))
        first, last = int(given["first_sequence"]), int(given["last_sequence"])
        scope = given["period"] or f"{first}-{last}"
        return cls(scope, given["period"], days, first, last, given["form"], tuple(given["formats"]))

    def has(self, entry: Entry) -> bool:
        transfer = entry.transfer
        if self.days is not None and not self.days[0] <= transfer.effective_on <= self.days[1]:
            return False
        return self.first <= transfer.sequence


class GlExporter:
    """Handles the messages of one queue; `database` is the primary, or a replica that has what the job saw."""

    def __init__(
        self, database: ReadDatabase, store: Callable[[], ObjectStore], reporter: Reporter, region: str
    ) -> None:
        """`store` gives the object store, or raises ObjectStoreError while there is none to be had."""
        self._database, self._store, self._reporter, self._region = database, store, reporter, region

    async def handle(self, work: JobWork) -> None:
        """Raises JobEnded, Stopping, JobFailure, and what an outage of PostgreSQL or of the command groups raises."""
        job = await self._job(work)
        started = ReportJob(job_id=job.job_id, status="running", total=1)
        _accepted(await self._report(work, "job.report", f"started-{work.delivery.delivered}", started))
        recorded = await self._export(work, job)
        _accepted(await self._report(work, "gl.record", "recorded", recorded))
        log.info("gl_exported", tenant_id=work.tenant_id, job_id=str(job.job_id), transfers=recorded.transfers)

    async def _export(self, work: JobWork, job: JobView) -> RecordGlExport:
        try:
            return await self._written(work, job.job_id, Plan.of(job))
        except LedgerDamaged as damage:
            log.error("gl_export_ledger_damaged", tenant_id=work.tenant_id, sequence=damage.sequence)
            raise JobFailure(Code.LEDGER_DAMAGED, str(damage), retryable=False) from None
        except MissingMapping as missing:
            raise JobFailure(Code.GL_MAPPING_MISSING, str(missing), retryable=False) from None
        except Unbalanced as unbalanced:
            raise JobFailure(Code.LEDGER_DAMAGED, str(unbalanced), retryable=False) from None
        except ObjectStoreError as error:
            raise JobFailure(error.code, str(error), retryable=error.retryable) from error

    async def _written(self, work: JobWork, job_id: UUID, plan: Plan) -> RecordGlExport:
        extent, mapping = await self._prepared(work.tenant_id, plan)
        where = place(
            region=self._region,
            tenant_id=work.tenant_id,
            scope=plan.scope,
            form=plan.form,
            formats=plan.formats,
            extent=(extent.first, extent.last),
            mapping=mapping,
        )
        # What a worker that was killed had begun; nobody sees it, but it costs its room.
        store = self._store()
        await store.abandon_uploads(f"{where.folder}/")
        chain = Chain(work.tenant_id)
        async with Files.writing(store, where, plan.form, mapping) as files:
            taken = Taken()
            await self._stream(work, job_id, plan, chain, files, taken)
            chain.reached(plan.upto)
            await self._check_balances(work.tenant_id)
            if (taken.transfers, taken.first, taken.last) != extent:
                raise LedgerDamaged(taken.last, "the range holds other entries than when the export began")
        return await self._recorded(work.tenant_id, job_id, plan, where, files, taken)

    async def _prepared(self, tenant_id: str, plan: Plan) -> tuple[Extent, dict[str, GlCodes]]:
        """What the keys depend on. Raises Behind where this server does not have the whole range yet."""
        async with self._database.reading(tenant_id) as connection:
            known = await ledger_stream.ledger_sequence(connection, tenant_id)
            if known < plan.upto:
                raise Behind
            extent = await ledger_stream.extent(connection, tenant_id, plan.first, plan.upto, plan.days)
            mapped = await ledger_stream.gl_accounts(connection, tenant_id)
        return extent, {code: GlCodes(*codes) for code, codes in mapped.items()}

    async def _stream(
        self, work: JobWork, job_id: UUID, plan: Plan, chain: "Chain", files: Files, taken: "Taken"
    ) -> None:
        page_number = 0
        async for page in ledger_stream.pages(self._database, work.tenant_id, after=0, upto=plan.upto):
            if work.stopping.is_set():
                raise Stopping
            page_number += 1
            if page_number % PAGES_PER_LOOK == 0:
                await self._job(work)
            # In a thread: a page takes 100 ms and more, and heartbeats and the relay share this event loop.
            parts = await asyncio.to_thread(_worked, page, plan, chain, files, taken)
            await files.send(parts)
            metrics.ITEMS.labels(KIND, "read").inc(len(page))

    async def _check_balances(self, tenant_id: str) -> None:
        """After the chain, which names the entry where it is one that is damaged. Raises JobFailure."""
        async with self._database.reading(tenant_id) as connection:
            mismatches = await verify_balances(connection, tenant_id)
        if mismatches:
            first = mismatches[0]
            found = f"{len(mismatches)} mismatches, first {first.check} of {first.subject}: {first.found}"
            raise JobFailure(Code.LEDGER_DAMAGED, found, retryable=False)

    async def _recorded(
        self, tenant_id: str, job_id: UUID, plan: Plan, where: Place, files: Files, taken: "Taken"
    ) -> RecordGlExport:
        """Puts the manifest, with which the export begins to exist for its readers."""
        body = {
            "tenant": tenant_id,
            "region": self._region,
            "period": plan.period,
            "starts_on": plan.days[0].isoformat() if plan.days else None,
            "ends_on": plan.days[1].isoformat() if plan.days else None,
            "form": plan.form,
            "transfers": taken.transfers,
            "first_sequence": taken.first,
            "last_sequence": taken.last,
            "first_hash": taken.first_hash,
            "last_hash": taken.last_hash,
        }
        text = manifest(body, files.stored, files.totals)
        await self._store().put(where.manifest_key, text, content_type="application/json")
        return RecordGlExport(
            job_id=job_id,
            transfers=taken.transfers,
            first_sequence=taken.first,
            last_sequence=taken.last,
            first_hash=taken.first_hash,
            last_hash=taken.last_hash,
            totals=files.totals,
            files=files.stored,
            manifest_key=where.manifest_key,
            manifest_sha256=sha256(text).hexdigest(),
        )

    async def _job(self, work: JobWork) -> JobView:
        """The job's row. Raises JobEnded where there is nothing left to do."""
        job_id = JobMessage.model_validate_json(work.data).job_id
        async with self._database.reading(work.tenant_id) as connection:
            asking = Asking(connection, work.tenant_id, work.delivery.recorded_at.date())
            job = await jobs.get(asking, GetJob(job_id=job_id))
        if isinstance(job, Problem):
            raise JobFailure(Code.JOB_NOT_FOUND, "there is no row of the job", retryable=True)
        if job.status in ENDED:
            raise JobEnded
        return job

    async def _report(self, work: JobWork, name: str, part: str, body: CommandBody) -> Outcome:
        command_id = derived_id(work.tenant_id, work.run_id, work.delivery.recorded_at, part)
        return await self._reporter.report(work.tenant_id, name, command_id, body)


def _worked(page: list[Entry], plan: Plan, chain: "Chain", files: Files, taken: "Taken") -> list[tuple[Upload, bytes]]:
    """One page checked and formatted. Raises LedgerDamaged."""
    for entry in page:
        chain.follow(entry)
    wanted = [entry for entry in page if plan.has(entry)]
    taken.add(wanted)
    return files.formatted(wanted)


class Chain:
    """The hash chain of a tenant, recomputed entry by entry from the first."""

    def __init__(self, tenant_id: str) -> None:
        self._tenant_id = tenant_id
        self._sequence, self._head = 0, GENESIS

    def follow(self, entry: Entry) -> None:
        """Raises LedgerDamaged for an entry that is missing before this one, or that is not what was recorded."""
        transfer = entry.transfer
        if transfer.sequence != self._sequence + 1:
            raise LedgerDamaged(self._sequence + 1, "it is missing")
        expected = transfer_hash(self._head, self._tenant_id, transfer)
        if expected != transfer.hash:
            raise LedgerDamaged(
                transfer.sequence, f"its hash is {transfer.hash.hex()}, and of what it holds {expected.hex()}"
            )
        if entry.debit.code is None or entry.credit.code is None:
            raise LedgerDamaged(transfer.sequence, "one of its ledger accounts does not exist")
        self._sequence, self._head = transfer.sequence, transfer.hash

    def reached(self, upto: int) -> None:
        if self._sequence != upto:
            raise LedgerDamaged(self._sequence + 1, "it is missing")


class Taken:
    """What of the ledger is in the export: how many entries, from where to where. Sequences are 0 where there is none."""

    def __init__(self) -> None:
        self.transfers = self.first = self.last = 0
        self.first_hash: str | None = None
        self.last_hash: str | None = None

    def add(self, entries: list[Entry]) -> None:
        if not entries:
            return
        first, last = entries[0].transfer, entries[-1].transfer
        if not self.transfers:
            self.first, self.first_hash = first.sequence, first.hash.hex()
        self.transfers += len(entries)
        self.last, self.last_hash = last.sequence, last.hash.hex()


def _accepted(outcome: Outcome) -> None:
    """Raises JobEnded where the job was cancelled or recorded meanwhile; JobFailure for any other refusal."""
    if outcome.error is None:
        return
    if outcome.error.code == Code.JOB_FINISHED:
        raise JobEnded
    raise JobFailure(outcome.error.code, outcome.error.message, retryable=False)
