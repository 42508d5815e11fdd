"""A body for every command that its schema accepts and that names ids nobody has."""

from typing import Any

from tests.domain.hospital import line, money
from tests.domain.world import uid

NOBODY = uid(0xDEAD)

BODIES: dict[str, dict[str, Any]] = {
    "account.open": {"account_id": NOBODY, "patient": "Patient/1", "currency": "AED"},
    "account.update": {"account_id": NOBODY},
    "account.close": {"account_id": NOBODY},
    "pricelist.publish": {
        "price_list": "main",
        "currency": "AED",
        "effective_from": "2026-01-01",
        "prices": [{"code": "A00", "unit_price_minor": 100}],
    },
    "charge.capture": {
        "account_id": NOBODY,
        "code_system": "urn:codes",
        "code": "A00",
        "quantity": 1,
        "unit_price": money(100),
    },
    "charge.void": {"charge_id": NOBODY, "reason": "wrong"},
    "invoice.create": {"account_id": NOBODY, "lines": [line(100)]},
    "invoice.issue": {"invoice_id": NOBODY},
    "invoice.void": {"invoice_id": NOBODY, "reason": "wrong"},
    "invoice.write_off": {"invoice_id": NOBODY, "reason": "poor"},
    "credit_note.issue": {"invoice_id": NOBODY, "reason": "wrong"},
    "payment.record": {"account_id": NOBODY, "amount": money(100), "method": "bank"},
    "payment.allocate": {"payment_id": NOBODY, "allocations": [{"invoice_id": NOBODY, "amount_minor": 1}]},
    "payment.unallocate": {"payment_id": NOBODY, "invoice_id": NOBODY, "reason": "wrong"},
    "payment.refund": {"payment_id": NOBODY, "amount_minor": 1, "reason": "asked"},
    "payment.reverse": {"payment_id": NOBODY, "reason": "bounced"},
    "payment.charge": {"account_id": NOBODY, "amount": money(100), "source": "tok_visa"},
    "payment.capture": {"payment_id": NOBODY},
    "payment.cancel": {"payment_id": NOBODY, "reason": "changed their mind"},
    "payment.dispute": {"payment_id": NOBODY, "stage": "lost"},
    "payment.settle": {"payment_id": NOBODY, "state": "captured", "currency": "AED", "captured_minor": 100},
    "payment.settle_refund": {"refund_id": NOBODY, "state": "refunded"},
    "payment.settle_payout": {"payout_id": "po_1", "adapter": "generic", "amount": money(100)},
    "payment.expire": {"payment_id": NOBODY},
    "payment.report_circuit": {"adapter": "generic", "state": "closed"},
    "period.open": {"period": "2026-11"},
    "period.close": {"period": "2026-11"},
    "period.reopen": {"period": "2026-11", "reason": "late invoice"},
    "ledger.define_account": {"code": "4500", "name": "Revenue: dental", "kind": "revenue"},
    "invoice.mark_overdue": {"as_of": "2026-11-02", "invoice_ids": [NOBODY]},
    "statement.run": {"job_id": NOBODY, "period": "2026-10"},
    "statement.record": {
        "statement_id": NOBODY,
        "job_id": NOBODY,
        "account_id": NOBODY,
        "party_id": "me",
        "period": "2026-10",
        "locale": "en",
        "currency": "AED",
        "error_code": "font_missing",
    },
    "gl.map": {"mappings": [{"ledger_code": "1000", "gl_code": "A-1000", "gl_name": "Cash"}]},
    "gl.export": {"job_id": NOBODY, "period": "2026-10"},
    "gl.record": {
        "job_id": NOBODY,
        "transfers": 0,
        "first_sequence": 0,
        "last_sequence": 0,
        "totals": [],
        "files": [{"format": "csv", "key": "me/dubai/gl/ledger.csv", "sha256": "0" * 64, "bytes": 0, "rows": 0}],
        "manifest_key": "me/dubai/gl/manifest.json",
        "manifest_sha256": "0" * 64,
    },
    "job.cancel": {"job_id": NOBODY, "reason": "asked"},
    "job.retry": {"job_id": NOBODY},
    "job.report": {"job_id": NOBODY, "status": "running"},
    "ledger.adjust": {"debit_code": "1000", "credit_code": "4900", "amount": money(100), "reason": "count"},
}


def smallest_body(name: str) -> dict[str, Any]:
    return BODIES[name]
