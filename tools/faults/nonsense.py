"""Messages that must hurt nobody: those that fit no schema, which end as dead letters, and those that name what is not theirs."""

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

_BEYOND_ANY_PARSER = 5_000  # levels of nesting
_BEYOND_THE_CANONICAL_FORM = 300
_LONG = 100_000


class Malformed(NamedTuple):
    """`message_id` "" for an ordinary one."""

    command: str
    body: bytes
    headers: dict[str, str]
    message_id: str = ""


def _nested(levels: int) -> bytes:
    return b'{"allocations":' + b"[" * levels + b"]" * levels + b"}"


def _with(payment: dict[str, Any], **changed: Any) -> bytes:
    return json.dumps(payment | changed).encode()


# By what is wrong. Each gets a payment that would be sound, and another tenant.
_Make = Callable[[dict[str, Any], str], bytes]
_BODIES: dict[str, _Make] = {
    "half a body": lambda _payment, _other: b'{"amount": "much"',
    "no body": lambda _payment, _other: b"",
    "a list": lambda _payment, _other: b"[]",
    "invalid UTF-8": lambda payment, _other: _with(payment, reference="MARK").replace(b"MARK", b"\xff\xfe\xc3\x28"),
    "half a surrogate pair": lambda payment, _other: _with(payment, reference="MARK").replace(b"MARK", b"\\ud800"),
    "a NUL byte": lambda payment, _other: _with(payment, reference="a\0b"),
    "NaN": lambda payment, _other: _with(payment, cash_rounding_minor=float("nan")),
    "an amount of 40 digits": lambda payment, _other: _with(
        payment, amount={"amount_minor": 10**40, "currency": "AFN"}
    ),
    "an amount beyond 64 bits": lambda payment, _other: _with(
        payment, amount={"amount_minor": 2**63, "currency": "AFN"}
    ),
    "a broken amount": lambda payment, _other: _with(payment, amount={"amount_minor": 1.5, "currency": "AFN"}),
    "nested beyond any parser": lambda _payment, _other: _nested(_BEYOND_ANY_PARSER),
    "nested beyond the canonical form": lambda _payment, _other: _nested(_BEYOND_THE_CANONICAL_FORM),
    "a version of the schema from the future": lambda payment, _other: _with(payment, schema_version=99),
    "a long text": lambda payment, _other: _with(payment, reference="x" * _LONG),
    "another tenant": lambda payment, other: _with(payment, tenant_id=other),
}


def malformed(chance: random.Random, payment: dict[str, Any], other_tenant: str) -> Malformed:
    """One of them, whichever the dice say."""
    sound = _with(payment)
    shapes = {what: Malformed("payment.record", make(payment, other_tenant), {}) for what, make in _BODIES.items()}
    shapes |= {
        "a command nobody knows": Malformed("payment.explode", sound, {}),
        "a reply that would be a command": Malformed(
            "payment.record", sound, {"Billing-Reply-To": f"billing.v1.cmd.{other_tenant}.payment.record"}
        ),
        "an actor of two words": Malformed("payment.record", sound, {"Billing-Actor": "two words"}),
        "no UUID for an id": Malformed("payment.record", sound, {}, f"not-a-uuid-{uuid4()}"),
    }
    return shapes[chance.choice(sorted(shapes))]


class Refused(NamedTuple):
    command: str
    body: dict[str, Any]
    code: str


def refused(
    chance: random.Random, payment: dict[str, Any], known_payment_id: str, foreign_account_id: str, *, at_once: bool
) -> Refused:
    """A sound body with an id of something else, of somebody else, or that is taken.

    `at_once`: none that waits for what it names to appear, which after an outage takes half a minute (handlers/waits.py).
    """
    sure = (
        Refused("payment.record", payment | {"payment_id": known_payment_id}, "already_exists"),
        Refused("payment.record", payment | {"amount": {"amount_minor": 5, "currency": "EUR"}}, "currency_mismatch"),
        Refused(
            "payment.refund",
            {"payment_id": known_payment_id, "amount_minor": 10**9, "reason": "asked"},
            "refund_exceeds_credit",
        ),
    )
    waiting = (
        Refused("payment.record", payment | {"account_id": foreign_account_id}, "account_not_found"),
        Refused("invoice.issue", {"invoice_id": known_payment_id}, "invoice_not_found"),
        Refused("credit_note.issue", {"invoice_id": payment["account_id"], "reason": "asked"}, "invoice_not_found"),
        Refused("payment.reverse", {"payment_id": payment["account_id"], "reason": "asked"}, "payment_not_found"),
        Refused("payment.record", payment | {"allocations": _one(str(uuid4()))}, "invoice_not_found"),
    )
    return chance.choice(sure if at_once else sure + waiting)


def _one(invoice_id: str) -> list[dict[str, Any]]:
    return [{"invoice_id": invoice_id, "amount_minor": 1}]


def other_body(payment: bytes) -> bytes:
    """Of the same shape, and not the same."""
    return json.dumps(json.loads(payment) | {"reference": "another"}).encode()
