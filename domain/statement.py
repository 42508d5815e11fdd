"""What a statement of account says, as data: pure arithmetic over one party's postings and open invoices.

Amounts are minor units of `currency`, positive where the party owes. Dates are Gregorian; showing them is the renderer's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from typing import NamedTuple, TypeVar
from uuid import UUID

from schemas.account import PartyKind
from schemas.tenant import FiscalCalendar, Locale, StatementProfile, TenantProfile

T = TypeVar("T")
_BUCKET_LAST_DAYS = (0, 30, 60, 90, 120)  # days past due up to which a bucket reaches; the last one has no end


class StatementMismatch(Exception):
    """The rows given contradict each other: ledger and invoices differ, or a row has no place in this statement.

    The message names the check and never an amount: it is logged.
    """


class PartyPosting(NamedTuple):
    """One ledger transfer seen from the party: a debit raises what it owes, a credit lowers it; one of them is 0.

    `sequence` is the transfer's. `document_id` groups the transfers of one act (a payment that was partly allocated).
    """

    sequence: int
    effective_on: date
    kind: str
    document_id: UUID
    document_number: str | None
    description: str | None
    debit_minor: int
    credit_minor: int


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who sends the statement: its name, its legal lines (address, tax number), and how it wants to be paid."""

    name: str
    legal_lines: tuple[str, ...] = ()
    payment_instructions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Addressee:
    """The responsible party. `name` None: known by its id only."""

    party_id: str
    kind: PartyKind
    name: str | None = None
    policy_number: str | None = None


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """One act on one day; `balance_minor` is what was owed after it."""

    effective_on: date
    kind: str
    document_number: str | None
    description: str | None
    debit_minor: int
    credit_minor: int
    balance_minor: int


@dataclass(frozen=True, slots=True)
class OpenInvoice:
    """An issued invoice with something left to pay at the end of the period."""

    number: str
    invoice_date: date
    due_on: date
    total_minor: int
    open_minor: int


@dataclass(frozen=True, slots=True)
class AgingBuckets:
    """What is open by days past due at the end of the period; an invoice due that very day is current."""

    current_minor: int
    days_1_30_minor: int
    days_31_60_minor: int
    days_61_90_minor: int
    days_91_120_minor: int
    over_120_minor: int
    total_minor: int


@dataclass(frozen=True, slots=True)
class Due:
    """What to pay. Unapplied credit counts against the oldest due date first.

    `amount_minor` = `overdue_minor` + what falls due later; `next_due_minor` is the part of it due on `next_due_on`.
    `credit_minor` is what the party has in its favour when nothing is left to pay.
    """

    amount_minor: int
    overdue_minor: int
    next_due_on: date | None
    next_due_minor: int
    credit_minor: int


@dataclass(frozen=True, slots=True)
class StatementContent:
    """opening + Σ debits − Σ credits = closing = Σ open invoices − unapplied credit; the buckets sum to Σ open invoices."""

    reference: str
    issuer: Issuer
    account_id: UUID
    patient: str
    addressee: Addressee
    currency: str
    starts_on: date
    ends_on: date
    opening_minor: int
    activity: tuple[ActivityRow, ...]
    debits_minor: int
    credits_minor: int
    closing_minor: int
    unapplied_credit_minor: int
    open_invoices: tuple[OpenInvoice, ...]
    aging: AgingBuckets
    due: Due


class Subject(NamedTuple):
    """Whose statement it is and for which days, both inclusive. `reference` names the document to its reader."""

    reference: str
    issuer: Issuer
    account_id: UUID
    patient: str
    addressee: Addressee
    currency: str
    starts_on: date
    ends_on: date


def build(
    subject: Subject,
    *,
    opening_minor: int,
    postings: Iterable[PartyPosting],
    open_invoices: Iterable[OpenInvoice],
    unapplied_credit_minor: int = 0,
) -> StatementContent:
    """The statement of one party.

    `postings` are those of the period on the party's receivable, and, where its unapplied credit is shown, on that credit
    too: a transfer between the two then cancels out and makes no row. `opening_minor` is the balance of the same ledger
    accounts the day before; `open_invoices` and `unapplied_credit_minor` are as of the period's last day.
    Raises StatementMismatch where these do not agree.
    """
    activity = _activity(subject, opening_minor, postings)
    debits, credits = sum(row.debit_minor for row in activity), sum(row.credit_minor for row in activity)
    closing = opening_minor + debits - credits
    invoices = tuple(sorted(open_invoices, key=lambda invoice: (invoice.due_on, invoice.number)))
    _check_invoices(invoices, closing, unapplied_credit_minor)
    return StatementContent(
        **subject._asdict(),
        opening_minor=opening_minor,
        activity=activity,
        debits_minor=debits,
        credits_minor=credits,
        closing_minor=closing,
        unapplied_credit_minor=unapplied_credit_minor,
        open_invoices=invoices,
        aging=aging(invoices, subject.ends_on),
        due=due(invoices, subject.ends_on, unapplied_credit_minor),
    )


def issuer(tenant: TenantProfile, locale: Locale) -> Issuer:
    """The tenant as a reader of that language sees it: its lines in that language, else English, else any it has."""
    profile = tenant.statement or StatementProfile()
    return Issuer(
        name=_in_language(profile.names, locale, tenant.name),
        legal_lines=_in_language(profile.legal_lines, locale, ()),
        payment_instructions=_in_language(profile.payment_instructions, locale, ()),
    )


def calendar(tenant: TenantProfile) -> FiscalCalendar:
    """The calendar that a tenant's statements show dates in."""
    chosen = tenant.statement.calendar if tenant.statement else None
    return chosen or tenant.fiscal_calendar


def aging(invoices: Iterable[OpenInvoice], as_of: date) -> AgingBuckets:
    """What is open by days past due on `as_of`."""
    buckets = [0] * (len(_BUCKET_LAST_DAYS) + 1)
    for invoice in invoices:
        days = (as_of - invoice.due_on).days
        buckets[sum(days > last for last in _BUCKET_LAST_DAYS)] += invoice.open_minor
    current, to_30, to_60, to_90, to_120, over_120 = buckets
    return AgingBuckets(current, to_30, to_60, to_90, to_120, over_120, sum(buckets))


def due(invoices: Sequence[OpenInvoice], as_of: date, unapplied_credit_minor: int) -> Due:
    """What to pay and by when, with the credit set against the oldest due date first."""
    left = unapplied_credit_minor
    overdue, later = 0, dict[date, int]()
    for invoice in sorted(invoices, key=lambda invoice: invoice.due_on):
        covered = min(left, invoice.open_minor)
        left -= covered
        if invoice.due_on < as_of:
            overdue += invoice.open_minor - covered
        elif invoice.open_minor > covered:
            later[invoice.due_on] = later.get(invoice.due_on, 0) + invoice.open_minor - covered
    next_due_on = min(later, default=None)
    return Due(
        amount_minor=overdue + sum(later.values()),
        overdue_minor=overdue,
        next_due_on=next_due_on,
        next_due_minor=later[next_due_on] if next_due_on else 0,
        credit_minor=left,
    )


def _activity(subject: Subject, opening_minor: int, postings: Iterable[PartyPosting]) -> tuple[ActivityRow, ...]:
    """A row per act: the transfers of one document on one day and of one kind, in the order of the ledger."""
    acts: dict[tuple[date, UUID, str], list[PartyPosting]] = {}
    for posting in sorted(postings, key=lambda posting: (posting.effective_on, posting.sequence)):
        _check_posting(subject, posting)
        acts.setdefault((posting.effective_on, posting.document_id, posting.kind), []).append(posting)
    nets = [(act[0], sum(posting.debit_minor - posting.credit_minor for posting in act)) for act in acts.values()]
    nets = [(first, net) for first, net in nets if net]
    balances = accumulate((net for _, net in nets), initial=opening_minor)
    next(balances)
    return tuple(
        ActivityRow(
            effective_on=first.effective_on,
            kind=first.kind,
            document_number=first.document_number,
            description=first.description,
            debit_minor=max(net, 0),
            credit_minor=max(-net, 0),
            balance_minor=balance,
        )
        for (first, net), balance in zip(nets, balances, strict=True)
    )


def _check_posting(subject: Subject, posting: PartyPosting) -> None:
    if not subject.starts_on <= posting.effective_on <= subject.ends_on:
        raise StatementMismatch(f"transfer {posting.sequence} is not effective in the statement's period")
    if min(posting.debit_minor, posting.credit_minor) != 0 or max(posting.debit_minor, posting.credit_minor) <= 0:
        raise StatementMismatch(f"transfer {posting.sequence} is neither a debit nor a credit")


def _check_invoices(invoices: Sequence[OpenInvoice], closing_minor: int, unapplied_credit_minor: int) -> None:
    for invoice in invoices:
        if not 0 < invoice.open_minor <= invoice.total_minor:
            raise StatementMismatch(f"invoice {invoice.number} is not open")
    if unapplied_credit_minor < 0:
        raise StatementMismatch("unapplied credit is never negative")
    if sum(invoice.open_minor for invoice in invoices) - unapplied_credit_minor != closing_minor:
        raise StatementMismatch("the closing balance is not what the open invoices, less unapplied credit, sum to")


def _in_language(by_locale: Mapping[Locale, T], locale: Locale, default: T) -> T:
    return by_locale.get(locale) or by_locale.get("en") or next(iter(by_locale.values()), default)
