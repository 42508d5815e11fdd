"""The two commands that touch the ledger directly: extending the chart, and a posting by hand."""

from domain.chart import SUB_LEDGERS, TEMPLATE
from domain.common import needs_chart, needs_period, period_refusal, unknown_ledger_code
from domain.decision import Accepted, Capability, Command, Decision, Event, LedgerKey, Posting, rejected
from domain.entities import ChartEntry
from domain.lookups import CHART
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.ledger import AdjustLedger, AdjustmentResult, DefineLedgerAccount, LedgerAccountResult


def needs_define(command: Command[DefineLedgerAccount]) -> Needs:
    return [(CHART, command.body.code)]


def decide_define(snapshot: Snapshot, command: Command[DefineLedgerAccount]) -> Decision:
    body = command.body
    if body.code in TEMPLATE or snapshot.get(ChartEntry, body.code):
        return rejected(Code.ALREADY_EXISTS, code=body.code)
    entry = ChartEntry(body.code, body.name, body.kind, command.recorded_at)
    result = LedgerAccountResult(code=entry.code, name=entry.name, kind=entry.kind)
    return Accepted(result, (Event("ledger.account_defined", entry.code, result),), (entry,))


def needs_adjust(command: Command[AdjustLedger]) -> Needs:
    body = command.body
    return [
        needs_period(command, body.effective_on or command.today),
        *needs_chart([body.debit_code, body.credit_code]),
    ]


def decide_adjust(snapshot: Snapshot, command: Command[AdjustLedger]) -> Decision:
    body = command.body
    if body.debit_code == body.credit_code:
        return rejected(Code.DUPLICATE_REFERENCE, code=body.debit_code)
    codes = (body.debit_code, body.credit_code)
    unknown = unknown_ledger_code(snapshot, codes) or next((code for code in codes if code in SUB_LEDGERS), None)
    if unknown:
        return rejected(Code.LEDGER_ACCOUNT_UNKNOWN, code=unknown)
    effective_on = body.effective_on or command.today
    if refusal := period_refusal(snapshot, command, effective_on):
        return refusal
    result = AdjustmentResult(
        adjustment_id=command.derive("adjustment"),
        debit_code=body.debit_code,
        credit_code=body.credit_code,
        amount_minor=body.amount.amount_minor,
        currency=body.amount.currency,
        effective_on=effective_on,
    )
    posting = Posting(
        debit=LedgerKey(body.debit_code, result.currency),
        credit=LedgerKey(body.credit_code, result.currency),
        amount_minor=result.amount_minor,
        kind="adjustment",
        document_id=result.adjustment_id,
        effective_on=effective_on,
    )
    return Accepted(result, (Event("ledger.adjusted", str(result.adjustment_id), result),), (), (posting,))


CAPABILITIES = {
    "ledger.define_account": Capability(needs_define, decide_define),
    "ledger.adjust": Capability(needs_adjust, decide_adjust),
}
