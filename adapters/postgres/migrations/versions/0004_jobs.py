"""Jobs and what they make: statements, GL account codes and exports; overdue marks on invoices."""

from alembic import op

from adapters.postgres.migrations.protection import protect

revision = "0004_jobs"
down_revision = "0003_ledger"
phase = "expand"


def upgrade() -> None:
    # Nullable and without a default: no rewrite, and the release before this one need not know the column.
    op.execute("ALTER TABLE invoice ADD COLUMN overdue_on DATE")
    op.execute("GRANT UPDATE (overdue_on) ON invoice TO billing_app")
    _job()
    _statement()
    _gl()


def _job() -> None:
    op.execute("""
CREATE TABLE job (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    parameters JSONB NOT NULL,
    total BIGINT NOT NULL,
    done BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    error_code TEXT,
    error_detail TEXT,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_job PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_job_counts CHECK (total >= 0 AND done >= 0 AND failed >= 0 AND done + failed <= total),
    CONSTRAINT ck_job_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_job_kind CHECK (kind IN ('statements', 'gl_export')),
    CONSTRAINT ck_job_status CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled'))
) WITH (fillfactor = 50)
""")
    op.execute("CREATE INDEX ix_job_recorded_at ON job (tenant_id, recorded_at)")
    protect(
        "job",
        app_updates=("status", "total", "done", "failed", "error_code", "error_detail", "started_at", "finished_at"),
    )


def _statement() -> None:
    op.execute("""
CREATE TABLE statement (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    job_id UUID NOT NULL,
    account_id UUID NOT NULL,
    party_id TEXT NOT NULL,
    period TEXT NOT NULL,
    status TEXT NOT NULL,
    locale TEXT NOT NULL,
    currency TEXT NOT NULL,
    opening_minor BIGINT NOT NULL,
    closing_minor BIGINT NOT NULL,
    due_minor BIGINT NOT NULL,
    json_key TEXT,
    json_sha256 TEXT,
    pdf_key TEXT,
    pdf_sha256 TEXT,
    error_code TEXT,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_statement PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_statement_files CHECK (status = 'failed' OR (json_key IS NOT NULL AND pdf_key IS NOT NULL)),
    CONSTRAINT fk_statement_job_id FOREIGN KEY(tenant_id, job_id) REFERENCES job (tenant_id, id),
    CONSTRAINT fk_statement_account_id FOREIGN KEY(tenant_id, account_id) REFERENCES account (tenant_id, id),
    CONSTRAINT ck_statement_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_statement_period CHECK (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    CONSTRAINT ck_statement_status CHECK (status IN ('issued', 'failed')),
    CONSTRAINT ck_statement_locale CHECK (locale IN ('en', 'ar', 'fa-AF', 'ps')),
    CONSTRAINT ck_statement_currency CHECK (currency ~ '^[A-Z]{3}$')
)
""")
    op.execute("CREATE INDEX ix_statement_account_id ON statement (tenant_id, account_id, recorded_at)")
    op.execute("CREATE INDEX ix_statement_job_id ON statement (tenant_id, job_id, recorded_at)")
    op.execute("CREATE INDEX ix_statement_recorded_at ON statement (tenant_id, recorded_at)")
    protect("statement")


def _gl() -> None:
    op.execute("""
CREATE TABLE gl_account (
    tenant_id TEXT NOT NULL,
    ledger_code TEXT NOT NULL,
    gl_code TEXT NOT NULL,
    gl_name TEXT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_gl_account PRIMARY KEY (tenant_id, ledger_code),
    CONSTRAINT ck_gl_account_tenant_id CHECK (tenant_id <> '')
)
""")
    protect("gl_account", app_updates=("gl_code", "gl_name"))
    op.execute("""
CREATE TABLE gl_export (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    scope TEXT NOT NULL,
    status TEXT NOT NULL,
    period TEXT,
    form TEXT NOT NULL,
    upto_sequence BIGINT NOT NULL,
    transfers BIGINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    first_hash TEXT,
    last_hash TEXT,
    totals JSONB NOT NULL,
    files JSONB NOT NULL,
    manifest_key TEXT,
    manifest_sha256 TEXT,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_gl_export PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_gl_export_manifest CHECK (status <> 'written' OR manifest_key IS NOT NULL),
    CONSTRAINT fk_gl_export_id FOREIGN KEY(tenant_id, id) REFERENCES job (tenant_id, id),
    CONSTRAINT ck_gl_export_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_gl_export_status CHECK (status IN ('requested', 'written', 'abandoned')),
    CONSTRAINT ck_gl_export_period CHECK (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    CONSTRAINT ck_gl_export_form CHECK (form IN ('summary', 'detail'))
)
""")
    op.execute("CREATE INDEX ix_gl_export_recorded_at ON gl_export (tenant_id, recorded_at)")
    op.execute("CREATE INDEX ix_gl_export_scope ON gl_export (tenant_id, scope, recorded_at)")
    protect(
        "gl_export",
        app_updates=(
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
