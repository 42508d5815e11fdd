"""The schema's single definition: one table per entity, its columns the entity's fields after `tenant_id`.

Every primary key leads with `tenant_id` and every foreign key includes it, so the schema can be distributed by tenant.
Checks restate every invariant a row can hold by itself: the domain keeps them, the database does not take its word.

Indexes are paid for on every insert, so each one names its reader. Rows that are updated on the hot path (invoice,
payment, ledger_account, tenant_book) have no index over a column that changes then, and a fill factor that leaves room
on the page: their updates stay heap-only (HOT) and touch no index at all.

Lists are ordered by (recorded_at, id), but their indexes stop at recorded_at: ties are few and sorted on the way, and an
index with `id` at its end tempts the planner into reading a tenant's whole range of it in place of the primary key.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from adapters.postgres.columns import TENANT, entity_checks, entity_columns, tenant_check, tenant_column
from domain import entities, job_entities

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_1_name)s",
        "uq": "uq_%(table_name)s_%(column_1_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _table(
    name: str,
    entity: type[Any],
    *constraints: CheckConstraint | ForeignKeyConstraint | UniqueConstraint | Index,
    key: tuple[str, ...],
    mutable: tuple[str, ...] = (),
    leading: tuple[Column[Any], ...] = (),
    storage: Mapping[str, object] | None = None,
) -> Table:
    """A tenant table. `key` follows `tenant_id` in the primary key; the app role may update the `mutable` columns."""
    return Table(
        name,
        metadata,
        tenant_column(),
        *leading,
        *entity_columns(entity, mutable),
        PrimaryKeyConstraint(TENANT, *key, name=f"pk_{name}"),
        tenant_check(),
        *entity_checks(entity),
        *constraints,
        postgresql_with=dict(storage or {}),
    )


def _check(name: str, condition: str) -> CheckConstraint:
    return CheckConstraint(condition, name=name)


def _references(table: str, column: str) -> ForeignKeyConstraint:
    """A reference to `table.id` of the same tenant."""
    return ForeignKeyConstraint((TENANT, column), (f"{table}.{TENANT}", f"{table}.id"))


def _index(name: str, *columns: str, where: str | None = None, unique: bool = False) -> Index:
    return Index(name, TENANT, *columns, unique=unique, postgresql_where=text(where) if where else None)


_ROOM_FOR_HOT_UPDATES = {"fillfactor": 80}
_MANY_HOT_UPDATES = {"fillfactor": 50}  # counters: one small row, updated by every batch

account = _table(
    "account",
    entities.Account,
    _check("parties", "jsonb_typeof(parties) = 'array' AND jsonb_array_length(parties) BETWEEN 1 AND 20"),
    _index("ix_account_patient", "patient", "recorded_at"),  # account.list of a patient
    _index("ix_account_recorded_at", "recorded_at"),  # account.list
    key=("id",),
    mutable=("guarantor", "locale", "status", "parties"),
)

price_list = _table(
    "price_list",
    entities.PriceList,
    UniqueConstraint(TENANT, "price_list", "version"),  # also the look-up of a list's versions
    key=("id",),
)

price_item = _table(
    "price_item",
    entities.PriceItem,
    _check("unit_price_minor", "unit_price_minor >= 0"),
    _references("price_list", "price_list_id"),
    _index("ix_price_item_price_list_code", "price_list", "code"),  # the prices of a code over all versions
    key=("price_list_id", "code"),
)

charge = _table(
    "charge",
    entities.Charge,
    _check("amounts", "unit_price_minor >= 0 AND net_minor >= 0"),
    _check("invoice_group_id", "status <> 'invoiced' OR invoice_group_id IS NOT NULL"),
    _references("account", "account_id"),
    _index("ix_charge_account_id", "account_id", "recorded_at"),  # charge.list, open charges of an account
    # The charges of an invoice group.
    _index("ix_charge_invoice_group_id", "invoice_group_id", where="invoice_group_id IS NOT NULL"),
    key=("id",),
    mutable=("status", "invoice_group_id"),
)

# Drafts are found by `number IS NULL`, not by status: status changes when a payment settles an invoice, and an index
# over it, even in its predicate, would make every such update write all of the table's indexes.
invoice = _table(
    "invoice",
    entities.Invoice,
    _check("amounts", "net_minor >= 0 AND tax_minor >= 0 AND total_minor = net_minor + tax_minor"),
    _check("applied", "paid_minor >= 0 AND credited_minor >= 0 AND written_off_minor >= 0"),
    _check("open_minor", "paid_minor + credited_minor + written_off_minor <= total_minor"),
    _check("settled", "status <> 'settled' OR paid_minor + credited_minor + written_off_minor = total_minor"),
    _check("draft", "status <> 'draft' OR (number IS NULL AND paid_minor + credited_minor + written_off_minor = 0)"),
    _check("number", "status NOT IN ('issued', 'settled') OR number IS NOT NULL"),
    _references("account", "account_id"),
    _index("uq_invoice_number", "number", unique=True, where="number IS NOT NULL"),  # legal numbers are never reused
    _index("ix_invoice_account_id", "account_id", "recorded_at"),  # invoice.list of an account, its drafts
    _index("ix_invoice_recorded_at", "recorded_at"),  # invoice.list
    _index("ix_invoice_invoice_group_id", "invoice_group_id"),  # the documents of a group
    _index("ix_invoice_draft_period", "period", where="number IS NULL"),  # drafts of a period, before it is closed
    key=("id",),
    mutable=("overdue_on", "status", "number", "paid_minor", "credited_minor", "written_off_minor"),
    storage=_ROOM_FOR_HOT_UPDATES,
)

invoice_line = _table(
    "invoice_line",
    entities.InvoiceLine,
    _check("amounts", "net_minor >= 0 AND tax_minor >= 0"),
    _check("credited_net_minor", "credited_net_minor BETWEEN 0 AND net_minor"),
    _check("credited_tax_minor", "credited_tax_minor BETWEEN 0 AND tax_minor"),
    _references("invoice", "invoice_id"),
    _references("charge", "charge_id"),
    key=("invoice_id", "line_number"),
    mutable=("credited_net_minor", "credited_tax_minor"),
)

credit_note = _table(
    "credit_note",
    entities.CreditNote,
    _check("amounts", "net_minor >= 0 AND tax_minor >= 0"),
    _references("invoice", "invoice_id"),
    _references("account", "account_id"),
    _index("uq_credit_note_number", "number", unique=True),  # legal numbers are never reused
    _index("ix_credit_note_invoice_id", "invoice_id"),  # the credit notes of an invoice
    key=("id",),
)

credit_note_line = _table(
    "credit_note_line",
    entities.CreditNoteLine,
    _check("amounts", "net_minor >= 0 AND tax_minor >= 0"),
    _references("credit_note", "credit_note_id"),
    key=("credit_note_id", "line_number"),
)

payment = _table(
    "payment",
    entities.Payment,
    _check("amount_minor", "amount_minor > 0"),
    _check("cash_rounding_minor", "cash_rounding_minor = 0 OR method = 'cash'"),
    _check("applied", "allocated_minor >= 0 AND refunded_minor >= 0"),
    _check("unapplied_minor", "allocated_minor + refunded_minor <= amount_minor + cash_rounding_minor"),
    _references("account", "account_id"),
    _index("ix_payment_account_id", "account_id", "recorded_at"),  # payment.list of an account
    _index("ix_payment_recorded_at", "recorded_at"),  # payment.list
    key=("id",),
    mutable=("status", "allocated_minor", "refunded_minor"),
    storage=_ROOM_FOR_HOT_UPDATES,
)

# The key leads with the payment, so that its allocations need no further index; nothing looks one up by its id alone.
allocation = _table(
    "allocation",
    entities.Allocation,
    _check("amount_minor", "amount_minor <> 0"),
    _references("payment", "payment_id"),
    _references("invoice", "invoice_id"),
    _index("ix_allocation_invoice_id", "invoice_id"),  # the allocations and payments of an invoice
    key=("payment_id", "id"),
)

refund = _table(
    "refund",
    entities.Refund,
    _check("amount_minor", "amount_minor > 0"),
    _references("payment", "payment_id"),
    _index("ix_refund_payment_id", "payment_id"),  # the refunds of a payment
    key=("id",),
)

period = _table(
    "period",
    entities.Period,
    _check("dates", "starts_on <= ends_on"),
    key=("period",),
    mutable=("status",),
)

document_series = _table(
    "document_series",
    entities.DocumentSeries,
    _check("last_number", "last_number >= 0"),
    key=("series", "fiscal_year"),
    mutable=("last_number",),
    storage=_MANY_HOT_UPDATES,
)

chart_entry = _table(
    "chart_entry",
    entities.ChartEntry,
    _check("code", "code ~ '^[1-9][0-9]{3}$'"),
    key=("code",),
)

ledger_account = _table(
    "ledger_account",
    entities.LedgerAccount,
    _check("code", "code ~ '^[1-9][0-9]{3}$'"),
    _check("totals", "debits_minor >= 0 AND credits_minor >= 0"),
    _check("party_id", "party_id IS NULL OR account_id IS NOT NULL"),
    _references("account", "account_id"),
    # One balance per what it stands for; also the look-up of a billing account's sub-ledgers.
    UniqueConstraint(TENANT, "account_id", "code", "currency", "party_id", postgresql_nulls_not_distinct=True),
    key=("id",),
    mutable=("debits_minor", "credits_minor"),
    storage=_MANY_HOT_UPDATES,
)

# Transfer.id has no unique index of its own: it is derived from the command, whose one effect the inbox guards.
ledger_transfer = _table(
    "ledger_transfer",
    entities.Transfer,
    _check("amount_minor", "amount_minor > 0"),
    _check("accounts", "debit_account_id <> credit_account_id"),
    _check("sequence", "sequence >= 1"),
    _check("hash_version", "hash_version >= 1"),
    _references("ledger_account", "debit_account_id"),
    _references("ledger_account", "credit_account_id"),
    _index("ix_ledger_transfer_debit_account_id", "debit_account_id", "sequence"),  # account.activity, point in time
    _index("ix_ledger_transfer_credit_account_id", "credit_account_id", "sequence"),  # account.activity, point in time
    _index("ix_ledger_transfer_document_id", "document_id"),  # ledger.transfers of a document
    key=("sequence",),
)

tenant_book = _table(
    "tenant_book",
    entities.Book,
    _check("sequences", "ledger_sequence >= 0 AND event_sequence >= 0 AND command_sequence >= 0"),
    key=(),
    mutable=("ledger_sequence", "ledger_head", "event_sequence", "command_sequence"),
    storage=_MANY_HOT_UPDATES,
)

inbox = _table(
    "inbox",
    entities.InboxEntry,
    _check("status", "status IN ('applied', 'rejected')"),
    _check("error", "(status = 'rejected') = (error IS NOT NULL)"),
    _check("sequence", "sequence >= 1"),
    key=("command_id",),
)

# The identity's sequence must stay at CACHE 1: with a cache, sessions draw blocks, and a later batch of a tenant could
# get lower ids than an earlier one. Vacuum follows the row count alone and never pauses: rows live for milliseconds.
outbox = _table(
    "outbox",
    entities.OutboxRow,
    _check("shard", "shard >= 0"),
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

job = _table(
    "job",
    job_entities.Job,
    _check("counts", "total >= 0 AND done >= 0 AND failed >= 0 AND done + failed <= total"),
    _index("ix_job_recorded_at", "recorded_at"),  # job.list
    key=("id",),
    mutable=("status", "total", "done", "failed", "error_code", "error_detail", "started_at", "finished_at"),
    storage=_MANY_HOT_UPDATES,
)

statement = _table(
    "statement",
    job_entities.Statement,
    _check("files", "status = 'failed' OR (json_key IS NOT NULL AND pdf_key IS NOT NULL)"),
    _references("job", "job_id"),
    _references("account", "account_id"),
    _index("ix_statement_job_id", "job_id", "recorded_at"),  # the statements of a run
    _index("ix_statement_recorded_at", "recorded_at"),  # statement.list
    _index("ix_statement_account_id", "account_id", "recorded_at"),  # statement.list of an account
    key=("id",),
)

gl_account = _table("gl_account", job_entities.GlAccount, key=("ledger_code",), mutable=("gl_code", "gl_name"))

gl_export = _table(
    "gl_export",
    job_entities.GlExport,
    _check("manifest", "status <> 'written' OR manifest_key IS NOT NULL"),
    _references("job", "id"),
    _index("ix_gl_export_scope", "scope", "recorded_at"),  # was this exported before
    _index("ix_gl_export_recorded_at", "recorded_at"),  # gl.list
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


def mutable_columns(table: Table) -> tuple[str, ...]:
    """The columns the app role may UPDATE; every other column, and every other table, is written once."""
    return tuple(column.name for column in table.columns if column.info.get("mutable"))
