"""GL export: the ledger in the customer's own account codes, for the accountants' system."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from schemas.base import (
    CommandBody,
    Currency,
    Cursor,
    LedgerCode,
    Name,
    NonNegativeMinor,
    PeriodKey,
    QueryBody,
    WireModel,
)
from schemas.statement import ObjectKey, Sha256

GlForm = Literal["summary", "detail"]
GlExportStatus = Literal["requested", "written", "abandoned"]
GlFormat = Literal["csv", "jsonl", "parquet"]
GlCode = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/ -]{0,39}$")]
Sequence = Annotated[int, Field(ge=1, le=2**63 - 1)]
# A sum over a period: of a million postings it passes the bound of a single amount.
TotalMinor = Annotated[int, Field(ge=0, le=2**63 - 1)]


class GlMapping(WireModel):
    ledger_code: LedgerCode
    gl_code: GlCode
    gl_name: Name


class MapGlAccounts(CommandBody):
    """Sets the customer's codes for ledger accounts; those not named stay as they are."""

    mappings: Annotated[tuple[GlMapping, ...], Field(min_length=1, max_length=500)]


class GlMapped(WireModel):
    mapped: int


class ExportGl(CommandBody):
    """A closed period, or a range of ledger sequence numbers. `close_period` closes the period with the request, so that nothing
    is posted into it while it is exported; `again` repeats a range that was exported before, byte for byte."""

    job_id: UUID | None = None
    period: PeriodKey | None = None
    first_sequence: Sequence | None = None
    last_sequence: Sequence | None = None
    form: GlForm = "detail"
    formats: Annotated[tuple[GlFormat, ...], Field(min_length=1, max_length=3)] = ("csv",)
    close_period: bool = False
    again: bool = False

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        by_sequence = self.first_sequence is not None and self.last_sequence is not None
        if (self.period is None) != by_sequence:
            raise ValueError("give either period or first_sequence and last_sequence")
        if by_sequence and (self.first_sequence or 0) > (self.last_sequence or 0):
            raise ValueError("first_sequence is after last_sequence")
        if self.close_period and self.period is None:
            raise ValueError("close_period goes with period")
        if len(set(self.formats)) != len(self.formats):
            raise ValueError("formats names one twice")
        return self


class ControlTotal(WireModel):
    """Debits equal credits, or the export would not have been made."""

    currency: Currency
    debits_minor: TotalMinor
    credits_minor: TotalMinor


class GlFile(WireModel):
    format: GlFormat
    key: ObjectKey
    sha256: Sha256
    bytes: NonNegativeMinor
    rows: NonNegativeMinor


class RecordGlExport(CommandBody):
    """Internal: a worker has written an export and its manifest. Sequences are 0 where the range held no rows."""

    job_id: UUID
    transfers: NonNegativeMinor
    first_sequence: NonNegativeMinor
    last_sequence: NonNegativeMinor
    first_hash: Sha256 | None = None
    last_hash: Sha256 | None = None
    totals: tuple[ControlTotal, ...]
    files: Annotated[tuple[GlFile, ...], Field(min_length=1, max_length=3)]
    manifest_key: ObjectKey
    manifest_sha256: Sha256


class GlExported(WireModel):
    job_id: UUID
    period: PeriodKey | None
    form: GlForm
    transfers: int
    first_sequence: int
    last_sequence: int
    totals: tuple[ControlTotal, ...]
    manifest_key: ObjectKey
    manifest_sha256: Sha256


class GetGlExport(QueryBody):
    job_id: UUID


class ListGlExports(QueryBody, Cursor):
    period: PeriodKey | None = None


class GlExportView(GlExported):
    first_hash: Sha256 | None
    last_hash: Sha256 | None
    files: tuple[GlFile, ...]
    recorded_at: datetime


class GlExportPage(WireModel):
    items: tuple[GlExportView, ...]
    next_cursor: str | None
