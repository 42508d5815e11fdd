"""Invoices: drafted per responsible party, numbered and posted at issue, voided or written off."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from domain.calendar import fiscal_year, tenant_period
from domain.chart import BAD_DEBT, TAX_PAYABLE
from domain.common import (
    closed,
    needs_chart,
    needs_period,
    needs_series,
    next_number,
    period_refusal,
    receivable,
    restated,
    unknown_ledger_code,
)
from domain.decision import Accepted, Capability, Command, Decision, Event, LedgerKey, Posting, Rejected, rejected
from domain.entities import Account, Charge, DocumentSeries, Invoice, InvoiceLine, Period
from domain.lookups import (
    ACCOUNT,
    CHARGE,
    CHARGES_OF_GROUP,
    CHARGES_OF_INVOICE,
    GROUP_OF_INVOICE,
    INVOICE,
    INVOICE_LINES,
    INVOICES_OF_GROUP,
    PERIOD_OF_INVOICE,
    SERIES_OF_INVOICE,
)
from domain.money import extend, share_out
from domain.snapshot import Needs, Snapshot
from domain.tax import rate_basis_points, tax_minor
from schemas.account import Party
from schemas.base import MAX_AMOUNT_MINOR
from schemas.codes import Code
from schemas.invoice import (
    CreateInvoice,
    InvoiceDocument,
    InvoiceEvent,
    InvoicesResult,
    IssueInvoice,
    VoidInvoice,
    WriteOffInvoice,
)
from schemas.pricelist import TaxCategory

SERIES = "INV"


class _Item(NamedTuple):
    """What a line is made from, before it is split between parties."""

    charge_id: UUID | None
    description: str
    quantity: Decimal
    net_minor: int
    tax_category: TaxCategory
    revenue_code: str
    service_date: date


def document(invoice: Invoice) -> InvoiceDocument:
    return InvoiceDocument(
        invoice_id=invoice.id,
        party_id=invoice.party_id,
        status=invoice.status,
        number=invoice.number,
        currency=invoice.currency,
        net_minor=invoice.net_minor,
        tax_minor=invoice.tax_minor,
        total_minor=invoice.total_minor,
        open_minor=invoice.open_minor,
    )


def invoice_event(name: str, invoice: Invoice) -> Event:
    data = InvoiceEvent(
        **document(invoice).model_dump(),
        invoice_group_id=invoice.invoice_group_id,
        account_id=invoice.account_id,
        invoice_date=invoice.invoice_date,
        due_on=invoice.due_on,
        paid_minor=invoice.paid_minor,
        credited_minor=invoice.credited_minor,
        written_off_minor=invoice.written_off_minor,
    )
    return Event(name, str(invoice.id), data)


# --- create -----------------------------------------------------------------------------------------------------------


def needs_create(command: Command[CreateInvoice]) -> Needs:
    """The period and the number series are for an issue that may follow in the same batch."""
    body = command.body
    day = body.invoice_date or command.today
    return [
        (ACCOUNT, body.account_id),
        *((CHARGE, charge_id) for charge_id in body.charge_ids or ()),
        *needs_chart(line.revenue_code for line in body.lines or ()),
        *([(INVOICES_OF_GROUP, body.invoice_group_id)] if body.invoice_group_id else []),
        needs_period(command, day),
        needs_series(command.tenant, SERIES, day),
    ]


def decide_create(snapshot: Snapshot, command: Command[CreateInvoice]) -> Decision:
    body = command.body
    if body.charge_ids and len(set(body.charge_ids)) != len(body.charge_ids):
        return rejected(Code.DUPLICATE_REFERENCE, field="charge_ids")
    account = snapshot.get(Account, body.account_id)
    if account is None:
        return rejected(Code.ACCOUNT_NOT_FOUND, account_id=str(body.account_id))
    if body.invoice_group_id and snapshot.find(INVOICES_OF_GROUP, body.invoice_group_id):
        return rejected(Code.ALREADY_EXISTS, invoice_group_id=str(body.invoice_group_id))
    charges = _charges(snapshot, account, body.charge_ids or ())
    if isinstance(charges, Rejected):
        return charges
    if unknown := unknown_ledger_code(snapshot, (line.revenue_code for line in body.lines or ()), revenue=True):
        return rejected(Code.LEDGER_ACCOUNT_UNKNOWN, code=unknown)
    day = body.invoice_date or command.today
    if refusal := _state_refusal(snapshot, command, account, charges, day):
        return refusal
    group_id = body.invoice_group_id or command.derive("invoice_group")
    items = [*_charge_items(charges), *_explicit_items(command, day)]
    drafted = [draft for party in _payers(account) if (draft := _draft(command, account, party, group_id, day, items))]
    if not drafted:
        return rejected(Code.NOTHING_TO_INVOICE)
    if any(invoice.total_minor > MAX_AMOUNT_MINOR for invoice, _ in drafted):
        return rejected(Code.AMOUNT_OUT_OF_RANGE, limit_minor=MAX_AMOUNT_MINOR)
    invoiced = [charge._replace(status="invoiced", invoice_group_id=group_id) for charge in charges]
    invoices = [invoice for invoice, _ in drafted]
    lines = [line for _, invoice_lines in drafted for line in invoice_lines]
    result = InvoicesResult(invoice_group_id=group_id, documents=tuple(document(invoice) for invoice in invoices))
    events = tuple(invoice_event("invoice.created", invoice) for invoice in invoices)
    return Accepted(result, events, (*invoiced, *invoices, *lines))


def _charges(snapshot: Snapshot, account: Account, charge_ids: Iterable[UUID]) -> list[Charge] | Rejected:
    charges = []
    for charge_id in charge_ids:
        charge = snapshot.get(Charge, charge_id)
        if charge is None:
            return rejected(Code.CHARGE_NOT_FOUND, charge_id=str(charge_id))
        if charge.account_id != account.id:
            return rejected(Code.CHARGE_NOT_FOUND, awaits=False, charge_id=str(charge_id), account_id=str(account.id))
        charges.append(charge)
    return charges


def _state_refusal(
    snapshot: Snapshot, command: Command[CreateInvoice], account: Account, charges: Sequence[Charge], day: date
) -> Rejected | None:
    if account.status == "closed":
        return rejected(Code.ACCOUNT_CLOSED, account_id=str(account.id))
    for charge in charges:
        if charge.status != "open":
            return rejected(Code.CHARGE_NOT_OPEN, charge_id=str(charge.id), status=charge.status)
    return period_refusal(snapshot, command, day)


def _charge_items(charges: Iterable[Charge]) -> list[_Item]:
    return [
        _Item(
            charge.id,
            charge.description or charge.code,
            charge.quantity,
            charge.net_minor,
            charge.tax_category,
            charge.revenue_code,
            charge.service_date,
        )
        for charge in charges
    ]


def _explicit_items(command: Command[CreateInvoice], day: date) -> list[_Item]:
    return [
        _Item(
            None,
            line.description,
            line.quantity,
            extend(line.quantity, line.unit_price_minor),
            line.tax_category,
            line.revenue_code,
            day,
        )
        for line in command.body.lines or ()
    ]


def _payers(account: Account) -> list[Party]:
    return [party for party in account.parties if party.share_basis_points > 0]


def _draft(
    command: Command[CreateInvoice], account: Account, party: Party, group_id: UUID, day: date, items: Sequence[_Item]
) -> tuple[Invoice, list[InvoiceLine]] | None:
    """One party's document: its share of every line (largest remainder), with tax by recipient, per line."""
    invoice_id = command.derive("invoice", party.party_id)
    payers = _payers(account)
    position, weights = payers.index(party), [payer.share_basis_points for payer in payers]
    lines: list[InvoiceLine] = []
    for item in items:
        net_minor = share_out(item.net_minor, weights)[position]
        if net_minor == 0:
            continue
        rate = rate_basis_points(command.tenant, item.tax_category, party.kind, item.service_date)
        lines.append(
            InvoiceLine(
                invoice_id=invoice_id,
                line_number=len(lines) + 1,
                charge_id=item.charge_id,
                description=item.description,
                quantity=item.quantity,
                net_minor=net_minor,
                tax_category=item.tax_category,
                tax_rate_basis_points=rate,
                tax_minor=tax_minor(net_minor, rate),
                revenue_code=item.revenue_code,
                credited_net_minor=0,
                credited_tax_minor=0,
            )
        )
    return (_invoice(command, account, party, invoice_id, group_id, day, lines), lines) if lines else None


def _invoice(
    command: Command[CreateInvoice],
    account: Account,
    party: Party,
    invoice_id: UUID,
    group_id: UUID,
    day: date,
    lines: Sequence[InvoiceLine],
) -> Invoice:
    net_minor, taxes_minor = sum(line.net_minor for line in lines), sum(line.tax_minor for line in lines)
    return Invoice(
        id=invoice_id,
        invoice_group_id=group_id,
        account_id=account.id,
        party_id=party.party_id,
        party_kind=party.kind,
        status="draft",
        number=None,
        invoice_date=day,
        due_on=command.body.due_on or day + timedelta(days=command.tenant.payment_terms_days),
        period=tenant_period(command.tenant, day),
        fiscal_year=fiscal_year(command.tenant.fiscal_calendar, day),
        currency=account.currency,
        net_minor=net_minor,
        tax_minor=taxes_minor,
        total_minor=net_minor + taxes_minor,
        paid_minor=0,
        credited_minor=0,
        written_off_minor=0,
        recorded_at=command.recorded_at,
    )


# --- issue ------------------------------------------------------------------------------------------------------------


def needs_issue(command: Command[IssueInvoice]) -> Needs:
    invoice_id = command.body.invoice_id
    lookups = (INVOICE, INVOICE_LINES, PERIOD_OF_INVOICE, SERIES_OF_INVOICE)
    return [(lookup, invoice_id) for lookup in lookups]


def decide_issue(snapshot: Snapshot, command: Command[IssueInvoice]) -> Decision:
    """Posted on the invoice date, so that the period it was drafted in is the period it counts in."""
    invoice = snapshot.get(Invoice, command.body.invoice_id)
    if invoice is None:
        return rejected(Code.INVOICE_NOT_FOUND, invoice_id=str(command.body.invoice_id))
    if invoice.status != "draft":
        return rejected(Code.INVOICE_NOT_DRAFT, invoice_id=str(invoice.id), status=invoice.status)
    if refusal := closed(snapshot.get(Period, invoice.period, via=(PERIOD_OF_INVOICE, invoice.id))):
        return refusal
    stored = snapshot.get(DocumentSeries, (SERIES, invoice.fiscal_year), via=(SERIES_OF_INVOICE, invoice.id))
    series, number = next_number(stored, SERIES, invoice.fiscal_year)
    issued = invoice._replace(status="issued", number=number)
    lines = snapshot.find(INVOICE_LINES, invoice.id)
    events = (invoice_event("invoice.issued", issued),)
    return Accepted(document(issued), events, (issued, series), _revenue_postings(issued, lines))


def _revenue_postings(invoice: Invoice, lines: Iterable[InvoiceLine]) -> tuple[Posting, ...]:
    """Receivable against revenue per group and tax payable (DOMAIN "posting rules")."""
    net_by_code, taxes_minor = totals_by_revenue_code(
        (line.revenue_code, line.net_minor, line.tax_minor) for line in lines
    )
    credits = [(code, net) for code, net in net_by_code.items()] + [(TAX_PAYABLE, taxes_minor)]
    return tuple(
        Posting(
            receivable(invoice), LedgerKey(code, invoice.currency), amount, "invoice", invoice.id, invoice.invoice_date
        )
        for code, amount in credits
        if amount
    )


def totals_by_revenue_code(parts: Iterable[tuple[str, int, int]]) -> tuple[dict[str, int], int]:
    """(revenue code, net, tax) triples summed up: net per code, in code order, and all tax."""
    net_by_code: dict[str, int] = {}
    taxes_minor = 0
    for code, net, tax in parts:
        net_by_code[code] = net_by_code.get(code, 0) + net
        taxes_minor += tax
    return dict(sorted(net_by_code.items())), taxes_minor


# --- void -------------------------------------------------------------------------------------------------------------


def needs_void(command: Command[VoidInvoice]) -> Needs:
    lookups = (INVOICE, INVOICE_LINES, GROUP_OF_INVOICE, CHARGES_OF_INVOICE)
    return [*((lookup, command.body.invoice_id) for lookup in lookups), needs_period(command, command.today)]


def decide_void(snapshot: Snapshot, command: Command[VoidInvoice]) -> Decision:
    """A draft is dropped; an issued invoice keeps its number and its revenue is taken back today. Once every document of
    the group is void, its charges can be invoiced again."""
    invoice = snapshot.get(Invoice, command.body.invoice_id)
    if invoice is None:
        return rejected(Code.INVOICE_NOT_FOUND, invoice_id=str(command.body.invoice_id))
    if invoice.status == "void":
        return rejected(Code.INVOICE_NOT_OPEN, invoice_id=str(invoice.id), status=invoice.status)
    if invoice.paid_minor or invoice.credited_minor or invoice.written_off_minor:
        return rejected(Code.INVOICE_HAS_PAYMENTS, invoice_id=str(invoice.id))
    if invoice.status != "draft" and (refusal := period_refusal(snapshot, command, command.today)):
        return refusal
    postings: tuple[Posting, ...] = ()
    if invoice.status != "draft":
        postings = tuple(
            posting._replace(
                debit=posting.credit,
                credit=posting.debit,
                kind="invoice_void",
                effective_on=command.today,
                reverses_document_id=invoice.id,
            )
            for posting in _revenue_postings(invoice, snapshot.find(INVOICE_LINES, invoice.id))
        )
    voided = invoice._replace(status="void")
    released = _released_charges(snapshot, voided)
    return Accepted(document(voided), (invoice_event("invoice.voided", voided),), (voided, *released), postings)


def _released_charges(snapshot: Snapshot, voided: Invoice) -> list[Charge]:
    group_id = voided.invoice_group_id
    group = snapshot.find(INVOICES_OF_GROUP, group_id, via=(GROUP_OF_INVOICE, voided.id))
    if any(other.status != "void" for other in group if other.id != voided.id):
        return []
    charges = snapshot.find(CHARGES_OF_GROUP, group_id, via=(CHARGES_OF_INVOICE, voided.id))
    return [charge._replace(status="open", invoice_group_id=None) for charge in charges]


# --- write off --------------------------------------------------------------------------------------------------------


def needs_write_off(command: Command[WriteOffInvoice]) -> Needs:
    return [(INVOICE, command.body.invoice_id), needs_period(command, command.today)]


def decide_write_off(snapshot: Snapshot, command: Command[WriteOffInvoice]) -> Decision:
    invoice = snapshot.get(Invoice, command.body.invoice_id)
    if invoice is None:
        return rejected(Code.INVOICE_NOT_FOUND, invoice_id=str(command.body.invoice_id))
    if invoice.status != "issued":
        return not_open(invoice)
    if refusal := period_refusal(snapshot, command, command.today):
        return refusal
    amount = command.body.amount_minor or invoice.open_minor
    if amount > invoice.open_minor:
        return rejected(Code.WRITE_OFF_EXCEEDS_OPEN_AMOUNT, invoice_id=str(invoice.id), open_minor=invoice.open_minor)
    after = restated(invoice._replace(written_off_minor=invoice.written_off_minor + amount))
    posting = Posting(
        LedgerKey(BAD_DEBT, invoice.currency), receivable(invoice), amount, "write_off", invoice.id, command.today
    )
    events = [invoice_event("invoice.written_off", after)]
    if after.status == "settled":
        events.append(invoice_event("invoice.settled", after))
    return Accepted(document(after), tuple(events), (after,), (posting,))


def not_open(invoice: Invoice) -> Rejected:
    """A draft may be about to be issued by a command behind this one; any other state is final."""
    return rejected(
        Code.INVOICE_NOT_OPEN, awaits=invoice.status == "draft", invoice_id=str(invoice.id), status=invoice.status
    )


CAPABILITIES = {
    "invoice.create": Capability(needs_create, decide_create),
    "invoice.issue": Capability(needs_issue, decide_issue),
    "invoice.void": Capability(needs_void, decide_void),
    "invoice.write_off": Capability(needs_write_off, decide_write_off),
}
