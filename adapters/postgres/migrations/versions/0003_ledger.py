"""The ledger: accounts with running totals, and append-only transfers."""

from alembic import op

from adapters.postgres.migrations.protection import protect

revision = "0003_ledger"
down_revision = "0002_documents"
phase = "expand"


def upgrade() -> None:
    _ledger_account()
    _ledger_transfer()


def _ledger_account() -> None:
    op.execute("""
CREATE TABLE ledger_account (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    code TEXT NOT NULL,
    currency TEXT NOT NULL,
    account_id UUID,
    party_id TEXT,
    debits_minor BIGINT NOT NULL,
    credits_minor BIGINT NOT NULL,
    CONSTRAINT pk_ledger_account PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_ledger_account_code CHECK (code ~ '^[1-9][0-9]{3}$'),
    CONSTRAINT ck_ledger_account_totals CHECK (debits_minor >= 0 AND credits_minor >= 0),
    CONSTRAINT ck_ledger_account_party_id CHECK (party_id IS NULL OR account_id IS NOT NULL),
    CONSTRAINT fk_ledger_account_account_id FOREIGN KEY(tenant_id, account_id) REFERENCES account (tenant_id, id),
    CONSTRAINT uq_ledger_account_account_id UNIQUE NULLS NOT DISTINCT (tenant_id, account_id, code, currency, party_id),
    CONSTRAINT ck_ledger_account_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_ledger_account_currency CHECK (currency ~ '^[A-Z]{3}$')
) WITH (fillfactor = 50)
""")
    protect("ledger_account", app_updates=("debits_minor", "credits_minor"))


def _ledger_transfer() -> None:
    op.execute("""
CREATE TABLE ledger_transfer (
    tenant_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    id UUID NOT NULL,
    debit_account_id UUID NOT NULL,
    credit_account_id UUID NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    kind TEXT NOT NULL,
    document_id UUID NOT NULL,
    reverses_document_id UUID,
    effective_on DATE NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    command_id UUID NOT NULL,
    event_sequence BIGINT NOT NULL,
    hash_version BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    CONSTRAINT pk_ledger_transfer PRIMARY KEY (tenant_id, sequence),
    CONSTRAINT ck_ledger_transfer_amount_minor CHECK (amount_minor > 0),
    CONSTRAINT ck_ledger_transfer_accounts CHECK (debit_account_id <> credit_account_id),
    CONSTRAINT ck_ledger_transfer_sequence CHECK (sequence >= 1),
    CONSTRAINT ck_ledger_transfer_hash_version CHECK (hash_version >= 1),
    CONSTRAINT fk_ledger_transfer_debit_account_id FOREIGN KEY(tenant_id, debit_account_id)
        REFERENCES ledger_account (tenant_id, id),
    CONSTRAINT fk_ledger_transfer_credit_account_id FOREIGN KEY(tenant_id, credit_account_id)
        REFERENCES ledger_account (tenant_id, id),
    CONSTRAINT ck_ledger_transfer_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_ledger_transfer_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_ledger_transfer_hash CHECK (octet_length(hash) = 32)
)
""")
    op.execute(
        "CREATE INDEX ix_ledger_transfer_credit_account_id ON ledger_transfer (tenant_id, credit_account_id, sequence)"
    )
    op.execute(
        "CREATE INDEX ix_ledger_transfer_debit_account_id ON ledger_transfer (tenant_id, debit_account_id, sequence)"
    )
    op.execute("CREATE INDEX ix_ledger_transfer_document_id ON ledger_transfer (tenant_id, document_id)")
    protect("ledger_transfer")
