"""Payments through a gateway: holds, refunds under way, payouts, circuits; and what of it shows on a payment."""

from alembic import op

from adapters.postgres.migrations.protection import protect

revision = "0006_gateway"
down_revision = "0005_schedules"
phase = "expand"

# What replaces it, in the same transaction, lets through what the dropped one let through.
_WIDER = "-- squawk-ignore ban-drop-constraint\n"
_METHODS = "'cash', 'bank', 'mobile_money', 'cheque', 'insurer_remittance', 'gateway'"


def upgrade() -> None:
    _payment()
    _hold()
    _hold_allocation()
    _gateway_refund()
    _gateway_payout()
    _gateway_circuit()


def _payment() -> None:
    """Constants as defaults: no rewrite, and the release before this one need not know the columns. The checks are wider than
    before; 0007 validates them, without this transaction's lock."""
    for column in ("refunding_minor", "charged_back_minor"):
        op.execute(f"ALTER TABLE payment ADD COLUMN {column} BIGINT DEFAULT 0 NOT NULL")
        op.execute(f"GRANT UPDATE ({column}) ON payment TO billing_app")
    for table in ("payment", "refund"):
        op.execute(f"{_WIDER}ALTER TABLE {table} DROP CONSTRAINT ck_{table}_method")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_method CHECK (method IN ({_METHODS})) NOT VALID")
    op.execute("""
ALTER TABLE payment ADD CONSTRAINT ck_payment_given_back
CHECK (refunding_minor >= 0 AND charged_back_minor >= 0) NOT VALID
""")
    op.execute(f"{_WIDER}ALTER TABLE payment DROP CONSTRAINT ck_payment_unapplied_minor")
    op.execute("""
ALTER TABLE payment ADD CONSTRAINT ck_payment_unapplied_minor
CHECK (allocated_minor + refunded_minor + refunding_minor + charged_back_minor <= amount_minor + cash_rounding_minor) NOT VALID
""")


def _hold() -> None:
    op.execute("""
CREATE TABLE hold (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    party_id TEXT,
    adapter TEXT NOT NULL,
    status TEXT NOT NULL,
    intent TEXT NOT NULL,
    revision BIGINT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    capture TEXT NOT NULL,
    source TEXT NOT NULL,
    requested_minor BIGINT,
    authorised_minor BIGINT NOT NULL,
    captured_minor BIGINT NOT NULL,
    refunded_minor BIGINT NOT NULL,
    fee_minor BIGINT NOT NULL,
    gateway_currency TEXT,
    reference TEXT,
    decline_code TEXT,
    fault TEXT,
    dispute TEXT,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_hold PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_hold_amounts
        CHECK (amount_minor > 0 AND authorised_minor >= 0 AND captured_minor >= 0 AND refunded_minor >= 0),
    CONSTRAINT ck_hold_fee_minor CHECK (fee_minor >= 0),
    CONSTRAINT ck_hold_requested_minor CHECK (requested_minor IS NULL OR requested_minor > 0),
    CONSTRAINT ck_hold_captured CHECK (status <> 'captured' OR captured_minor > 0),
    CONSTRAINT ck_hold_mismatch CHECK (status <> 'mismatch' OR fault IS NOT NULL),
    CONSTRAINT ck_hold_revision CHECK (revision >= 1),
    CONSTRAINT fk_hold_account_id FOREIGN KEY(tenant_id, account_id) REFERENCES account (tenant_id, id),
    CONSTRAINT ck_hold_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_hold_adapter CHECK (adapter IN ('stripe', 'generic')),
    CONSTRAINT ck_hold_status
        CHECK (status IN ('pending', 'authorised', 'capturing', 'cancelling', 'unknown',
                          'captured', 'declined', 'cancelled', 'expired', 'mismatch')),
    CONSTRAINT ck_hold_intent CHECK (intent IN ('charge', 'capture', 'cancel', 'expire')),
    CONSTRAINT ck_hold_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_hold_capture CHECK (capture IN ('automatic', 'manual')),
    CONSTRAINT ck_hold_fault
        CHECK (fault IN ('currency_mismatch', 'amount_mismatch', 'captured_late', 'capture_refused', 'cancel_refused',
                         'refund_mismatch', 'absent')),
    CONSTRAINT ck_hold_dispute CHECK (dispute IN ('opened', 'won', 'lost'))
) WITH (fillfactor = 50)
""")
    op.execute("CREATE INDEX ix_hold_account_id ON hold (tenant_id, account_id, recorded_at)")
    op.execute("""
CREATE INDEX ix_hold_live ON hold (tenant_id, changed_at)
WHERE status IN ('authorised', 'cancelling', 'capturing', 'pending', 'unknown')
""")
    op.execute("CREATE INDEX ix_hold_recorded_at ON hold (tenant_id, recorded_at)")
    protect(
        "hold",
        app_updates=(
            "status",
            "intent",
            "revision",
            "requested_minor",
            "authorised_minor",
            "captured_minor",
            "refunded_minor",
            "fee_minor",
            "gateway_currency",
            "reference",
            "decline_code",
            "fault",
            "dispute",
            "expires_at",
            "changed_at",
        ),
    )


def _hold_allocation() -> None:
    op.execute("""
CREATE TABLE hold_allocation (
    tenant_id TEXT NOT NULL,
    payment_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    position BIGINT NOT NULL,
    amount_minor BIGINT NOT NULL,
    CONSTRAINT pk_hold_allocation PRIMARY KEY (tenant_id, payment_id, invoice_id),
    CONSTRAINT ck_hold_allocation_amount_minor CHECK (amount_minor > 0),
    CONSTRAINT ck_hold_allocation_position CHECK (position >= 0),
    CONSTRAINT fk_hold_allocation_payment_id FOREIGN KEY(tenant_id, payment_id) REFERENCES hold (tenant_id, id),
    CONSTRAINT fk_hold_allocation_invoice_id FOREIGN KEY(tenant_id, invoice_id) REFERENCES invoice (tenant_id, id),
    CONSTRAINT ck_hold_allocation_tenant_id CHECK (tenant_id <> '')
)
""")
    protect("hold_allocation")


def _gateway_refund() -> None:
    op.execute("""
CREATE TABLE gateway_refund (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    payment_id UUID NOT NULL,
    status TEXT NOT NULL,
    revision BIGINT NOT NULL,
    amount_minor BIGINT NOT NULL,
    reason TEXT NOT NULL,
    reference TEXT,
    decline_code TEXT,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_gateway_refund PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_gateway_refund_amount_minor CHECK (amount_minor > 0),
    CONSTRAINT ck_gateway_refund_revision CHECK (revision >= 1),
    CONSTRAINT fk_gateway_refund_payment_id FOREIGN KEY(tenant_id, payment_id) REFERENCES payment (tenant_id, id),
    CONSTRAINT ck_gateway_refund_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_gateway_refund_status CHECK (status IN ('done', 'pending', 'unknown', 'failed'))
)
""")
    op.execute("""
CREATE INDEX ix_gateway_refund_live ON gateway_refund (tenant_id, changed_at)
WHERE status IN ('pending', 'unknown')
""")
    protect(
        "gateway_refund",
        app_updates=(
            "status",
            "revision",
            "reference",
            "decline_code",
            "changed_at",
        ),
    )


def _gateway_payout() -> None:
    op.execute("""
CREATE TABLE gateway_payout (
    tenant_id TEXT NOT NULL,
    adapter TEXT NOT NULL,
    id TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    fee_minor BIGINT NOT NULL,
    paid_on DATE NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_gateway_payout PRIMARY KEY (tenant_id, adapter, id),
    CONSTRAINT ck_gateway_payout_amount_minor CHECK (amount_minor > 0 AND fee_minor >= 0),
    CONSTRAINT ck_gateway_payout_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_gateway_payout_adapter CHECK (adapter IN ('stripe', 'generic')),
    CONSTRAINT ck_gateway_payout_currency CHECK (currency ~ '^[A-Z]{3}$')
)
""")
    protect("gateway_payout")


def _gateway_circuit() -> None:
    op.execute("""
CREATE TABLE gateway_circuit (
    tenant_id TEXT NOT NULL,
    adapter TEXT NOT NULL,
    state TEXT NOT NULL,
    open_until TIMESTAMP WITH TIME ZONE,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_gateway_circuit PRIMARY KEY (tenant_id, adapter),
    CONSTRAINT ck_gateway_circuit_open_until CHECK ((state = 'open') = (open_until IS NOT NULL)),
    CONSTRAINT ck_gateway_circuit_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_gateway_circuit_adapter CHECK (adapter IN ('stripe', 'generic')),
    CONSTRAINT ck_gateway_circuit_state CHECK (state IN ('open', 'closed'))
)
""")
    protect(
        "gateway_circuit",
        app_updates=(
            "state",
            "open_until",
        ),
    )
