"""Billing accounts (FHIR Account): who is billed, in what currency, and who pays which share."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from schemas.base import BasisPoints, Code, CommandBody, Currency, Cursor, FhirReference, Name, QueryBody, WireModel
from schemas.tenant import Locale

PartyKind = Literal["patient", "relative", "employer", "insurer", "sponsor", "hospital"]
AccountStatus = Literal["open", "closed"]


class Party(WireModel):
    """A responsible party and its share of every charge, in basis points; shares of an account sum to 10,000."""

    party_id: Code
    kind: PartyKind
    share_basis_points: BasisPoints
    name: Name | None = None
    reference: FhirReference | None = None
    policy_number: Code | None = None


Parties = Annotated[tuple[Party, ...], Field(min_length=1, max_length=20)]


class OpenAccount(CommandBody):
    """`parties` left out means the patient pays everything."""

    account_id: UUID | None = None
    patient: FhirReference
    guarantor: Name | None = None
    currency: Currency
    locale: Locale = "en"
    parties: Parties | None = None


class UpdateAccount(CommandBody):
    """Fields left out stay as they are. New shares apply to invoices created from now on; `reopen` opens a closed account."""

    account_id: UUID
    guarantor: Name | None = None
    locale: Locale | None = None
    parties: Parties | None = None
    reopen: bool = False


class CloseAccount(CommandBody):
    account_id: UUID


class AccountResult(WireModel):
    account_id: UUID
    status: AccountStatus


class AccountEvent(WireModel):
    account_id: UUID
    patient: FhirReference
    currency: Currency
    status: AccountStatus
    parties: tuple[Party, ...]


class GetAccount(QueryBody):
    account_id: UUID


class ListAccounts(QueryBody, Cursor):
    patient: FhirReference | None = None
    status: AccountStatus | None = None


class AccountView(WireModel):
    account_id: UUID
    patient: FhirReference
    guarantor: Name | None
    currency: Currency
    locale: Locale
    status: AccountStatus
    parties: tuple[Party, ...]
    opened_at: datetime


class AccountPage(WireModel):
    items: tuple[AccountView, ...]
    next_cursor: str | None


class PartyBalance(WireModel):
    party_id: str
    receivable_minor: int


class AccountBalance(WireModel):
    """Receivable per party (open invoices) and unapplied credit, in minor units. `held_minor`: charges whose money has not come
    in and may still do so; it is in no other figure."""

    account_id: UUID
    currency: Currency
    receivable_minor: int
    unapplied_credit_minor: int
    uninvoiced_minor: int
    held_minor: int
    parties: tuple[PartyBalance, ...]


class AccountActivity(QueryBody, Cursor):
    """The ledger entries that touch an account's receivables and credit, newest first."""

    account_id: UUID
