"""Why a command or query is refused: one code per reason, its precedence, and whether trying again can help.

When several reasons apply, the one of the lowest stage is given (authorisation, shape, existence, state, amounts):
DOMAIN "Rejection codes". A retryable refusal is never stored in the inbox, so the same command id may succeed later.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple


class Stage(IntEnum):
    """Order of precedence."""

    AUTHORISATION = 1
    SHAPE = 2
    EXISTENCE = 3
    STATE = 4
    AMOUNT = 5


class Meaning(NamedTuple):
    stage: Stage
    retryable: bool
    http_status: int
    text: str


class Code(StrEnum):
    TENANT_NOT_ENTITLED = "tenant_not_entitled"
    RESIDENCY_VIOLATION = "residency_violation"
    TENANT_SERVICE_UNAVAILABLE = "tenant_service_unavailable"
    TENANT_MISMATCH = "tenant_mismatch"
    SCOPE_MISSING = "scope_missing"

    MALFORMED_COMMAND = "malformed_command"
    UNKNOWN_COMMAND = "unknown_command"
    MESSAGE_ID_MISSING = "message_id_missing"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    PARTY_SHARES_INVALID = "party_shares_invalid"
    DUPLICATE_REFERENCE = "duplicate_reference"

    ACCOUNT_NOT_FOUND = "account_not_found"
    PARTY_NOT_FOUND = "party_not_found"
    CHARGE_NOT_FOUND = "charge_not_found"
    INVOICE_NOT_FOUND = "invoice_not_found"
    INVOICE_LINE_NOT_FOUND = "invoice_line_not_found"
    PAYMENT_NOT_FOUND = "payment_not_found"
    REFUND_NOT_FOUND = "refund_not_found"
    PERIOD_NOT_FOUND = "period_not_found"
    PRICE_NOT_FOUND = "price_not_found"
    STATEMENT_NOT_FOUND = "statement_not_found"
    LEDGER_ACCOUNT_UNKNOWN = "ledger_account_unknown"
    JOB_NOT_FOUND = "job_not_found"
    GL_EXPORT_NOT_FOUND = "gl_export_not_found"
    COMMAND_NOT_FOUND = "command_not_found"
    CHARGE_CODE_UNKNOWN = "charge_code_unknown"
    TERMINOLOGY_UNAVAILABLE = "terminology_unavailable"
    ALREADY_EXISTS = "already_exists"

    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_HAS_BALANCE = "account_has_balance"
    ACCOUNT_HAS_OPEN_CHARGES = "account_has_open_charges"
    ACCOUNT_HAS_HOLDS = "account_has_holds"
    CHARGE_NOT_OPEN = "charge_not_open"
    INVOICE_NOT_DRAFT = "invoice_not_draft"
    INVOICE_NOT_OPEN = "invoice_not_open"
    INVOICE_HAS_PAYMENTS = "invoice_has_payments"
    INVOICE_OF_OTHER_ACCOUNT = "invoice_of_other_account"
    PAYMENT_REVERSED = "payment_reversed"
    PAYMENT_REFUNDED = "payment_refunded"
    REFUND_NOT_REFUNDABLE = "refund_not_refundable"
    PERIOD_CLOSED = "period_closed"
    PERIOD_NOT_CLOSED = "period_not_closed"
    PERIOD_HAS_DRAFTS = "period_has_drafts"
    JOB_FINISHED = "job_finished"
    ALREADY_EXPORTED = "already_exported"
    GL_MAPPING_MISSING = "gl_mapping_missing"
    LEDGER_DAMAGED = "ledger_damaged"
    GATEWAY_NOT_CONFIGURED = "gateway_not_configured"
    NOT_A_GATEWAY_PAYMENT = "not_a_gateway_payment"
    HOLD_NOT_AUTHORISED = "hold_not_authorised"
    HOLD_ENDED = "hold_ended"
    REFUND_PENDING = "refund_pending"
    CIRCUIT_OPEN = "circuit_open"

    CURRENCY_MISMATCH = "currency_mismatch"
    ALLOCATION_EXCEEDS_OPEN_AMOUNT = "allocation_exceeds_open_amount"
    ALLOCATION_EXCEEDS_PAYMENT = "allocation_exceeds_payment"
    REFUND_EXCEEDS_CREDIT = "refund_exceeds_credit"
    CAPTURE_EXCEEDS_HOLD = "capture_exceeds_hold"
    DISPUTE_EXCEEDS_PAYMENT = "dispute_exceeds_payment"
    GATEWAY_CURRENCY_UNSUPPORTED = "gateway_currency_unsupported"
    CREDIT_EXCEEDS_INVOICE = "credit_exceeds_invoice"
    WRITE_OFF_EXCEEDS_OPEN_AMOUNT = "write_off_exceeds_open_amount"
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    NOTHING_TO_INVOICE = "nothing_to_invoice"

    SERVICE_UNAVAILABLE = "service_unavailable"
    COMMAND_FAILED = "command_failed"

    @property
    def meaning(self) -> Meaning:
        return MEANINGS[self]

    @property
    def retryable(self) -> bool:
        return MEANINGS[self].retryable


_A, _S, _E, _T, _M = Stage.AUTHORISATION, Stage.SHAPE, Stage.EXISTENCE, Stage.STATE, Stage.AMOUNT

MEANINGS: dict[Code, Meaning] = {
    Code.TENANT_NOT_ENTITLED: Meaning(_A, False, 403, "the tenant is not entitled to billing"),
    Code.RESIDENCY_VIOLATION: Meaning(_A, False, 403, "the tenant's data belongs in another region"),
    Code.TENANT_SERVICE_UNAVAILABLE: Meaning(_A, True, 503, "entitlements cannot be checked at the moment"),
    Code.TENANT_MISMATCH: Meaning(_A, False, 403, "the body names another tenant than the subject"),
    Code.SCOPE_MISSING: Meaning(_A, False, 403, "the token lacks the scope of this route"),
    Code.MALFORMED_COMMAND: Meaning(_S, False, 400, "the body does not match the schema"),
    Code.UNKNOWN_COMMAND: Meaning(_S, False, 404, "there is no such command or query"),
    Code.MESSAGE_ID_MISSING: Meaning(_S, False, 400, "Nats-Msg-Id must be <uuid> or <uuid>:<attempt>"),
    Code.IDEMPOTENCY_KEY_REUSED: Meaning(_S, False, 422, "this command id was used before with another body"),
    Code.PARTY_SHARES_INVALID: Meaning(
        _S, False, 422, "the shares of the responsible parties must sum to 10,000 basis points"
    ),
    Code.DUPLICATE_REFERENCE: Meaning(_S, False, 422, "the same thing is named twice in one command"),
    Code.ACCOUNT_NOT_FOUND: Meaning(_E, False, 404, "no such billing account"),
    Code.PARTY_NOT_FOUND: Meaning(_E, False, 404, "no such responsible party on the account"),
    Code.CHARGE_NOT_FOUND: Meaning(_E, False, 404, "no such charge"),
    Code.INVOICE_NOT_FOUND: Meaning(_E, False, 404, "no such invoice"),
    Code.INVOICE_LINE_NOT_FOUND: Meaning(_E, False, 404, "no such line on the invoice"),
    Code.PAYMENT_NOT_FOUND: Meaning(_E, False, 404, "no such payment"),
    Code.REFUND_NOT_FOUND: Meaning(_E, False, 404, "no such refund"),
    Code.PERIOD_NOT_FOUND: Meaning(_E, False, 404, "no such accounting period"),
    Code.PRICE_NOT_FOUND: Meaning(_E, False, 404, "no price for that code is in effect on the service date"),
    Code.STATEMENT_NOT_FOUND: Meaning(_E, False, 404, "no such statement"),
    Code.LEDGER_ACCOUNT_UNKNOWN: Meaning(_E, False, 422, "the ledger account is not in the chart of accounts"),
    Code.JOB_NOT_FOUND: Meaning(_E, False, 404, "no such job"),
    Code.GL_EXPORT_NOT_FOUND: Meaning(_E, False, 404, "no such GL export"),
    Code.COMMAND_NOT_FOUND: Meaning(_E, False, 404, "no outcome is stored for that command id (yet)"),
    Code.CHARGE_CODE_UNKNOWN: Meaning(_E, False, 422, "the terminology service does not know the charge code"),
    Code.TERMINOLOGY_UNAVAILABLE: Meaning(_E, True, 503, "charge codes cannot be validated at the moment"),
    Code.ALREADY_EXISTS: Meaning(_E, False, 409, "something with that id exists already"),
    Code.ACCOUNT_CLOSED: Meaning(_T, False, 409, "the account is closed"),
    Code.ACCOUNT_HAS_BALANCE: Meaning(_T, False, 409, "the account still has a balance"),
    Code.ACCOUNT_HAS_OPEN_CHARGES: Meaning(_T, False, 409, "the account still has charges or drafts to bill"),
    Code.ACCOUNT_HAS_HOLDS: Meaning(_T, False, 409, "charges of the account are still with the payment gateway"),
    Code.CHARGE_NOT_OPEN: Meaning(_T, False, 409, "the charge is already invoiced or void"),
    Code.INVOICE_NOT_DRAFT: Meaning(_T, False, 409, "the invoice is not a draft"),
    Code.INVOICE_NOT_OPEN: Meaning(_T, False, 409, "the invoice is not open"),
    Code.INVOICE_HAS_PAYMENTS: Meaning(_T, False, 409, "the invoice has payments, credits or write-offs"),
    Code.INVOICE_OF_OTHER_ACCOUNT: Meaning(_T, False, 409, "the invoice belongs to another billing account"),
    Code.PAYMENT_REVERSED: Meaning(_T, False, 409, "the payment was reversed"),
    Code.PAYMENT_REFUNDED: Meaning(_T, False, 409, "the payment was refunded, wholly or in part"),
    Code.REFUND_NOT_REFUNDABLE: Meaning(_T, False, 409, "a refund cannot be refunded"),
    Code.PERIOD_CLOSED: Meaning(_T, False, 409, "the accounting period of that date is closed"),
    Code.PERIOD_NOT_CLOSED: Meaning(_T, False, 409, "the accounting period is not closed"),
    Code.PERIOD_HAS_DRAFTS: Meaning(_T, False, 409, "draft invoices are dated in the period"),
    Code.JOB_FINISHED: Meaning(_T, False, 409, "the job has ended"),
    Code.ALREADY_EXPORTED: Meaning(_T, False, 409, "the range was exported before; say so with again"),
    Code.GL_MAPPING_MISSING: Meaning(_T, False, 409, "ledger accounts have no GL code yet"),
    Code.LEDGER_DAMAGED: Meaning(_T, False, 409, "the ledger is not what was recorded; nothing is exported from it"),
    Code.GATEWAY_NOT_CONFIGURED: Meaning(_T, False, 409, "the tenant has no payment gateway"),
    Code.NOT_A_GATEWAY_PAYMENT: Meaning(_T, False, 409, "the payment did not come through a gateway"),
    Code.HOLD_NOT_AUTHORISED: Meaning(_T, False, 409, "nothing is held at the gateway that could be captured"),
    Code.HOLD_ENDED: Meaning(_T, False, 409, "the charge has ended: captured, declined, cancelled or expired"),
    Code.REFUND_PENDING: Meaning(_T, True, 409, "a refund of the payment is still with the gateway"),
    Code.CIRCUIT_OPEN: Meaning(_T, True, 503, "the payment gateway is not answering"),
    Code.CURRENCY_MISMATCH: Meaning(_M, False, 422, "the currency is not the account's"),
    Code.ALLOCATION_EXCEEDS_OPEN_AMOUNT: Meaning(_M, False, 422, "more than what is open on the invoice"),
    Code.ALLOCATION_EXCEEDS_PAYMENT: Meaning(_M, False, 422, "more than what is left of the payment"),
    Code.REFUND_EXCEEDS_CREDIT: Meaning(_M, False, 422, "more than the unapplied credit of the payment"),
    Code.CAPTURE_EXCEEDS_HOLD: Meaning(_M, False, 422, "more than what is held"),
    Code.DISPUTE_EXCEEDS_PAYMENT: Meaning(_M, False, 422, "more than what is left of the payment"),
    Code.GATEWAY_CURRENCY_UNSUPPORTED: Meaning(_M, False, 422, "the tenant's gateway does not take the currency"),
    Code.CREDIT_EXCEEDS_INVOICE: Meaning(_M, False, 422, "more than what is left to credit on the line"),
    Code.WRITE_OFF_EXCEEDS_OPEN_AMOUNT: Meaning(_M, False, 422, "more than what is open on the invoice"),
    Code.AMOUNT_OUT_OF_RANGE: Meaning(_M, False, 422, "an amount is beyond the supported range"),
    Code.NOTHING_TO_INVOICE: Meaning(_M, False, 422, "the lines sum to nothing"),
    Code.SERVICE_UNAVAILABLE: Meaning(_T, True, 503, "the billing service cannot answer at the moment"),
    Code.COMMAND_FAILED: Meaning(_T, False, 500, "the command failed and was dead-lettered with its body"),
}
