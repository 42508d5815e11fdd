"""The mesh's own tables: counters, inbox, outbox, numbering, periods, chart of accounts."""

from alembic import op

from adapters.postgres.migrations.protection import ensure_roles, let_relay_drain, protect

revision = "0001_mesh"
down_revision = None
phase = "expand"


def upgrade() -> None:
    ensure_roles()
    _tenant_book()
    _inbox()
    _outbox()
    _document_series()
    _period()
    _chart_entry()


def _tenant_book() -> None:
    op.execute("""
CREATE TABLE tenant_book (
    tenant_id TEXT NOT NULL,
    ledger_sequence BIGINT NOT NULL,
    ledger_head BYTEA NOT NULL,
    event_sequence BIGINT NOT NULL,
    command_sequence BIGINT NOT NULL,
    CONSTRAINT pk_tenant_book PRIMARY KEY (tenant_id),
    CONSTRAINT ck_tenant_book_sequences CHECK (ledger_sequence >= 0 AND event_sequence >= 0 AND command_sequence >= 0),
    CONSTRAINT ck_tenant_book_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_tenant_book_ledger_head CHECK (octet_length(ledger_head) = 32)
) WITH (fillfactor = 50)
""")
    protect("tenant_book", app_updates=("ledger_sequence", "ledger_head", "event_sequence", "command_sequence"))


def _inbox() -> None:
    op.execute("""
CREATE TABLE inbox (
    tenant_id TEXT NOT NULL,
    command_id UUID NOT NULL,
    name TEXT NOT NULL,
    payload_hash BYTEA NOT NULL,
    status TEXT NOT NULL,
    result TEXT,
    error TEXT,
    sequence BIGINT NOT NULL,
    stream_sequence BIGINT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_inbox PRIMARY KEY (tenant_id, command_id),
    CONSTRAINT ck_inbox_status CHECK (status IN ('applied', 'rejected')),
    CONSTRAINT ck_inbox_error CHECK ((status = 'rejected') = (error IS NOT NULL)),
    CONSTRAINT ck_inbox_sequence CHECK (sequence >= 1),
    CONSTRAINT ck_inbox_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_inbox_payload_hash CHECK (octet_length(payload_hash) = 32)
)
""")
    protect("inbox")


def _outbox() -> None:
    op.execute("""
CREATE TABLE outbox (
    tenant_id TEXT NOT NULL,
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    shard BIGINT NOT NULL,
    stream TEXT NOT NULL,
    subject TEXT NOT NULL,
    headers BYTEA NOT NULL,
    body BYTEA NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_outbox PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_outbox_shard CHECK (shard >= 0),
    CONSTRAINT ck_outbox_tenant_id CHECK (tenant_id <> '')
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 50000
)
""")
    op.execute("CREATE INDEX ix_outbox_shard ON outbox (shard, stream, id)")
    protect("outbox")
    let_relay_drain("outbox")


def _document_series() -> None:
    op.execute("""
CREATE TABLE document_series (
    tenant_id TEXT NOT NULL,
    series TEXT NOT NULL,
    fiscal_year BIGINT NOT NULL,
    last_number BIGINT NOT NULL,
    CONSTRAINT pk_document_series PRIMARY KEY (tenant_id, series, fiscal_year),
    CONSTRAINT ck_document_series_last_number CHECK (last_number >= 0),
    CONSTRAINT ck_document_series_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_document_series_fiscal_year CHECK (fiscal_year BETWEEN 1 AND 9999)
) WITH (fillfactor = 50)
""")
    protect("document_series", app_updates=("last_number",))


def _period() -> None:
    op.execute("""
CREATE TABLE period (
    tenant_id TEXT NOT NULL,
    period TEXT NOT NULL,
    status TEXT NOT NULL,
    starts_on DATE NOT NULL,
    ends_on DATE NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_period PRIMARY KEY (tenant_id, period),
    CONSTRAINT ck_period_dates CHECK (starts_on <= ends_on),
    CONSTRAINT ck_period_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_period_period CHECK (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    CONSTRAINT ck_period_status CHECK (status IN ('open', 'closed'))
)
""")
    protect("period", app_updates=("status",))


def _chart_entry() -> None:
    op.execute("""
CREATE TABLE chart_entry (
    tenant_id TEXT NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_chart_entry PRIMARY KEY (tenant_id, code),
    CONSTRAINT ck_chart_entry_code CHECK (code ~ '^[1-9][0-9]{3}$'),
    CONSTRAINT ck_chart_entry_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_chart_entry_kind CHECK (kind IN ('asset', 'liability', 'revenue', 'expense'))
)
""")
    protect("chart_entry")
