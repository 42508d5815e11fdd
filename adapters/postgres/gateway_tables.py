"""The tables of payments through a gateway: part of the schema's definition (adapters/postgres/tables.py)."""

from typing import Any

from sqlalchemy import Table

from adapters.postgres.declaring import MANY_HOT_UPDATES, check, index, references, table
from domain import gateway_entities

_LIVE_HOLD = f"status IN ({', '.join(sorted(map(repr, gateway_entities.LIVE)))})"

hold = table(
    "hold",
    gateway_entities.Hold,
    check("amounts", "amount_minor > 0 AND authorised_minor >= 0 AND captured_minor >= 0 AND refunded_minor >= 0"),
    check("fee_minor", "fee_minor >= 0"),
    check("requested_minor", "requested_minor IS NULL OR requested_minor > 0"),
    check("captured", "status <> 'captured' OR captured_minor > 0"),
    check("mismatch", "status <> 'mismatch' OR fault IS NOT NULL"),
    check("revision", "revision >= 1"),
    references("account", "account_id"),
    index("ix_hold_account_id", "account_id", "recorded_at"),  # payment.holds of an account, its live ones
    index("ix_hold_recorded_at", "recorded_at"),  # payment.holds
    # What the recovery and the expiry look for, and the balance: few of all there ever were.
    index("ix_hold_live", "changed_at", where=_LIVE_HOLD),
    key=("id",),
    mutable=(
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
    storage=MANY_HOT_UPDATES,
)

hold_allocation = table(
    "hold_allocation",
    gateway_entities.HoldAllocation,
    check("amount_minor", "amount_minor > 0"),
    check("position", "position >= 0"),
    references("hold", "payment_id"),
    references("invoice", "invoice_id"),
    key=("payment_id", "invoice_id"),
)

gateway_refund = table(
    "gateway_refund",
    gateway_entities.GatewayRefund,
    check("amount_minor", "amount_minor > 0"),
    check("revision", "revision >= 1"),
    references("payment", "payment_id"),
    # What the recovery looks for.
    index("ix_gateway_refund_live", "changed_at", where="status IN ('pending', 'unknown')"),
    key=("id",),
    mutable=("status", "revision", "reference", "decline_code", "changed_at"),
)

gateway_payout = table(
    "gateway_payout",
    gateway_entities.Payout,
    check("amount_minor", "amount_minor > 0 AND fee_minor >= 0"),
    key=("adapter", "id"),
)

gateway_circuit = table(
    "gateway_circuit",
    gateway_entities.Circuit,
    check("open_until", "(state = 'open') = (open_until IS NOT NULL)"),
    key=("adapter",),
    mutable=("state", "open_until"),
)

TABLES: dict[type[Any], Table] = {
    gateway_entities.Hold: hold,
    gateway_entities.HoldAllocation: hold_allocation,
    gateway_entities.GatewayRefund: gateway_refund,
    gateway_entities.Payout: gateway_payout,
    gateway_entities.Circuit: gateway_circuit,
}
