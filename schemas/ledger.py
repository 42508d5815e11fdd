"""The ledger: the two commands that touch it directly, and what can be read of it."""

from datetime import date, datetime
from typing import Literal
from uuid import UUID

from schemas.base import (
    AmountMinor,
    BusinessDate,
    CommandBody,
    Currency,
    Cursor,
    LedgerCode,
    Money,
    Name,
    Note,
    QueryBody,
    WireModel,
)

LedgerAccountKind = Literal["asset", "liability", "revenue", "expense"]


class DefineLedgerAccount(CommandBody):
    """Extends the tenant's chart of accounts."""

    code: LedgerCode
    name: Name
    kind: LedgerAccountKind


class AdjustLedger(CommandBody):
    """A posting by hand, with a reason and the admin scope. Sub-ledgers (1100, 2100) are moved by their documents only."""

    debit_code: LedgerCode
    credit_code: LedgerCode
    amount: Money
    effective_on: BusinessDate | None = None
    reason: Note


class LedgerAccountResult(WireModel):
    code: LedgerCode
    name: Name
    kind: LedgerAccountKind


class AdjustmentResult(WireModel):
    adjustment_id: UUID
    debit_code: LedgerCode
    credit_code: LedgerCode
    amount_minor: AmountMinor
    currency: Currency
    effective_on: date


class TrialBalance(QueryBody):
    """`as_of` left out: the running balances. A date: the sum of postings effective on or before it."""

    as_of: BusinessDate | None = None


class TrialBalanceLine(WireModel):
    code: LedgerCode
    name: Name
    kind: LedgerAccountKind
    currency: Currency
    debits_minor: int
    credits_minor: int


class TrialBalanceView(WireModel):
    as_of: date | None
    lines: tuple[TrialBalanceLine, ...]


class ListTransfers(QueryBody, Cursor):
    account_id: UUID | None = None
    document_id: UUID | None = None


class TransferView(WireModel):
    sequence: int
    transfer_id: UUID
    kind: str
    debit_code: LedgerCode
    credit_code: LedgerCode
    amount_minor: AmountMinor
    currency: Currency
    effective_on: date
    recorded_at: datetime
    document_id: UUID
    reverses_document_id: UUID | None
    hash: str


class TransferPage(WireModel):
    items: tuple[TransferView, ...]
    next_cursor: str | None


class VerifyLedger(QueryBody):
    pass


class Mismatch(WireModel):
    """`check` names the invariant; `subject` the row; no amounts of a patient."""

    check: str
    subject: str
    expected: str
    found: str


class LedgerVerification(WireModel):
    transfers: int
    head_sequence: int
    head_hash: str
    mismatches: tuple[Mismatch, ...]
