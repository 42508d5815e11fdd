"""What the reference model (tests/domain/model.py) keeps, and what follows from it. Imports nothing of the domain."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID

from schemas.codes import Code

TODAY = "2026-11-02"
Row = dict[str, Any]
Effect = Callable[[], Row]  # makes the change; returns what the result has to say about it


class Reason(NamedTuple):
    """`awaits`: it may go away by itself."""

    code: Code
    awaits: bool = False


class Judgement(NamedTuple):
    """`reasons` are those of the lowest stage; none means that the command is applied by `effect`."""

    reasons: list[Reason]
    effect: Effect


def missing(code: Code) -> Reason:
    return Reason(code, awaits=True)


def share(total: int, weights: list[int], position: int) -> int:
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    parts = [int(one) for one in exact]
    by_rest = sorted(range(len(weights)), key=lambda index: (parts[index] - exact[index], index))
    return parts[position] + (1 if position in by_rest[: total - sum(parts)] else 0)


def half_up(value: Decimal | Fraction) -> int:
    exact = Decimal(value.numerator) / Decimal(value.denominator) if isinstance(value, Fraction) else value
    return int(exact.to_integral_value(ROUND_HALF_UP))


def month(day: str) -> str:
    return day[:7]


@dataclass
class State:
    """`invoice_id` tells the id that a document of a command and party will have."""

    invoice_id: Callable[[Any, str], UUID]
    accounts: dict[UUID, Row] = field(default_factory=dict)
    charges: dict[UUID, Row] = field(default_factory=dict)
    invoices: dict[UUID, Row] = field(default_factory=dict)
    payments: dict[UUID, Row] = field(default_factory=dict)
    refunds: set[UUID] = field(default_factory=set)
    notes: set[UUID] = field(default_factory=set)
    closed_months: set[str] = field(default_factory=set)
    known_months: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=lambda: {"INV": 0, "CN": 0})

    # --- what follows from the rows -----------------------------------------------------------------------------------

    def paid(self, invoice_id: UUID) -> int:
        return sum(row["allocated"].get(invoice_id, 0) for row in self.payments.values())

    def credited(self, invoice_id: UUID) -> int:
        return sum(one["credited_net"] + one["credited_tax"] for one in self.invoices[invoice_id]["lines"])

    def total(self, invoice_id: UUID) -> int:
        return sum(one["net"] + one["tax"] for one in self.invoices[invoice_id]["lines"])

    def left(self, invoice_id: UUID) -> int:
        written_off: int = self.invoices[invoice_id]["written_off"]
        return self.total(invoice_id) - self.paid(invoice_id) - self.credited(invoice_id) - written_off

    def status(self, invoice_id: UUID) -> str:
        stage: str = self.invoices[invoice_id]["stage"]
        return stage if stage != "issued" or self.left(invoice_id) else "settled"

    def unapplied(self, payment_id: UUID) -> int:
        row = self.payments[payment_id]
        left: int = row["value"] - sum(row["allocated"].values()) - row["refunded"]
        return 0 if row["reversed"] else left

    def _payment_says(self, payment_id: UUID) -> Row:
        row = self.payments[payment_id]
        return {
            "payment_id": str(payment_id),
            "status": "reversed" if row["reversed"] else "recorded",
            "allocated_minor": sum(row["allocated"].values()),
            "refunded_minor": row["refunded"],
            "unapplied_minor": self.unapplied(payment_id),
        }

    def _invoice_says(self, invoice_id: UUID) -> Row:
        status = self.status(invoice_id)
        return {
            "invoice_id": str(invoice_id),
            "status": status,
            "number": self.invoices[invoice_id]["number"],
            "total_minor": self.total(invoice_id),
            "open_minor": 0 if status == "void" else self.left(invoice_id),
        }

    def _period(self, day: str) -> list[Reason]:
        return [Reason(Code.PERIOD_CLOSED)] if month(day) in self.closed_months else []

    def _account(self, account_id: UUID) -> list[Reason]:
        if account_id not in self.accounts:
            return [missing(Code.ACCOUNT_NOT_FOUND)]
        return [Reason(Code.ACCOUNT_CLOSED)] if self.accounts[account_id]["closed"] else []

    def _of_account(self, rows: dict[UUID, Row], account_id: UUID) -> list[UUID]:
        return [key for key, row in rows.items() if row["account"] == account_id]
