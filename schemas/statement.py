"""Statements: what an account's responsible party is told it owes, as JSON and PDF in the object store."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from schemas.base import (
    MAX_LINES,
    Code,
    CommandBody,
    Currency,
    Cursor,
    NonNegativeMinor,
    PeriodKey,
    QueryBody,
    WireModel,
)
from schemas.tenant import Locale

StatementStatus = Literal["issued", "failed"]
ObjectKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/=-]{0,500}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

BalanceMinor = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]  # as its column holds


class RunStatements(CommandBody):
    """Statements of a period for every account with activity or a balance, or for the accounts named."""

    job_id: UUID | None = None
    period: PeriodKey
    account_ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_LINES)] | None = None


class StatementFile(WireModel):
    key: ObjectKey
    sha256: Sha256
    bytes: NonNegativeMinor


class RecordStatement(CommandBody):
    """Internal: a worker has rendered and stored one party's statement, or could not (`error_code`).

    Amounts are minor units, negative where the party is in credit.
    """

    statement_id: UUID
    job_id: UUID
    account_id: UUID
    party_id: Code
    period: PeriodKey
    locale: Locale
    currency: Currency
    opening_minor: BalanceMinor = 0
    closing_minor: BalanceMinor = 0
    due_minor: NonNegativeMinor = 0
    json_file: StatementFile | None = None
    pdf_file: StatementFile | None = None
    error_code: Code | None = None


class StatementResult(WireModel):
    statement_id: UUID
    status: StatementStatus


class StatementIssued(WireModel):
    statement_id: UUID
    job_id: UUID
    account_id: UUID
    party_id: Code
    period: PeriodKey
    currency: Currency
    closing_minor: int
    due_minor: NonNegativeMinor
    pdf_sha256: Sha256


class GetStatement(QueryBody):
    statement_id: UUID


class ListStatements(QueryBody, Cursor):
    account_id: UUID | None = None
    job_id: UUID | None = None


class StatementSummary(WireModel):
    statement_id: UUID
    job_id: UUID
    account_id: UUID
    party_id: Code
    period: PeriodKey
    status: StatementStatus
    locale: Locale
    currency: Currency
    opening_minor: int
    closing_minor: int
    due_minor: int
    json_sha256: Sha256 | None
    pdf_sha256: Sha256 | None
    error_code: Code | None
    recorded_at: datetime


class StatementView(StatementSummary):
    """The links are presigned and short-lived; absent where the process that answers has no object store."""

    json_url: str | None
    pdf_url: str | None


class StatementPage(WireModel):
    items: tuple[StatementSummary, ...]
    next_cursor: str | None
