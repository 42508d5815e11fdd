"""The rows of the system. An entity is an immutable tuple whose fields are its table's columns, `tenant_id` apart.

Tuples, not classes with behaviour: a batch of them transposes into the column arrays of one `INSERT … SELECT unnest(…)`, and
a changed entity is `entity._replace(…)`. What may change, and how, is decided in the module of its aggregate.
Amounts are minor units of `currency`; `recorded_at` is the JetStream timestamp of the command that created the row.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from schemas.account import AccountStatus, Party, PartyKind
from schemas.charge import ChargeStatus
from schemas.invoice import InvoiceStatus
from schemas.ledger import LedgerAccountKind
from schemas.payment import PaymentMethod, PaymentStatus
from schemas.period import PeriodStatus
from schemas.pricelist import TaxCategory
from schemas.tenant import Locale


class Entity(Protocol):
    """A row of a table: a named tuple with the key that identifies it inside its tenant."""

    @property
    def key(self) -> Any: ...


class Account(NamedTuple):
    id: UUID
    patient: str
    guarantor: str | None
    currency: str
    locale: Locale
    status: AccountStatus
    parties: tuple[Party, ...]
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class PriceList(NamedTuple):
    id: UUID
    price_list: str
    version: int
    currency: str
    effective_from: date
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class PriceItem(NamedTuple):
    price_list_id: UUID
    code: str
    price_list: str
    version: int
    effective_from: date
    currency: str
    unit_price_minor: int
    tax_category: TaxCategory
    revenue_code: str
    description: str | None

    @property
    def key(self) -> tuple[UUID, str]:
        return (self.price_list_id, self.code)


class Charge(NamedTuple):
    id: UUID
    account_id: UUID
    code_system: str
    code: str
    description: str | None
    quantity: Decimal
    unit_price_minor: int
    net_minor: int
    currency: str
    tax_category: TaxCategory
    revenue_code: str
    service_date: date
    encounter: str | None
    performer: str | None
    status: ChargeStatus
    invoice_group_id: UUID | None
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class Invoice(NamedTuple):
    """One party's document. `period` and `fiscal_year` are those of `invoice_date` in the tenant's fiscal calendar."""

    id: UUID
    invoice_group_id: UUID
    account_id: UUID
    party_id: str
    party_kind: PartyKind
    status: InvoiceStatus
    number: str | None
    invoice_date: date
    due_on: date
    period: str
    fiscal_year: int
    currency: str
    net_minor: int
    tax_minor: int
    total_minor: int
    paid_minor: int
    credited_minor: int
    written_off_minor: int
    recorded_at: datetime
    overdue_on: date | None = None  # when the schedule first found it past due

    @property
    def key(self) -> UUID:
        return self.id

    @property
    def open_minor(self) -> int:
        """What is still owed; a draft owes nothing yet but counts in full once issued. Nothing is owed on a void one."""
        if self.status == "void":
            return 0
        return self.total_minor - self.paid_minor - self.credited_minor - self.written_off_minor


class InvoiceLine(NamedTuple):
    invoice_id: UUID
    line_number: int
    charge_id: UUID | None
    description: str
    quantity: Decimal
    net_minor: int
    tax_category: TaxCategory
    tax_rate_basis_points: int
    tax_minor: int
    revenue_code: str
    credited_net_minor: int
    credited_tax_minor: int

    @property
    def key(self) -> tuple[UUID, int]:
        return (self.invoice_id, self.line_number)


class CreditNote(NamedTuple):
    id: UUID
    invoice_id: UUID
    account_id: UUID
    number: str
    issued_on: date
    currency: str
    net_minor: int
    tax_minor: int
    reason: str
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class CreditNoteLine(NamedTuple):
    credit_note_id: UUID
    line_number: int
    net_minor: int
    tax_minor: int

    @property
    def key(self) -> tuple[UUID, int]:
        return (self.credit_note_id, self.line_number)


class Payment(NamedTuple):
    """`value_minor` = amount taken + cash rounding: what the payer gets credit for. `refunding_minor` is reserved for refunds
    that a gateway has not made yet; `charged_back_minor` was lost in disputes."""

    id: UUID
    account_id: UUID
    party_id: str | None
    method: PaymentMethod
    status: PaymentStatus
    reference: str | None
    received_on: date
    currency: str
    amount_minor: int
    cash_rounding_minor: int
    allocated_minor: int
    refunded_minor: int
    recorded_at: datetime
    refunding_minor: int = 0
    charged_back_minor: int = 0

    @property
    def key(self) -> UUID:
        return self.id

    @property
    def value_minor(self) -> int:
        return self.amount_minor + self.cash_rounding_minor

    @property
    def unapplied_minor(self) -> int:
        if self.status == "reversed":
            return 0
        return self.value_minor - self.allocated_minor - self.given_back_minor - self.refunding_minor

    @property
    def given_back_minor(self) -> int:
        return self.refunded_minor + self.charged_back_minor


class Allocation(NamedTuple):
    """Immutable; taking one back is a further row with a negative amount. `cause` is the command that made it."""

    id: UUID
    payment_id: UUID
    invoice_id: UUID
    amount_minor: int
    cause: str
    effective_on: date
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class Refund(NamedTuple):
    id: UUID
    payment_id: UUID
    amount_minor: int
    method: PaymentMethod
    refunded_on: date
    reason: str
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class Period(NamedTuple):
    """A month of the fiscal calendar that was opened or closed explicitly; a month without a row is open."""

    period: str
    status: PeriodStatus
    starts_on: date
    ends_on: date
    recorded_at: datetime

    @property
    def key(self) -> str:
        return self.period


class DocumentSeries(NamedTuple):
    """The last number given out in a series (`INV`, `CN`) and fiscal year: gapless, because it moves with the document."""

    series: str
    fiscal_year: int
    last_number: int

    @property
    def key(self) -> tuple[str, int]:
        return (self.series, self.fiscal_year)


class ChartEntry(NamedTuple):
    code: str
    name: str
    kind: LedgerAccountKind
    recorded_at: datetime

    @property
    def key(self) -> str:
        return self.code


class LedgerAccount(NamedTuple):
    """A ledger account or sub-ledger account with its running totals. Saved as deltas, never as absolute values."""

    id: UUID
    code: str
    currency: str
    account_id: UUID | None
    party_id: str | None
    debits_minor: int
    credits_minor: int

    @property
    def key(self) -> UUID:
        return self.id


class Transfer(NamedTuple):
    """An append-only ledger row, balanced by construction. `hash` chains it to the row before (domain/ledger.py)."""

    sequence: int
    id: UUID
    debit_account_id: UUID
    credit_account_id: UUID
    amount_minor: int
    currency: str
    kind: str
    document_id: UUID
    reverses_document_id: UUID | None
    effective_on: date
    recorded_at: datetime
    command_id: UUID
    event_sequence: int
    hash_version: int
    hash: bytes

    @property
    def key(self) -> int:
        return self.sequence


class Book(NamedTuple):
    """A tenant's counters, one row: the last ledger, event and command sequence and the head of the hash chain."""

    ledger_sequence: int
    ledger_head: bytes
    event_sequence: int
    command_sequence: int

    @property
    def key(self) -> tuple[()]:
        return ()


class InboxEntry(NamedTuple):
    """What a command came to. `result` and `error` are JSON text. `sequence` is the tenant's order of execution."""

    command_id: UUID
    name: str
    payload_hash: bytes
    status: str
    result: str | None
    error: str | None
    sequence: int
    stream_sequence: int
    recorded_at: datetime

    @property
    def key(self) -> UUID:
        return self.command_id


class OutboxRow(NamedTuple):
    """An event on its way out: `headers` is the encoded NATS header block, `id` is given by the database."""

    shard: int
    stream: str
    subject: str
    headers: bytes
    body: bytes
    recorded_at: datetime

    @property
    def key(self) -> tuple[str, bytes]:
        return (self.subject, self.headers)
