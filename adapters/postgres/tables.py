"""The schema's single definition: one table per entity, its columns the entity's fields after `tenant_id`.

Every primary key leads with `tenant_id` and every foreign key includes it, so the schema can be distributed by tenant.
Checks restate every invariant a row can hold by itself: the domain keeps them, the database does not take its word.

Indexes are paid for on every insert, so each one names its reader. Rows that are updated on the hot path (invoice,
payment, ledger_account, tenant_book) have no index over a column that changes then, and a fill factor that leaves room
on the page: their updates stay heap-only (HOT) and touch no index at all.

Lists are ordered by (recorded_at, id), but their indexes stop at recorded_at: ties are few and sorted on the way, and an
index with `id` at its end tempts the planner into reading a tenant's whole range of it in place of the primary key.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, Identity, Index, Table, UniqueConstraint

from adapters.postgres import gateway_tables
from adapters.postgres.columns import TENANT
from adapters.postgres.declaring import (
    MANY_HOT_UPDATES,
    ROOM_FOR_HOT_UPDATES,
    check,
    index,
    metadata,
    references,
    table,
)
from domain import entities, job_entities

__all__ = ["TABLES", "metadata", "mutable_columns"]

account = table(
    "account",
    entities.Account,
    check("parties", "jsonb_typeof(parties) = 'array' AND jsonb_array_length(parties) BETWEEN 1 AND 20"),
    index("ix_account_patient", "patient", "recorded_at"),  # account.list of a patient
    index("ix_account_recorded_at", "recorded_at"),  # account.list
    key=("id",),
    mutable=("guarantor", "locale", "status", "parties"),
)

price_list = table(
    "price_list",
    entities.PriceList,
    UniqueConstraint(TENANT, "price_list", "version"),  # also the look-up of a list's versions
    key=("id",),
)

price_item = table(
    "price_item",
    entities.PriceItem,
    check("unit_price_minor", "unit_price_minor >= 0"),
    references("price_list", "price_list_id"),
    index("ix_price_item_price_list_code", "price_list", "code"),  # the prices of a code over all versions
    key=("price_list_id", "code"),
)

charge = table(
    "charge",
    entities.Charge,
    check("amounts", "unit_price_minor >= 0 AND net_minor >= 0"),
    check("invoice_group_id", "status <> 'invoiced' OR invoice_group_id IS NOT NULL"),
    references("account", "account_id"),
    index("ix_charge_account_id", "account_id", "recorded_at"),  # charge.list, open charges of an account
    # The charges of an invoice group.
    index("ix_charge_invoice_group_id", "invoice_group_id", where="invoice_group_id IS NOT NULL"),
    key=("id",),
    mutable=("status", "invoice_group_id"),
)

# Drafts are found by `number IS NULL`, not by status: status changes when a payment settles an invoice, and an index
# over it, even in its predicate, would make every such update write all of the table's indexes.
invoice = table(
    "invoice",
    entities.Invoice,
    check("amounts", "net_minor >= 0 AND tax_minor >= 0 AND total_minor = net_minor + tax_minor"),
    check("applied", "paid_minor >= 0 AND credited_minor >= 0 AND written_off_minor >= 0"),
    check("open_minor", "paid_minor + credited_minor + written_off_minor <= total_minor"),
    check("settled", "status <> 'settled' OR paid_minor + credited_minor + written_off_minor = total_minor"),
    check("draft", "status <> 'draft' OR (number IS NULL AND paid_minor + credited_minor + written_off_minor = 0)"),
    check("number", "status NOT IN ('issued', 'settled') OR number IS NOT NULL"),
    references("account", "account_id"),
    index("uq_invoice_number", "number", unique=True, where="number IS NOT NULL"),  # legal numbers are never reused
    index("ix_invoice_account_id", "account_id", "recorded_at"),  # invoice.list of an account, its drafts
    index("ix_invoice_recorded_at", "recorded_at"),  # invoice.list
    index("ix_invoice_invoice_group_id", "invoice_group_id"),  # the documents of a group
    index("ix_invoice_draft_period", "period", where="number IS NULL"),  # drafts of a period, before it is closed
    key=("id",),
    mutable=("overdue_on", "status", "number", "paid_minor", "credited_minor", "written_off_minor"),
    storage=ROOM_FOR_HOT_UPDATES,
)

invoice_line = table(
    "invoice_line",
    entities.InvoiceLine,
    check("amounts", "net_minor >= 0 AND tax_minor >= 0"),
    check("credited_net_minor", "credited_net_minor BETWEEN 0 AND net_minor"),
    check("credited_tax_minor", "credited_tax_minor BETWEEN 0 AND tax_minor"),
    references("invoice", "invoice_id"),
    references("charge", "charge_id"),
    key=("invoice_id", "line_number"),
    mutable=("credited_net_minor", "credited_tax_minor"),
)

credit_note = table(
    "credit_note",
    entities.CreditNote,
    check("amounts", "net_minor >= 0 AND tax_minor >= 0"),
    references("invoice", "invoice_id"),
    references("account", "account_id"),
    index("uq_credit_note_number", "number", unique=True),  # legal numbers are never reused
    index("ix_credit_note_invoice_id", "invoice_id"),  # the credit notes of an invoice
    key=("id",),
)

credit_note_line = table(
    "credit_note_line",
    entities.CreditNoteLine,
    check("amounts", "net_minor >= 0 AND tax_minor >= 0"),
    references("credit_note", "credit_note_id"),
    key=("credit_note_id", "line_number"),
)

payment = table(
    "payment",
    entities.Payment,
    check("amount_minor", "amount_minor > 0"),
    check("cash_rounding_minor", "cash_rounding_minor = 0 OR method = 'cash'"),
    check("applied", "allocated_minor >= 0 AND refunded_minor >= 0"),
    check("given_back", "refunding_minor >= 0 AND charged_back_minor >= 0"),
    check(
        "unapplied_minor",
        "allocated_minor + refunded_minor + refunding_minor + charged_back_minor <= amount_minor + cash_rounding_minor",
    ),
    references("account", "account_id"),
    index("ix_payment_account_id", "account_id", "recorded_at"),  # payment.list of an account
    index("ix_payment_recorded_at", "recorded_at"),  # payment.list
    key=("id",),
    mutable=("status", "allocated_minor", "refunded_minor", "refunding_minor", "charged_back_minor"),
    storage=ROOM_FOR_HOT_UPDATES,
)

# The key leads with the payment, so that its allocations need no further index; nothing looks one up by its id alone.
allocation = table(
    "allocation",
    entities.Allocation,
    check("amount_minor", "amount_minor <> 0"),
    references("payment", "payment_id"),
    references("invoice", "invoice_id"),
    index("ix_allocation_invoice_id", "invoice_id"),  # the allocations and payments of an invoice
    key=("payment_id", "id"),
)

refund = table(
    "refund",
    entities.Refund,
    check("amount_minor", "amount_minor > 0"),
    references("payment", "payment_id"),
    index("ix_refund_payment_id", "payment_id"),  # the refunds of a payment
    key=("id",),
)

period = table(
    "period",
    entities.Period,
    check("dates", "starts_on <= ends_on"),
    key=("period",),
    mutable=("status",),
)

document_series = table(
    "document_series",
    entities.DocumentSeries,
    check("last_number", "last_number >= 0"),
    key=("series", "fiscal_year"),
    mutable=("last_number",),
    storage=MANY_HOT_UPDATES,
)

chart_entry = table(
    "chart_entry",
    entities.ChartEntry,
    check("code", "code ~ '^[1-9][0-9]{3}$'"),
    key=("code",),
)

ledger_account = table(
    "ledger_account",
    entities.LedgerAccount,
    check("code", "code ~ '^[1-9][0-9]{3}$'"),
    check("totals", "debits_minor >= 0 AND credits_minor >= 0"),
    check("party_id", "party_id IS NULL OR account_id IS NOT NULL"),
    references("account", "account_id"),
    # One balance per what it stands for; also the look-up of a billing account's sub-ledgers.
    UniqueConstraint(TENANT, "account_id", "code", "currency", "party_id", postgresql_nulls_not_distinct=True),
    key=("id",),
    mutable=("debits_minor", "credits_minor"),
    storage=MANY_HOT_UPDATES,
)

# Transfer.id has no unique index of its own: it is derived from the command, whose one effect the inbox guards.
ledger_transfer = table(
    "ledger_transfer",
    entities.Transfer,
    check("amount_minor", "amount_minor > 0"),
    check("accounts", "debit_account_id <> credit_account_id"),
    check("sequence", "sequence >= 1"),
    check("hash_version", "hash_version >= 1"),
    references("ledger_account", "debit_account_id"),
    references("ledger_account", "credit_account_id"),
    index("ix_ledger_transfer_debit_account_id", "debit_account_id", "sequence"),  # account.activity, point in time
    index("ix_ledger_transfer_credit_account_id", "credit_account_id", "sequence"),  # account.activity, point in time
    index("ix_ledger_transfer_document_id", "document_id"),  # ledger.transfers of a document
    key=("sequence",),
)

tenant_book = table(
    "tenant_book",
    entities.Book,
    check("sequences", "ledger_sequence >= 0 AND event_sequence >= 0 AND command_sequence >= 0"),
    key=(),
    mutable=("ledger_sequence", "ledger_head", "event_sequence", "command_sequence"),
    storage=MANY_HOT_UPDATES,
)

inbox = table(
    "inbox",
    entities.InboxEntry,
    check("status", "status IN ('applied', 'rejected')"),
    check("error", "(status = 'rejected') = (error IS NOT NULL)"),
    check("sequence", "sequence >= 1"),
    key=("command_id",),
)

# The identity's sequence must stay at CACHE 1: with a cache, sessions draw blocks, and a later batch of a tenant could
# get lower ids than an earlier one. Vacuum follows the row count alone and never pauses: rows live for milliseconds.
outbox = table(
    "outbox",
    entities.OutboxRow,
    check("shard", "shard >= 0"),
    Index("ix_outbox_shard", "shard", "stream", "id"),  # the relay's, which reads across tenants: no tenant_id in front
    key=("id",),
    leading=(Column("id", BigInteger(), Identity(always=True), nullable=False),),
    storage={
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 5000,
        "autovacuum_vacuum_insert_scale_factor": 0,
        "autovacuum_vacuum_insert_threshold": 5000,
        "autovacuum_vacuum_cost_delay": 0,
        "autovacuum_analyze_scale_factor": 0,
        "autovacuum_analyze_threshold": 50000,
    },
)

job = table(
    "job",
    job_entities.Job,
    check("counts", "total >= 0 AND done >= 0 AND failed >= 0 AND done + failed <= total"),
    index("ix_job_recorded_at", "recorded_at"),  # job.list
    key=("id",),
    mutable=("status", "total", "done", "failed", "error_code", "error_detail", "started_at", "finished_at"),
    storage=MANY_HOT_UPDATES,
)

statement = table(
    "statement",
    job_entities.Statement,
    check("files", "status = 'failed' OR (json_key IS NOT NULL AND pdf_key IS NOT NULL)"),
    references("job", "job_id"),
    references("account", "account_id"),
    index("ix_statement_job_id", "job_id", "recorded_at"),  # the statements of a run
    index("ix_statement_recorded_at", "recorded_at"),  # statement.list
    index("ix_statement_account_id", "account_id", "recorded_at"),  # statement.list of an account
    key=("id",),
)

gl_account = table("gl_account", job_entities.GlAccount, key=("ledger_code",), mutable=("gl_code", "gl_name"))

gl_export = table(
    "gl_export",
    job_entities.GlExport,
    check("manifest", "status <> 'written' OR manifest_key IS NOT NULL"),
    references("job", "id"),
    index("ix_gl_export_scope", "scope", "recorded_at"),  # was this exported before
    index("ix_gl_export_recorded_at", "recorded_at"),  # gl.list
    key=("id",),
    mutable=(
        "status",
        "transfers",
        "first_sequence",
        "last_sequence",
        "first_hash",
        "last_hash",
        "totals",
        "files",
        "manifest_key",
        "manifest_sha256",
    ),
)

TABLES: dict[type[Any], Table] = {
    entities.Account: account,
    entities.PriceList: price_list,
    entities.PriceItem: price_item,
    entities.Charge: charge,
    entities.Invoice: invoice,
    entities.InvoiceLine: invoice_line,
    entities.CreditNote: credit_note,
    entities.CreditNoteLine: credit_note_line,
    entities.Payment: payment,
    entities.Allocation: allocation,
    entities.Refund: refund,
    **gateway_tables.TABLES,
    entities.Period: period,
    entities.DocumentSeries: document_series,
    entities.ChartEntry: chart_entry,
    entities.LedgerAccount: ledger_account,
    entities.Transfer: ledger_transfer,
    entities.Book: tenant_book,
    entities.InboxEntry: inbox,
    entities.OutboxRow: outbox,
    job_entities.Job: job,
    job_entities.Statement: statement,
    job_entities.GlAccount: gl_account,
    job_entities.GlExport: gl_export,
}


def mutable_columns(of: Table) -> tuple[str, ...]:
    """The columns the app role may UPDATE; every other column, and every other table, is written once."""
    return tuple(column.name for column in of.columns if column.info.get("mutable"))
