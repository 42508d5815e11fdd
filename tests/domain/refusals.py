"""The conformance table: every (command, code) the domain can give, with a body that gives it and the details it carries."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from schemas.base import MAX_AMOUNT_MINOR
from schemas.codes import Code
from tests.domain.bodies import BODIES, NOBODY
from tests.domain.hospital import allocations, line, money, party
from tests.domain.scene import Scene

Body = Callable[[Scene], dict[str, Any]]


class Row(NamedTuple):
    """`body` is laid over the smallest valid body of the command. `details` are the keys of the refusal's details.
    `in_october` sends the command in the month that is closed, `in_2025` when the months ahead are closed too. `gateway` changes
    the tenant's gateway profile; None: it has none."""

    command: str
    code: Code
    body: Body
    details: str = ""
    in_october: bool = False
    in_2025: bool = False
    gateway: Mapping[str, Any] | None = MappingProxyType({})


def _amount_of(scene: Scene, **more: Any) -> dict[str, Any]:
    return {"account_id": scene.busy, **more}


HALVES = [party("a", 5_000), party("b", 4_999)]
TWINS = [party("a", 5_000), party("a", 5_000)]
TWO_PRICES = [{"code": "A00", "unit_price_minor": 1}] * 2

ACCOUNTS = [
    Row("account.open", Code.PARTY_SHARES_INVALID, lambda s: {"parties": HALVES}, "sum_basis_points"),
    Row("account.open", Code.DUPLICATE_REFERENCE, lambda s: {"parties": TWINS}, "field"),
    Row("account.open", Code.ALREADY_EXISTS, lambda s: {"account_id": s.busy}, "account_id"),
    Row("account.update", Code.PARTY_SHARES_INVALID, lambda s: {"parties": HALVES}, "sum_basis_points"),
    Row("account.update", Code.DUPLICATE_REFERENCE, lambda s: {"parties": TWINS}, "field"),
    Row("account.update", Code.ACCOUNT_NOT_FOUND, lambda s: {}, "account_id"),
    Row("account.update", Code.ACCOUNT_CLOSED, lambda s: {"account_id": s.closed, "locale": "ar"}, "account_id"),
    Row("account.close", Code.ACCOUNT_NOT_FOUND, lambda s: {}, "account_id"),
    Row("account.close", Code.ACCOUNT_CLOSED, lambda s: {"account_id": s.closed}, "account_id"),
    Row("account.close", Code.ACCOUNT_HAS_OPEN_CHARGES, lambda s: {"account_id": s.other}, "account_id"),
    Row("account.close", Code.ACCOUNT_HAS_HOLDS, lambda s: {"account_id": s.holding}, "account_id"),
    Row("account.close", Code.ACCOUNT_HAS_BALANCE, lambda s: {"account_id": s.owing}, "account_id"),
]

CHARGES = [
    Row("pricelist.publish", Code.DUPLICATE_REFERENCE, lambda s: {"prices": TWO_PRICES}, "field"),
    Row(
        "pricelist.publish",
        Code.LEDGER_ACCOUNT_UNKNOWN,
        lambda s: {"prices": [{"code": "A00", "unit_price_minor": 1, "revenue_code": "9999"}]},
        "code",
    ),
    Row("charge.capture", Code.ACCOUNT_NOT_FOUND, lambda s: {}, "account_id"),
    Row("charge.capture", Code.ALREADY_EXISTS, lambda s: _amount_of(s, charge_id=s.charge), "charge_id"),
    Row("charge.capture", Code.LEDGER_ACCOUNT_UNKNOWN, lambda s: _amount_of(s, revenue_code="9999"), "code"),
    Row("charge.capture", Code.LEDGER_ACCOUNT_UNKNOWN, lambda s: _amount_of(s, revenue_code="1000"), "code"),
    Row(
        "charge.capture",
        Code.PRICE_NOT_FOUND,
        lambda s: _amount_of(s, unit_price=None, price_list="main", service_date="2026-05-31"),
        "price_list code service_date",
    ),
    Row(
        "charge.capture",
        Code.PRICE_NOT_FOUND,
        lambda s: _amount_of(s, unit_price=None, price_list="main", code="B00"),
        "price_list code service_date",
    ),
    Row("charge.capture", Code.ACCOUNT_CLOSED, lambda s: {"account_id": s.closed}, "account_id"),
    Row("charge.capture", Code.CURRENCY_MISMATCH, lambda s: {"account_id": s.in_afn}, "expected given"),
    Row(
        "charge.capture",
        Code.AMOUNT_OUT_OF_RANGE,
        lambda s: _amount_of(s, unit_price=money(MAX_AMOUNT_MINOR), quantity=2),
        "limit_minor",
    ),
    Row("charge.void", Code.CHARGE_NOT_FOUND, lambda s: {}, "charge_id"),
    Row("charge.void", Code.CHARGE_NOT_OPEN, lambda s: {"charge_id": s.void_charge}, "charge_id status"),
]


def _of_charges(scene: Scene, *charge_ids: Any) -> dict[str, Any]:
    return {"account_id": scene.busy, "lines": None, "charge_ids": charge_ids}


INVOICES = [
    Row("invoice.create", Code.DUPLICATE_REFERENCE, lambda s: _of_charges(s, s.charge, s.charge), "field"),
    Row("invoice.create", Code.ACCOUNT_NOT_FOUND, lambda s: {}, "account_id"),
    Row("invoice.create", Code.ALREADY_EXISTS, lambda s: _amount_of(s, invoice_group_id=s.group), "invoice_group_id"),
    Row("invoice.create", Code.CHARGE_NOT_FOUND, lambda s: _of_charges(s, NOBODY), "charge_id"),
    Row("invoice.create", Code.CHARGE_NOT_FOUND, lambda s: _of_charges(s, s.charge_of_other), "charge_id account_id"),
    Row(
        "invoice.create",
        Code.LEDGER_ACCOUNT_UNKNOWN,
        lambda s: _amount_of(s, lines=[line(1, revenue_code="5100")]),
        "code",
    ),
    Row("invoice.create", Code.ACCOUNT_CLOSED, lambda s: {"account_id": s.closed}, "account_id"),
    Row("invoice.create", Code.CHARGE_NOT_OPEN, lambda s: _of_charges(s, s.void_charge), "charge_id status"),
    Row("invoice.create", Code.PERIOD_CLOSED, lambda s: _amount_of(s, invoice_date="2026-10-31"), "period"),
    Row("invoice.create", Code.NOTHING_TO_INVOICE, lambda s: _amount_of(s, lines=[line(0)])),
    Row(
        "invoice.create",
        Code.AMOUNT_OUT_OF_RANGE,
        lambda s: _amount_of(s, lines=[line(MAX_AMOUNT_MINOR, quantity="2")]),
        "limit_minor",
    ),
    Row("invoice.issue", Code.INVOICE_NOT_FOUND, lambda s: {}, "invoice_id"),
    Row("invoice.issue", Code.INVOICE_NOT_DRAFT, lambda s: {"invoice_id": s.issued}, "invoice_id status"),
    Row("invoice.issue", Code.INVOICE_NOT_DRAFT, lambda s: {"invoice_id": s.void}, "invoice_id status"),
    Row("invoice.issue", Code.PERIOD_CLOSED, lambda s: {"invoice_id": s.in_october}, "period"),
    Row("invoice.void", Code.INVOICE_NOT_FOUND, lambda s: {}, "invoice_id"),
    Row("invoice.void", Code.INVOICE_NOT_OPEN, lambda s: {"invoice_id": s.void}, "invoice_id status"),
    Row("invoice.void", Code.INVOICE_HAS_PAYMENTS, lambda s: {"invoice_id": s.part_paid}, "invoice_id"),
    Row("invoice.void", Code.PERIOD_CLOSED, lambda s: {"invoice_id": s.issued}, "period", in_october=True),
    Row("invoice.write_off", Code.INVOICE_NOT_FOUND, lambda s: {}, "invoice_id"),
    Row("invoice.write_off", Code.INVOICE_NOT_OPEN, lambda s: {"invoice_id": s.draft}, "invoice_id status"),
    Row("invoice.write_off", Code.INVOICE_NOT_OPEN, lambda s: {"invoice_id": s.settled}, "invoice_id status"),
    Row("invoice.write_off", Code.PERIOD_CLOSED, lambda s: {"invoice_id": s.issued}, "period", in_october=True),
    Row(
        "invoice.write_off",
        Code.WRITE_OFF_EXCEEDS_OPEN_AMOUNT,
        lambda s: {"invoice_id": s.part_paid, "amount_minor": 31},
        "invoice_id open_minor",
    ),
]


def _credit(invoice_id: Any, *lines: tuple[int, int | None]) -> dict[str, Any]:
    return {"invoice_id": invoice_id, "lines": [{"line_number": number, "net_minor": net} for number, net in lines]}


CREDIT_NOTES = [
    Row("credit_note.issue", Code.DUPLICATE_REFERENCE, lambda s: _credit(s.issued, (1, 1), (1, 2)), "field"),
    Row("credit_note.issue", Code.INVOICE_NOT_FOUND, lambda s: {}, "invoice_id"),
    Row(
        "credit_note.issue",
        Code.ALREADY_EXISTS,
        lambda s: {"invoice_id": s.issued, "credit_note_id": s.note},
        "credit_note_id",
    ),
    Row("credit_note.issue", Code.INVOICE_LINE_NOT_FOUND, lambda s: _credit(s.issued, (2, None)), "line_number"),
    Row("credit_note.issue", Code.INVOICE_NOT_OPEN, lambda s: {"invoice_id": s.draft}, "invoice_id status"),
    Row("credit_note.issue", Code.INVOICE_NOT_OPEN, lambda s: {"invoice_id": s.void}, "invoice_id status"),
    Row("credit_note.issue", Code.ACCOUNT_CLOSED, lambda s: {"invoice_id": s.invoice_of_closed}, "account_id"),
    Row("credit_note.issue", Code.PERIOD_CLOSED, lambda s: {"invoice_id": s.issued}, "period", in_october=True),
    Row(
        "credit_note.issue",
        Code.CREDIT_EXCEEDS_INVOICE,
        lambda s: _credit(s.issued, (1, 61)),
        "line_number left_minor",
    ),
    Row("credit_note.issue", Code.CREDIT_EXCEEDS_INVOICE, lambda s: {"invoice_id": s.written_off}, "invoice_id"),
]


def _record(scene: Scene, *parts: tuple[Any, int], **more: Any) -> dict[str, Any]:
    return {"account_id": scene.busy, "allocations": allocations(*parts), **more}


def _allocate(payment_id: Any, *parts: tuple[Any, int]) -> dict[str, Any]:
    return {"payment_id": payment_id, "allocations": allocations(*parts)}


PAYMENTS = [
    Row("payment.record", Code.DUPLICATE_REFERENCE, lambda s: _record(s, (s.issued, 1), (s.issued, 2)), "field"),
    Row("payment.record", Code.ACCOUNT_NOT_FOUND, lambda s: {}, "account_id"),
    Row("payment.record", Code.ALREADY_EXISTS, lambda s: _record(s, payment_id=s.credit), "payment_id"),
    Row("payment.record", Code.PARTY_NOT_FOUND, lambda s: _record(s, party_id="stranger"), "party_id"),
    Row("payment.record", Code.INVOICE_NOT_FOUND, lambda s: _record(s, (NOBODY, 1)), "invoice_id"),
    Row("payment.record", Code.ACCOUNT_CLOSED, lambda s: {"account_id": s.closed}, "account_id"),
    Row("payment.record", Code.INVOICE_OF_OTHER_ACCOUNT, lambda s: _record(s, (s.issued_of_other, 1)), "invoice_id"),
    Row(
        "payment.record",
        Code.INVOICE_NOT_OPEN,
        lambda s: _record(s, (s.void, 1), account_id=s.other),
        "invoice_id status",
    ),
    Row("payment.record", Code.INVOICE_NOT_OPEN, lambda s: _record(s, (s.settled, 1)), "invoice_id status"),
    Row("payment.record", Code.PERIOD_CLOSED, lambda s: _record(s, received_on="2026-10-01"), "period"),
    Row("payment.record", Code.CURRENCY_MISMATCH, lambda s: {"account_id": s.in_afn}, "expected given"),
    Row(
        "payment.record",
        Code.AMOUNT_OUT_OF_RANGE,
        lambda s: _record(s, amount=money(5), method="cash", cash_rounding_minor=-5),
        "cash_rounding_minor",
    ),
    Row(
        "payment.record",
        Code.ALLOCATION_EXCEEDS_OPEN_AMOUNT,
        lambda s: _record(s, (s.issued, 61)),
        "invoice_id open_minor",
    ),
    Row(
        "payment.record",
        Code.ALLOCATION_EXCEEDS_PAYMENT,
        lambda s: _record(s, (s.issued, 60), amount=money(59)),
        "available_minor",
    ),
    Row(
        "payment.allocate",
        Code.DUPLICATE_REFERENCE,
        lambda s: _allocate(s.credit, (s.issued, 1), (s.issued, 1)),
        "field",
    ),
    Row("payment.allocate", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.allocate", Code.INVOICE_NOT_FOUND, lambda s: _allocate(s.credit, (NOBODY, 1)), "invoice_id"),
    Row("payment.allocate", Code.PAYMENT_REVERSED, lambda s: _allocate(s.reversed, (s.issued, 1)), "payment_id"),
    Row(
        "payment.allocate",
        Code.INVOICE_OF_OTHER_ACCOUNT,
        lambda s: _allocate(s.credit, (s.issued_of_other, 1)),
        "invoice_id",
    ),
    Row("payment.allocate", Code.INVOICE_NOT_OPEN, lambda s: _allocate(s.credit, (s.settled, 1)), "invoice_id status"),
    Row(
        "payment.allocate", Code.PERIOD_CLOSED, lambda s: _allocate(s.credit, (s.issued, 1)), "period", in_october=True
    ),
    Row(
        "payment.allocate",
        Code.ALLOCATION_EXCEEDS_OPEN_AMOUNT,
        lambda s: _allocate(s.credit, (s.part_paid, 31)),
        "invoice_id open_minor",
    ),
    Row(
        "payment.allocate",
        Code.ALLOCATION_EXCEEDS_PAYMENT,
        lambda s: _allocate(s.credit, (s.issued, 51)),
        "available_minor",
    ),
]


def _unallocate(scene: Scene, **more: Any) -> dict[str, Any]:
    return {"payment_id": scene.allocated, "invoice_id": scene.part_paid, **more}


UNDOING = [
    Row("payment.unallocate", Code.PAYMENT_NOT_FOUND, lambda s: {"invoice_id": s.issued}, "payment_id"),
    Row("payment.unallocate", Code.INVOICE_NOT_FOUND, lambda s: {"payment_id": s.allocated}, "invoice_id"),
    Row("payment.unallocate", Code.PAYMENT_REVERSED, lambda s: _unallocate(s, payment_id=s.reversed), "payment_id"),
    Row(
        "payment.unallocate",
        Code.ACCOUNT_CLOSED,
        lambda s: {"payment_id": s.payment_of_closed, "invoice_id": s.invoice_of_closed},
        "account_id",
    ),
    Row("payment.unallocate", Code.PERIOD_CLOSED, _unallocate, "period", in_october=True),
    Row(
        "payment.unallocate",
        Code.ALLOCATION_EXCEEDS_PAYMENT,
        lambda s: _unallocate(s, amount_minor=31),
        "allocated_minor",
    ),
    Row(
        "payment.unallocate",
        Code.ALLOCATION_EXCEEDS_PAYMENT,
        lambda s: _unallocate(s, invoice_id=s.issued),
        "allocated_minor",
    ),
    Row("payment.refund", Code.ALREADY_EXISTS, lambda s: {"payment_id": s.credit, "refund_id": s.refund}, "refund_id"),
    Row("payment.refund", Code.REFUND_NOT_REFUNDABLE, lambda s: {"payment_id": s.refund}, "refund_id"),
    Row("payment.refund", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.refund", Code.PAYMENT_REVERSED, lambda s: {"payment_id": s.reversed}, "payment_id"),
    Row(
        "payment.refund",
        Code.PERIOD_CLOSED,
        lambda s: {"payment_id": s.credit, "refunded_on": "2026-10-31"},
        "period",
    ),
    Row(
        "payment.refund",
        Code.REFUND_EXCEEDS_CREDIT,
        lambda s: {"payment_id": s.allocated, "amount_minor": 11},
        "unapplied_minor",
    ),
    Row("payment.reverse", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.reverse", Code.PAYMENT_NOT_FOUND, lambda s: {"payment_id": s.refund}, "payment_id"),
    Row("payment.reverse", Code.PAYMENT_REVERSED, lambda s: {"payment_id": s.reversed}, "payment_id"),
    Row("payment.reverse", Code.PAYMENT_REFUNDED, lambda s: {"payment_id": s.refunded}, "payment_id"),
    Row("payment.reverse", Code.PERIOD_CLOSED, lambda s: {"payment_id": s.credit}, "period", in_october=True),
]


def _charge(scene: Scene, *parts: tuple[Any, int], **more: Any) -> dict[str, Any]:
    return {"account_id": scene.busy, "allocations": allocations(*parts), **more}


GATEWAY = [
    Row("payment.charge", Code.DUPLICATE_REFERENCE, lambda s: _charge(s, (s.issued, 1), (s.issued, 2)), "field"),
    Row("payment.charge", Code.ACCOUNT_NOT_FOUND, lambda s: {}, "account_id"),
    Row("payment.charge", Code.ALREADY_EXISTS, lambda s: _charge(s, payment_id=s.credit), "payment_id"),
    Row("payment.charge", Code.ALREADY_EXISTS, lambda s: _charge(s, payment_id=s.pending), "payment_id"),
    Row("payment.record", Code.ALREADY_EXISTS, lambda s: _charge(s, payment_id=s.pending), "payment_id"),
    Row("payment.charge", Code.PARTY_NOT_FOUND, lambda s: _charge(s, party_id="stranger"), "party_id"),
    Row("payment.charge", Code.INVOICE_NOT_FOUND, lambda s: _charge(s, (NOBODY, 1)), "invoice_id"),
    Row("payment.charge", Code.ACCOUNT_CLOSED, lambda s: {"account_id": s.closed}, "account_id"),
    Row("payment.charge", Code.INVOICE_OF_OTHER_ACCOUNT, lambda s: _charge(s, (s.issued_of_other, 1)), "invoice_id"),
    Row("payment.charge", Code.INVOICE_NOT_OPEN, lambda s: _charge(s, (s.settled, 1)), "invoice_id status"),
    Row("payment.charge", Code.GATEWAY_NOT_CONFIGURED, _charge, gateway=None),
    Row("payment.charge", Code.CIRCUIT_OPEN, _charge, "adapter open_until", gateway={"adapter": "stripe"}),
    Row("payment.charge", Code.CURRENCY_MISMATCH, lambda s: {"account_id": s.in_afn}, "expected given"),
    Row(
        "payment.charge",
        Code.GATEWAY_CURRENCY_UNSUPPORTED,
        _charge,
        "currency",
        gateway={"currencies": ("USD",)},
    ),
    Row(
        "payment.charge",
        Code.ALLOCATION_EXCEEDS_OPEN_AMOUNT,
        lambda s: _charge(s, (s.issued, 61)),
        "invoice_id open_minor",
    ),
    Row(
        "payment.charge",
        Code.ALLOCATION_EXCEEDS_PAYMENT,
        lambda s: _charge(s, (s.issued, 60), amount=money(59)),
        "available_minor",
    ),
    Row("payment.capture", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.capture", Code.HOLD_ENDED, lambda s: {"payment_id": s.captured}, "payment_id status"),
    Row("payment.capture", Code.HOLD_NOT_AUTHORISED, lambda s: {"payment_id": s.pending}, "payment_id status"),
    Row(
        "payment.capture",
        Code.CAPTURE_EXCEEDS_HOLD,
        lambda s: {"payment_id": s.held, "amount_minor": 101},
        "held_minor",
    ),
    Row("payment.cancel", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.cancel", Code.HOLD_ENDED, lambda s: {"payment_id": s.captured}, "payment_id status"),
    Row("payment.cancel", Code.HOLD_NOT_AUTHORISED, lambda s: {"payment_id": s.capturing}, "payment_id status"),
    Row("payment.expire", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.settle", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.settle", Code.PERIOD_CLOSED, lambda s: {"payment_id": s.held}, "period", in_2025=True),
    Row("payment.settle_refund", Code.REFUND_NOT_FOUND, lambda s: {}, "refund_id"),
    Row("payment.settle_refund", Code.NOT_A_GATEWAY_PAYMENT, lambda s: {"refund_id": s.refund}, "refund_id"),
    Row(
        "payment.settle_refund",
        Code.PERIOD_CLOSED,
        lambda s: {"refund_id": s.refund_at_gateway},
        "period",
        in_2025=True,
    ),
    Row("payment.dispute", Code.PAYMENT_NOT_FOUND, lambda s: {}, "payment_id"),
    Row("payment.dispute", Code.NOT_A_GATEWAY_PAYMENT, lambda s: {"payment_id": s.credit}, "payment_id"),
    Row("payment.dispute", Code.PAYMENT_REVERSED, lambda s: {"payment_id": s.undone}, "payment_id"),
    Row("payment.dispute", Code.REFUND_PENDING, lambda s: {"payment_id": s.refunding}, "payment_id"),
    Row("payment.dispute", Code.PERIOD_CLOSED, lambda s: {"payment_id": s.captured}, "period", in_2025=True),
    Row(
        "payment.dispute",
        Code.DISPUTE_EXCEEDS_PAYMENT,
        lambda s: {"payment_id": s.captured, "amount_minor": 101},
        "left_minor",
    ),
    Row("payment.settle_payout", Code.ALREADY_EXISTS, lambda s: {"payout_id": "po_0", "fee_minor": 1}, "payout_id"),
    Row("payment.settle_payout", Code.PERIOD_CLOSED, lambda s: {}, "period", in_2025=True),
]

BOOKS = [
    Row("period.open", Code.PERIOD_NOT_FOUND, lambda s: {"period": "0000-01"}, "period"),
    Row("period.open", Code.PERIOD_CLOSED, lambda s: {"period": "2026-10"}, "period"),
    Row("period.open", Code.ALREADY_EXISTS, lambda s: {"period": "2026-12"}, "period"),
    Row("period.close", Code.PERIOD_NOT_FOUND, lambda s: {"period": "0000-01"}, "period"),
    Row("period.close", Code.PERIOD_CLOSED, lambda s: {"period": "2026-10"}, "period"),
    Row("period.close", Code.PERIOD_HAS_DRAFTS, lambda s: {"period": "2026-11"}, "period drafts first"),
    Row("period.reopen", Code.PERIOD_NOT_FOUND, lambda s: {"period": "2026-01"}, "period"),
    Row("period.reopen", Code.PERIOD_NOT_CLOSED, lambda s: {"period": "2026-12"}, "period"),
    Row("ledger.define_account", Code.ALREADY_EXISTS, lambda s: {"code": "1000"}, "code"),
    Row("ledger.define_account", Code.ALREADY_EXISTS, lambda s: {"code": "4600"}, "code"),
    Row("ledger.adjust", Code.DUPLICATE_REFERENCE, lambda s: {"credit_code": "1000"}, "code"),
    Row("ledger.adjust", Code.LEDGER_ACCOUNT_UNKNOWN, lambda s: {"credit_code": "9999"}, "code"),
    Row("ledger.adjust", Code.LEDGER_ACCOUNT_UNKNOWN, lambda s: {"credit_code": "1100"}, "code"),
    Row("ledger.adjust", Code.LEDGER_ACCOUNT_UNKNOWN, lambda s: {"debit_code": "2100"}, "code"),
    Row("ledger.adjust", Code.PERIOD_CLOSED, lambda s: {"effective_on": "2026-10-31"}, "period"),
]

TWO_CODES = [{"ledger_code": "1000", "gl_code": code, "gl_name": "Cash"} for code in ("A", "B")]
NO_SUCH_ACCOUNT = [{"ledger_code": "9999", "gl_code": "A", "gl_name": "None"}]


def _range(first: int, last: int) -> dict[str, Any]:
    return {"period": None, "first_sequence": first, "last_sequence": last}


JOBS = [
    Row("statement.run", Code.PERIOD_NOT_FOUND, lambda s: {"period": "0000-01"}, "period"),
    Row("statement.run", Code.ALREADY_EXISTS, lambda s: {"job_id": s.run}, "job_id"),
    Row("statement.record", Code.JOB_NOT_FOUND, lambda s: {}, "job_id"),
    Row("statement.record", Code.JOB_FINISHED, lambda s: {"job_id": s.cancelled}, "job_id status"),
    Row("statement.record", Code.JOB_FINISHED, lambda s: {"job_id": s.unsplit}, "job_id status"),
    Row(
        "statement.record",
        Code.ALREADY_EXISTS,
        lambda s: {"job_id": s.run, "statement_id": s.statement},
        "statement_id",
    ),
    Row("gl.map", Code.DUPLICATE_REFERENCE, lambda s: {"mappings": TWO_CODES}, "field"),
    Row("gl.map", Code.LEDGER_ACCOUNT_UNKNOWN, lambda s: {"mappings": NO_SUCH_ACCOUNT}, "code"),
    Row("gl.export", Code.ALREADY_EXISTS, lambda s: {"job_id": s.run}, "job_id"),
    Row("gl.export", Code.PERIOD_NOT_FOUND, lambda s: {"period": "0000-01"}, "period"),
    Row("gl.export", Code.PERIOD_NOT_CLOSED, lambda s: {"period": "2026-12"}, "period"),
    Row("gl.export", Code.PERIOD_NOT_CLOSED, lambda s: {"period": "2026-09"}, "period"),
    Row(
        "gl.export",
        Code.PERIOD_HAS_DRAFTS,
        lambda s: {"period": "2026-11", "close_period": True},
        "period drafts first",
    ),
    Row("gl.export", Code.ALREADY_EXPORTED, lambda s: {"period": "2026-10"}, "job_id scope"),
    Row("gl.export", Code.ALREADY_EXPORTED, lambda s: _range(1, 2), "job_id scope"),
    Row(
        "gl.export",
        Code.AMOUNT_OUT_OF_RANGE,
        lambda s: _range(1, s.world.book.ledger_sequence + 1),
        "last_sequence ledger_sequence",
    ),
    Row("gl.record", Code.JOB_NOT_FOUND, lambda s: {}, "job_id"),
    Row("gl.record", Code.GL_EXPORT_NOT_FOUND, lambda s: {"job_id": s.run}, "job_id"),
    Row("gl.record", Code.JOB_FINISHED, lambda s: {"job_id": s.exported}, "job_id status"),
    Row("job.cancel", Code.JOB_NOT_FOUND, lambda s: {}, "job_id"),
    Row("job.cancel", Code.JOB_FINISHED, lambda s: {"job_id": s.cancelled}, "job_id status"),
    Row("job.retry", Code.JOB_NOT_FOUND, lambda s: {}, "job_id"),
    Row("job.retry", Code.JOB_FINISHED, lambda s: {"job_id": s.exported}, "job_id status"),
    Row("job.report", Code.JOB_NOT_FOUND, lambda s: {}, "job_id"),
    Row("job.report", Code.JOB_FINISHED, lambda s: {"job_id": s.exported}, "job_id status"),
    Row("job.report", Code.AMOUNT_OUT_OF_RANGE, lambda s: {"job_id": s.run, "total": 0}, "total recorded"),
]

TABLE: list[Row] = [*ACCOUNTS, *CHARGES, *INVOICES, *CREDIT_NOTES, *PAYMENTS, *UNDOING, *GATEWAY, *BOOKS, *JOBS]


def body_of(row: Row, scene: Scene) -> dict[str, Any]:
    return BODIES[row.command] | row.body(scene)
