"""Accounts, price lists, charges, invoices, credit notes, payments, allocations, refunds."""

from alembic import op

from adapters.postgres.migrations.protection import protect

revision = "0002_documents"
down_revision = "0001_mesh"
phase = "expand"


def upgrade() -> None:
    _account()
    _price_list()
    _price_item()
    _charge()
    _invoice()
    _invoice_line()
    _credit_note()
    _credit_note_line()
    _payment()
    _allocation()
    _refund()


def _account() -> None:
    op.execute("""
CREATE TABLE account (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    patient TEXT NOT NULL,
    guarantor TEXT,
    currency TEXT NOT NULL,
    locale TEXT NOT NULL,
    status TEXT NOT NULL,
    parties JSONB NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_account PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_account_parties
        CHECK (jsonb_typeof(parties) = 'array' AND jsonb_array_length(parties) BETWEEN 1 AND 20),
    CONSTRAINT ck_account_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_account_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_account_locale CHECK (locale IN ('en', 'ar', 'fa-AF', 'ps')),
    CONSTRAINT ck_account_status CHECK (status IN ('open', 'closed'))
)
""")
    op.execute("CREATE INDEX ix_account_patient ON account (tenant_id, patient, recorded_at)")
    op.execute("CREATE INDEX ix_account_recorded_at ON account (tenant_id, recorded_at)")
    protect("account", app_updates=("guarantor", "locale", "status", "parties"))


def _price_list() -> None:
    op.execute("""
CREATE TABLE price_list (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    price_list TEXT NOT NULL,
    version BIGINT NOT NULL,
    currency TEXT NOT NULL,
    effective_from DATE NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_price_list PRIMARY KEY (tenant_id, id),
    CONSTRAINT uq_price_list_price_list UNIQUE (tenant_id, price_list, version),
    CONSTRAINT ck_price_list_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_price_list_version CHECK (version >= 1),
    CONSTRAINT ck_price_list_currency CHECK (currency ~ '^[A-Z]{3}$')
)
""")
    protect("price_list")


def _price_item() -> None:
    op.execute("""
CREATE TABLE price_item (
    tenant_id TEXT NOT NULL,
    price_list_id UUID NOT NULL,
    code TEXT NOT NULL,
    price_list TEXT NOT NULL,
    version BIGINT NOT NULL,
    effective_from DATE NOT NULL,
    currency TEXT NOT NULL,
    unit_price_minor BIGINT NOT NULL,
    tax_category TEXT NOT NULL,
    revenue_code TEXT NOT NULL,
    description TEXT,
    CONSTRAINT pk_price_item PRIMARY KEY (tenant_id, price_list_id, code),
    CONSTRAINT ck_price_item_unit_price_minor CHECK (unit_price_minor >= 0),
    CONSTRAINT fk_price_item_price_list_id FOREIGN KEY(tenant_id, price_list_id) REFERENCES price_list (tenant_id, id),
    CONSTRAINT ck_price_item_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_price_item_version CHECK (version >= 1),
    CONSTRAINT ck_price_item_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_price_item_tax_category CHECK (tax_category IN ('standard', 'zero', 'exempt', 'health_service')),
    CONSTRAINT ck_price_item_revenue_code CHECK (revenue_code ~ '^[1-9][0-9]{3}$')
)
""")
    op.execute("CREATE INDEX ix_price_item_price_list_code ON price_item (tenant_id, price_list, code)")
    protect("price_item")


def _charge() -> None:
    op.execute("""
CREATE TABLE charge (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    code_system TEXT NOT NULL,
    code TEXT NOT NULL,
    description TEXT,
    quantity NUMERIC(12, 3) NOT NULL,
    unit_price_minor BIGINT NOT NULL,
    net_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    tax_category TEXT NOT NULL,
    revenue_code TEXT NOT NULL,
    service_date DATE NOT NULL,
    encounter TEXT,
    performer TEXT,
    status TEXT NOT NULL,
    invoice_group_id UUID,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_charge PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_charge_amounts CHECK (unit_price_minor >= 0 AND net_minor >= 0),
    CONSTRAINT ck_charge_invoice_group_id CHECK (status <> 'invoiced' OR invoice_group_id IS NOT NULL),
    CONSTRAINT fk_charge_account_id FOREIGN KEY(tenant_id, account_id) REFERENCES account (tenant_id, id),
    CONSTRAINT ck_charge_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_charge_quantity CHECK (quantity > 0),
    CONSTRAINT ck_charge_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_charge_tax_category CHECK (tax_category IN ('standard', 'zero', 'exempt', 'health_service')),
    CONSTRAINT ck_charge_revenue_code CHECK (revenue_code ~ '^[1-9][0-9]{3}$'),
    CONSTRAINT ck_charge_status CHECK (status IN ('open', 'invoiced', 'void'))
)
""")
    op.execute("CREATE INDEX ix_charge_account_id ON charge (tenant_id, account_id, recorded_at)")
    op.execute(
        "CREATE INDEX ix_charge_invoice_group_id ON charge (tenant_id, invoice_group_id) WHERE invoice_group_id IS NOT NULL"
    )
    protect("charge", app_updates=("status", "invoice_group_id"))


def _invoice() -> None:
    op.execute("""
CREATE TABLE invoice (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    invoice_group_id UUID NOT NULL,
    account_id UUID NOT NULL,
    party_id TEXT NOT NULL,
    party_kind TEXT NOT NULL,
    status TEXT NOT NULL,
    number TEXT,
    invoice_date DATE NOT NULL,
    due_on DATE NOT NULL,
    period TEXT NOT NULL,
    fiscal_year BIGINT NOT NULL,
    currency TEXT NOT NULL,
    net_minor BIGINT NOT NULL,
    tax_minor BIGINT NOT NULL,
    total_minor BIGINT NOT NULL,
    paid_minor BIGINT NOT NULL,
    credited_minor BIGINT NOT NULL,
    written_off_minor BIGINT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_invoice PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_invoice_amounts CHECK (net_minor >= 0 AND tax_minor >= 0 AND total_minor = net_minor + tax_minor),
    CONSTRAINT ck_invoice_applied CHECK (paid_minor >= 0 AND credited_minor >= 0 AND written_off_minor >= 0),
    CONSTRAINT ck_invoice_open_minor CHECK (paid_minor + credited_minor + written_off_minor <= total_minor),
    CONSTRAINT ck_invoice_settled
        CHECK (status <> 'settled' OR paid_minor + credited_minor + written_off_minor = total_minor),
    CONSTRAINT ck_invoice_draft
        CHECK (status <> 'draft' OR (number IS NULL AND paid_minor + credited_minor + written_off_minor = 0)),
    CONSTRAINT ck_invoice_number CHECK (status NOT IN ('issued', 'settled') OR number IS NOT NULL),
    CONSTRAINT fk_invoice_account_id FOREIGN KEY(tenant_id, account_id) REFERENCES account (tenant_id, id),
    CONSTRAINT ck_invoice_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_invoice_party_kind
        CHECK (party_kind IN ('patient', 'relative', 'employer', 'insurer', 'sponsor', 'hospital')),
    CONSTRAINT ck_invoice_status CHECK (status IN ('draft', 'issued', 'settled', 'void')),
    CONSTRAINT ck_invoice_period CHECK (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    CONSTRAINT ck_invoice_fiscal_year CHECK (fiscal_year BETWEEN 1 AND 9999),
    CONSTRAINT ck_invoice_currency CHECK (currency ~ '^[A-Z]{3}$')
) WITH (fillfactor = 80)
""")
    op.execute("CREATE INDEX ix_invoice_account_id ON invoice (tenant_id, account_id, recorded_at)")
    op.execute("CREATE INDEX ix_invoice_draft_period ON invoice (tenant_id, period) WHERE number IS NULL")
    op.execute("CREATE INDEX ix_invoice_invoice_group_id ON invoice (tenant_id, invoice_group_id)")
    op.execute("CREATE INDEX ix_invoice_recorded_at ON invoice (tenant_id, recorded_at)")
    op.execute("CREATE UNIQUE INDEX uq_invoice_number ON invoice (tenant_id, number) WHERE number IS NOT NULL")
    protect("invoice", app_updates=("status", "number", "paid_minor", "credited_minor", "written_off_minor"))


def _invoice_line() -> None:
    op.execute("""
CREATE TABLE invoice_line (
    tenant_id TEXT NOT NULL,
    invoice_id UUID NOT NULL,
    line_number BIGINT NOT NULL,
    charge_id UUID,
    description TEXT NOT NULL,
    quantity NUMERIC(12, 3) NOT NULL,
    net_minor BIGINT NOT NULL,
    tax_category TEXT NOT NULL,
    tax_rate_basis_points BIGINT NOT NULL,
    tax_minor BIGINT NOT NULL,
    revenue_code TEXT NOT NULL,
    credited_net_minor BIGINT NOT NULL,
    credited_tax_minor BIGINT NOT NULL,
    CONSTRAINT pk_invoice_line PRIMARY KEY (tenant_id, invoice_id, line_number),
    CONSTRAINT ck_invoice_line_amounts CHECK (net_minor >= 0 AND tax_minor >= 0),
    CONSTRAINT ck_invoice_line_credited_net_minor CHECK (credited_net_minor BETWEEN 0 AND net_minor),
    CONSTRAINT ck_invoice_line_credited_tax_minor CHECK (credited_tax_minor BETWEEN 0 AND tax_minor),
    CONSTRAINT fk_invoice_line_invoice_id FOREIGN KEY(tenant_id, invoice_id) REFERENCES invoice (tenant_id, id),
    CONSTRAINT fk_invoice_line_charge_id FOREIGN KEY(tenant_id, charge_id) REFERENCES charge (tenant_id, id),
    CONSTRAINT ck_invoice_line_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_invoice_line_line_number CHECK (line_number >= 1),
    CONSTRAINT ck_invoice_line_quantity CHECK (quantity > 0),
    CONSTRAINT ck_invoice_line_tax_category CHECK (tax_category IN ('standard', 'zero', 'exempt', 'health_service')),
    CONSTRAINT ck_invoice_line_tax_rate_basis_points CHECK (tax_rate_basis_points BETWEEN 0 AND 10000),
    CONSTRAINT ck_invoice_line_revenue_code CHECK (revenue_code ~ '^[1-9][0-9]{3}$')
)
""")
    protect("invoice_line", app_updates=("credited_net_minor", "credited_tax_minor"))


def _credit_note() -> None:
    op.execute("""
CREATE TABLE credit_note (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    account_id UUID NOT NULL,
    number TEXT NOT NULL,
    issued_on DATE NOT NULL,
    currency TEXT NOT NULL,
    net_minor BIGINT NOT NULL,
    tax_minor BIGINT NOT NULL,
    reason TEXT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_credit_note PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_credit_note_amounts CHECK (net_minor >= 0 AND tax_minor >= 0),
    CONSTRAINT fk_credit_note_invoice_id FOREIGN KEY(tenant_id, invoice_id) REFERENCES invoice (tenant_id, id),
    CONSTRAINT fk_credit_note_account_id FOREIGN KEY(tenant_id, account_id) REFERENCES account (tenant_id, id),
    CONSTRAINT ck_credit_note_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_credit_note_currency CHECK (currency ~ '^[A-Z]{3}$')
)
""")
    op.execute("CREATE INDEX ix_credit_note_invoice_id ON credit_note (tenant_id, invoice_id)")
    op.execute("CREATE UNIQUE INDEX uq_credit_note_number ON credit_note (tenant_id, number)")
    protect("credit_note")


def _credit_note_line() -> None:
    op.execute("""
CREATE TABLE credit_note_line (
    tenant_id TEXT NOT NULL,
    credit_note_id UUID NOT NULL,
    line_number BIGINT NOT NULL,
    net_minor BIGINT NOT NULL,
    tax_minor BIGINT NOT NULL,
    CONSTRAINT pk_credit_note_line PRIMARY KEY (tenant_id, credit_note_id, line_number),
    CONSTRAINT ck_credit_note_line_amounts CHECK (net_minor >= 0 AND tax_minor >= 0),
    CONSTRAINT fk_credit_note_line_credit_note_id FOREIGN KEY(tenant_id, credit_note_id)
        REFERENCES credit_note (tenant_id, id),
    CONSTRAINT ck_credit_note_line_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_credit_note_line_line_number CHECK (line_number >= 1)
)
""")
    protect("credit_note_line")


def _payment() -> None:
    op.execute("""
CREATE TABLE payment (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    party_id TEXT,
    method TEXT NOT NULL,
    status TEXT NOT NULL,
    reference TEXT,
    received_on DATE NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    cash_rounding_minor BIGINT NOT NULL,
    allocated_minor BIGINT NOT NULL,
    refunded_minor BIGINT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_payment PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_payment_amount_minor CHECK (amount_minor > 0),
    CONSTRAINT ck_payment_cash_rounding_minor CHECK (cash_rounding_minor = 0 OR method = 'cash'),
    CONSTRAINT ck_payment_applied CHECK (allocated_minor >= 0 AND refunded_minor >= 0),
    CONSTRAINT ck_payment_unapplied_minor
        CHECK (allocated_minor + refunded_minor <= amount_minor + cash_rounding_minor),
    CONSTRAINT fk_payment_account_id FOREIGN KEY(tenant_id, account_id) REFERENCES account (tenant_id, id),
    CONSTRAINT ck_payment_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_payment_method CHECK (method IN ('cash', 'bank', 'mobile_money', 'cheque', 'insurer_remittance')),
    CONSTRAINT ck_payment_status CHECK (status IN ('recorded', 'reversed')),
    CONSTRAINT ck_payment_currency CHECK (currency ~ '^[A-Z]{3}$')
) WITH (fillfactor = 80)
""")
    op.execute("CREATE INDEX ix_payment_account_id ON payment (tenant_id, account_id, recorded_at)")
    op.execute("CREATE INDEX ix_payment_recorded_at ON payment (tenant_id, recorded_at)")
    protect("payment", app_updates=("status", "allocated_minor", "refunded_minor"))


def _allocation() -> None:
    op.execute("""
CREATE TABLE allocation (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    payment_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    amount_minor BIGINT NOT NULL,
    cause TEXT NOT NULL,
    effective_on DATE NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_allocation PRIMARY KEY (tenant_id, payment_id, id),
    CONSTRAINT ck_allocation_amount_minor CHECK (amount_minor <> 0),
    CONSTRAINT fk_allocation_payment_id FOREIGN KEY(tenant_id, payment_id) REFERENCES payment (tenant_id, id),
    CONSTRAINT fk_allocation_invoice_id FOREIGN KEY(tenant_id, invoice_id) REFERENCES invoice (tenant_id, id),
    CONSTRAINT ck_allocation_tenant_id CHECK (tenant_id <> '')
)
""")
    op.execute("CREATE INDEX ix_allocation_invoice_id ON allocation (tenant_id, invoice_id)")
    protect("allocation")


def _refund() -> None:
    op.execute("""
CREATE TABLE refund (
    tenant_id TEXT NOT NULL,
    id UUID NOT NULL,
    payment_id UUID NOT NULL,
    amount_minor BIGINT NOT NULL,
    method TEXT NOT NULL,
    refunded_on DATE NOT NULL,
    reason TEXT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_refund PRIMARY KEY (tenant_id, id),
    CONSTRAINT ck_refund_amount_minor CHECK (amount_minor > 0),
    CONSTRAINT fk_refund_payment_id FOREIGN KEY(tenant_id, payment_id) REFERENCES payment (tenant_id, id),
    CONSTRAINT ck_refund_tenant_id CHECK (tenant_id <> ''),
    CONSTRAINT ck_refund_method CHECK (method IN ('cash', 'bank', 'mobile_money', 'cheque', 'insurer_remittance'))
)
""")
    op.execute("CREATE INDEX ix_refund_payment_id ON refund (tenant_id, payment_id)")
    protect("refund")
