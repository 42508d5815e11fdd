"""The rows of jobs and of what they make; entities as in domain/entities.py."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from schemas.gl import ControlTotal, GlExportStatus, GlFile, GlForm
from schemas.job import JobKind, JobStatus
from schemas.statement import StatementStatus
from schemas.tenant import Locale


class Job(NamedTuple):
    """Slow work in progress. `done` and `failed` count items; the command that records the last of `total` ends the job."""

    id: UUID
    kind: JobKind
    status: JobStatus
    parameters: dict[str, Any]
    total: int
    done: int
    failed: int
    error_code: str | None
    error_detail: str | None
    recorded_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def key(self) -> UUID:
        return self.id


class Statement(NamedTuple):
    """One party's statement of a run, stored in the object store, or the reason it could not be made."""

    id: UUID
    job_id: UUID
    account_id: UUID
    party_id: str
    period: str
    status: StatementStatus
    locale: Locale
    currency: str
    opening_minor: int
    closing_minor: int
    due_minor: int
    json_key: str | None
    json_sha256: str | None
    pdf_key: str | None
    pdf_sha256: str | None
    error_code: str | None
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class GlAccount(NamedTuple):
    """The customer's own code for a ledger account."""

    ledger_code: str
    gl_code: str
    gl_name: str
    recorded_at: datetime

    @property
    def key(self) -> str:
        return self.ledger_code


class GlExport(NamedTuple):
    """An export asked for and, once `written`, what it holds; `id` is its job's. `scope` names form and range, so that the same
    export is not made twice by accident. `upto_sequence` is the ledger's last sequence when it was asked for."""

    id: UUID
    scope: str
    status: GlExportStatus
    period: str | None
    form: GlForm
    upto_sequence: int
    transfers: int
    first_sequence: int
    last_sequence: int
    first_hash: str | None
    last_hash: str | None
    totals: tuple[ControlTotal, ...]
    files: tuple[GlFile, ...]
    manifest_key: str | None
    manifest_sha256: str | None
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id
