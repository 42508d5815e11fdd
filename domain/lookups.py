"""Every way a command can ask for rows. A lookup is an entity and the columns its keys are matched against, or a join.

Join lookups (`of=…`) reach rows whose keys the command does not know; the PostgreSQL adapter spells each one out. Their rows
are read back with `Snapshot.get` and `Snapshot.find`, like any others.
"""

from typing import Any, NamedTuple

from domain.entities import (
    Account,
    Allocation,
    Book,
    Charge,
    ChartEntry,
    CreditNote,
    DocumentSeries,
    InboxEntry,
    Invoice,
    InvoiceLine,
    LedgerAccount,
    Payment,
    Period,
    PriceItem,
    PriceList,
    Refund,
)
from domain.gateway_entities import Circuit, GatewayRefund, Hold, HoldAllocation, Payout
from domain.job_entities import GlAccount, GlExport, Job, Statement


class Lookup(NamedTuple):
    """`columns` are the entity's own columns that a key is compared with; `of` names a join instead."""

    entity: type[Any]
    columns: tuple[str, ...] = ()
    of: str | None = None


BOOK = Lookup(Book)
INBOX = Lookup(InboxEntry, ("command_id",))

ACCOUNT = Lookup(Account, ("id",))
PRICE_LISTS = Lookup(PriceList, ("price_list",))
PRICES = Lookup(PriceItem, ("price_list", "code"))
CHARGE = Lookup(Charge, ("id",))
INVOICE = Lookup(Invoice, ("id",))
INVOICE_LINES = Lookup(InvoiceLine, ("invoice_id",))
CREDIT_NOTE = Lookup(CreditNote, ("id",))
PAYMENT = Lookup(Payment, ("id",))
REFUND = Lookup(Refund, ("id",))
ALLOCATIONS_OF_INVOICE = Lookup(Allocation, ("invoice_id",))
ALLOCATIONS_OF_PAYMENT = Lookup(Allocation, ("payment_id",))
PERIOD = Lookup(Period, ("period",))
SERIES = Lookup(DocumentSeries, ("series", "fiscal_year"))
CHART = Lookup(ChartEntry, ("code",))
JOB = Lookup(Job, ("id",))
STATEMENT = Lookup(Statement, ("id",))
GL_ACCOUNT = Lookup(GlAccount, ("ledger_code",))
GL_EXPORT = Lookup(GlExport, ("id",))
GL_EXPORTS_OF_SCOPE = Lookup(GlExport, ("scope",))
HOLD = Lookup(Hold, ("id",))
HOLD_ALLOCATIONS = Lookup(HoldAllocation, ("payment_id",))
GATEWAY_REFUND = Lookup(GatewayRefund, ("id",))
PAYOUT = Lookup(Payout, ("adapter", "id"))
CIRCUIT = Lookup(Circuit, ("adapter",))
LEDGER_ACCOUNTS_OF_ACCOUNT = Lookup(LedgerAccount, ("account_id",))
CHARGES_OF_GROUP = Lookup(Charge, ("invoice_group_id",))
INVOICES_OF_GROUP = Lookup(Invoice, ("invoice_group_id",))
DRAFTS_OF_PERIOD = Lookup(Invoice, ("period",), of="drafts of period")
OPEN_CHARGES_OF_ACCOUNT = Lookup(Charge, ("account_id",), of="open charges of account")
DRAFTS_OF_ACCOUNT = Lookup(Invoice, ("account_id",), of="drafts of account")
LIVE_HOLDS_OF_ACCOUNT = Lookup(Hold, ("account_id",), of="live holds of account")

ACCOUNT_OF_CHARGE = Lookup(Account, of="account of charge")
ACCOUNT_OF_INVOICE = Lookup(Account, of="account of invoice")
ACCOUNT_OF_PAYMENT = Lookup(Account, of="account of payment")
INVOICES_OF_PAYMENT = Lookup(Invoice, of="invoices of payment")  # every invoice it was ever allocated to
PAYMENTS_OF_INVOICE = Lookup(Payment, of="payments of invoice")  # every payment ever allocated to it
ACCOUNT_OF_HOLD = Lookup(Account, of="account of hold")
INVOICES_OF_HOLD = Lookup(Invoice, of="invoices of hold")  # those the charge is meant for
PAYMENT_OF_REFUND = Lookup(Payment, of="payment of refund")
HOLD_OF_REFUND = Lookup(Hold, of="hold of refund")
PERIOD_OF_INVOICE = Lookup(Period, of="period of invoice")
SERIES_OF_INVOICE = Lookup(DocumentSeries, of="series of invoice")  # the INV series of its fiscal year
CHARGES_OF_INVOICE = Lookup(Charge, of="charges of invoice")  # the charges of its group
GROUP_OF_INVOICE = Lookup(Invoice, of="group of invoice")  # all documents of its group, itself included

ALL: tuple[Lookup, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Lookup))

# The lookup by primary key, per entity: `Snapshot.get` uses it to tell "absent" from "not loaded".
PRIMARY: dict[type[Any], Lookup] = {
    lookup.entity: lookup
    for lookup in (
        BOOK,
        INBOX,
        ACCOUNT,
        CHARGE,
        INVOICE,
        CREDIT_NOTE,
        PAYMENT,
        REFUND,
        PERIOD,
        SERIES,
        CHART,
        JOB,
        STATEMENT,
        GL_ACCOUNT,
        GL_EXPORT,
        HOLD,
        GATEWAY_REFUND,
        PAYOUT,
        CIRCUIT,
    )
}
