"""Credit notes: what they credit per line, and what becomes of money already paid for it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from domain.calendar import fiscal_year
from domain.chart import TAX_PAYABLE
from domain.common import needs_period, needs_series, next_number, period_refusal, receivable, restated
from domain.decision import Accepted, Capability, Command, Decision, Event, LedgerKey, Posting, Rejected, rejected
from domain.entities import (
    Account,
    Allocation,
    CreditNote,
    CreditNoteLine,
    DocumentSeries,
    Entity,
    Invoice,
    InvoiceLine,
    Payment,
)
from domain.invoice import invoice_event, not_open, totals_by_revenue_code
from domain.lookups import (
    ACCOUNT_OF_INVOICE,
    ALLOCATIONS_OF_INVOICE,
    CREDIT_NOTE,
    INVOICE,
    INVOICE_LINES,
    PAYMENTS_OF_INVOICE,
)
from domain.money import proportion
from domain.payment import payment_event, unapplied
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.credit_note import CreditNoteIssued, CreditNoteResult, IssueCreditNote

SERIES = "CN"


class _Credit(NamedTuple):
    line: InvoiceLine
    net_minor: int
    tax_minor: int


class _Release(NamedTuple):
    """Part of a payment that goes back from the invoice to unapplied credit."""

    payment: Payment
    allocation: Allocation


def needs_issue(command: Command[IssueCreditNote]) -> Needs:
    body = command.body
    lookups = (INVOICE, INVOICE_LINES, ALLOCATIONS_OF_INVOICE, PAYMENTS_OF_INVOICE, ACCOUNT_OF_INVOICE)
    return [
        *((lookup, body.invoice_id) for lookup in lookups),
        *([(CREDIT_NOTE, body.credit_note_id)] if body.credit_note_id else []),
        needs_period(command, command.today),
        needs_series(command.tenant, SERIES, command.today),
    ]


def decide_issue(snapshot: Snapshot, command: Command[IssueCreditNote]) -> Decision:
    body = command.body
    if body.lines and len({item.line_number for item in body.lines}) != len(body.lines):
        return rejected(Code.DUPLICATE_REFERENCE, field="lines")
    invoice = snapshot.get(Invoice, body.invoice_id)
    if invoice is None:
        return rejected(Code.INVOICE_NOT_FOUND, invoice_id=str(body.invoice_id))
    if body.credit_note_id and snapshot.get(CreditNote, body.credit_note_id):
        return rejected(Code.ALREADY_EXISTS, credit_note_id=str(body.credit_note_id))
    wanted = _wanted(command, snapshot.find(INVOICE_LINES, invoice.id))
    if isinstance(wanted, Rejected):
        return wanted
    if invoice.status not in ("issued", "settled"):
        return not_open(invoice)
    account = snapshot.get(Account, invoice.account_id, via=(ACCOUNT_OF_INVOICE, invoice.id))
    if account is None or account.status == "closed":
        return rejected(Code.ACCOUNT_CLOSED, account_id=str(invoice.account_id))
    if refusal := period_refusal(snapshot, command, command.today):
        return refusal
    credits = _credits(wanted)
    if isinstance(credits, Rejected):
        return credits
    total = sum(credit.net_minor + credit.tax_minor for credit in credits)
    excess = max(0, total - invoice.open_minor)
    if total == 0 or excess > invoice.paid_minor:
        return rejected(Code.CREDIT_EXCEEDS_INVOICE, invoice_id=str(invoice.id))
    releases = _releases(snapshot, command, invoice, excess)
    return _accepted(snapshot, command, invoice, credits, releases)


def _wanted(
    command: Command[IssueCreditNote], lines: Iterable[InvoiceLine]
) -> list[tuple[InvoiceLine, int | None]] | Rejected:
    """The lines to credit, each with the net asked for or None for what is left of it."""
    by_number = {line.line_number: line for line in sorted(lines, key=lambda line: line.line_number)}
    if command.body.lines is None:
        return [(line, None) for line in by_number.values()]
    wanted: list[tuple[InvoiceLine, int | None]] = []
    for item in command.body.lines:
        if item.line_number not in by_number:
            return rejected(Code.INVOICE_LINE_NOT_FOUND, line_number=item.line_number)
        wanted.append((by_number[item.line_number], item.net_minor))
    return wanted


def _credits(wanted: Iterable[tuple[InvoiceLine, int | None]]) -> list[_Credit] | Rejected:
    """Net and tax credited per line. The last credit of a line takes what is left of its tax, so that credits over all of a
    line sum to it to the minor unit (DOMAIN rule 4)."""
    credits = []
    for line, asked_minor in wanted:
        left_net, left_tax = line.net_minor - line.credited_net_minor, line.tax_minor - line.credited_tax_minor
        net_minor = left_net if asked_minor is None else asked_minor
        if net_minor > left_net:
            return rejected(Code.CREDIT_EXCEEDS_INVOICE, line_number=line.line_number, left_minor=left_net)
        tax = (
            left_tax if net_minor == left_net else min(left_tax, proportion(net_minor, line.net_minor, line.tax_minor))
        )
        if net_minor:
            credits.append(_Credit(line, net_minor, tax))
    return credits


def _releases(snapshot: Snapshot, command: Command[Any], invoice: Invoice, excess_minor: int) -> list[_Release]:
    """Takes `excess_minor` back from the payments allocated to the invoice, the latest first."""
    by_payment: dict[Payment, int] = {}
    for allocation in snapshot.find(ALLOCATIONS_OF_INVOICE, invoice.id):
        payment = snapshot.get(Payment, allocation.payment_id, via=(PAYMENTS_OF_INVOICE, invoice.id))
        if payment is not None:
            by_payment[payment] = by_payment.get(payment, 0) + allocation.amount_minor
    releases = []
    for payment in sorted(by_payment, key=lambda payment: (payment.recorded_at, payment.id), reverse=True):
        amount = min(excess_minor, by_payment[payment])
        if amount <= 0:
            continue
        excess_minor -= amount
        allocation = Allocation(
            id=command.derive("release", str(payment.id)),
            payment_id=payment.id,
            invoice_id=invoice.id,
            amount_minor=-amount,
            cause=command.name,
            effective_on=command.today,
            recorded_at=command.recorded_at,
        )
        releases.append(_Release(payment._replace(allocated_minor=payment.allocated_minor - amount), allocation))
    return releases


def _accepted(
    snapshot: Snapshot,
    command: Command[IssueCreditNote],
    invoice: Invoice,
    credits: list[_Credit],
    releases: list[_Release],
) -> Accepted:
    year = fiscal_year(command.tenant.fiscal_calendar, command.today)
    series, number = next_number(snapshot.get(DocumentSeries, (SERIES, year)), SERIES, year)
    net, tax = sum(credit.net_minor for credit in credits), sum(credit.tax_minor for credit in credits)
    released = -sum(release.allocation.amount_minor for release in releases)
    note = CreditNote(
        id=command.body.credit_note_id or command.derive("credit_note"),
        invoice_id=invoice.id,
        account_id=invoice.account_id,
        number=number,
        issued_on=command.today,
        currency=invoice.currency,
        net_minor=net,
        tax_minor=tax,
        reason=command.body.reason,
        recorded_at=command.recorded_at,
    )
    after = restated(
        invoice._replace(paid_minor=invoice.paid_minor - released, credited_minor=invoice.credited_minor + net + tax)
    )
    result = CreditNoteResult(
        credit_note_id=note.id,
        number=number,
        invoice_id=invoice.id,
        currency=invoice.currency,
        net_minor=net,
        tax_minor=tax,
        total_minor=net + tax,
        released_minor=released,
    )
    writes: list[Entity] = [note, after, series]
    for credit in credits:
        writes.append(CreditNoteLine(note.id, credit.line.line_number, credit.net_minor, credit.tax_minor))
        writes.append(
            credit.line._replace(
                credited_net_minor=credit.line.credited_net_minor + credit.net_minor,
                credited_tax_minor=credit.line.credited_tax_minor + credit.tax_minor,
            )
        )
    for release in releases:
        writes.extend(release)
    issued = CreditNoteIssued(**result.model_dump(), account_id=invoice.account_id)
    events = [Event("credit_note.issued", str(note.id), issued)]
    events += [payment_event("payment.unallocated", release.payment, [release.allocation]) for release in releases]
    if after.status != invoice.status:
        events.append(invoice_event("invoice.settled", after))
    return Accepted(result, tuple(events), tuple(writes), _postings(note, invoice, credits, releases))


def _postings(
    note: CreditNote, invoice: Invoice, credits: list[_Credit], releases: list[_Release]
) -> tuple[Posting, ...]:
    """First what was paid goes back to unapplied credit, then revenue and tax are taken back from the receivable."""
    owed = receivable(invoice)
    postings = [
        Posting(
            owed, unapplied(payment), -allocation.amount_minor, "credit_release", note.id, note.issued_on, payment.id
        )
        for payment, allocation in releases
    ]
    net_by_code, taxes_minor = totals_by_revenue_code(
        (credit.line.revenue_code, credit.net_minor, credit.tax_minor) for credit in credits
    )
    for code, amount in (*net_by_code.items(), (TAX_PAYABLE, taxes_minor)):
        if amount:
            debit = LedgerKey(code, note.currency)
            postings.append(Posting(debit, owed, amount, "credit_note", note.id, note.issued_on, invoice.id))
    return tuple(postings)


CAPABILITIES = {"credit_note.issue": Capability(needs_issue, decide_issue)}
