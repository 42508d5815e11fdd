"""Every command, event and query there is. Handlers, the shim, the CLI and the generated documents all read this table."""

from dataclasses import dataclass

from schemas import (
    account,
    charge,
    credit_note,
    gl,
    hold,
    invoice,
    job,
    ledger,
    payment,
    period,
    pricelist,
    report,
    statement,
)
from schemas.base import CommandBody, QueryBody, WireModel

# Consumer groups: one durable, one batch subscriber and one scaling rule each.
GROUPS: dict[str, tuple[str, ...]] = {
    "accounts": ("account", "pricelist", "period", "ledger"),
    "charges": ("charge",),
    "invoices": ("invoice", "credit_note"),
    "payments": ("payment",),
    "jobs": ("statement", "gl", "job"),
}


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """`money_moving` commands need an Idempotency-Key over HTTP and `--allow-money` in a replay.

    `internal` commands are published by workers only: no HTTP route, and no tenant's NATS user may send them.
    """

    name: str
    payload: type[CommandBody]
    result: type[WireModel]
    scope: str
    events: tuple[str, ...]
    summary: str
    money_moving: bool = False
    internal: bool = False

    @property
    def group(self) -> str:
        aggregate = self.name.split(".")[0]
        return next(group for group, aggregates in GROUPS.items() if aggregate in aggregates)


@dataclass(frozen=True, slots=True)
class EventSpec:
    name: str
    data: type[WireModel]
    summary: str


@dataclass(frozen=True, slots=True)
class QuerySpec:
    name: str
    request: type[QueryBody]
    result: type[WireModel]
    scope: str
    summary: str
    # After which the handlers give up; whoever asks has to wait a little longer, or work is done for nobody.
    timeout_seconds: float = 5.0


_COMMANDS: tuple[CommandSpec, ...] = (
    CommandSpec(
        "account.open",
        account.OpenAccount,
        account.AccountResult,
        "billing.accounts.write",
        ("account.opened",),
        "Open a billing account for a patient",
    ),
    CommandSpec(
        "account.update",
        account.UpdateAccount,
        account.AccountResult,
        "billing.accounts.write",
        ("account.updated",),
        "Change guarantor, locale or responsible parties",
    ),
    CommandSpec(
        "account.close",
        account.CloseAccount,
        account.AccountResult,
        "billing.accounts.write",
        ("account.closed",),
        "Close an account that has nothing open",
    ),
    CommandSpec(
        "pricelist.publish",
        pricelist.PublishPriceList,
        pricelist.PriceListResult,
        "billing.prices.write",
        ("pricelist.published",),
        "Publish the next version of a price list",
    ),
    CommandSpec(
        "charge.capture",
        charge.CaptureCharge,
        charge.ChargeResult,
        "billing.charges.write",
        ("charge.captured",),
        "Capture a charge for care that was given",
    ),
    CommandSpec(
        "charge.void",
        charge.VoidCharge,
        charge.ChargeResult,
        "billing.charges.write",
        ("charge.voided",),
        "Void a charge that is not invoiced",
    ),
    CommandSpec(
        "invoice.create",
        invoice.CreateInvoice,
        invoice.InvoicesResult,
        "billing.invoices.write",
        ("invoice.created",),
        "Draft one invoice per responsible party",
    ),
    CommandSpec(
        "invoice.issue",
        invoice.IssueInvoice,
        invoice.InvoiceDocument,
        "billing.invoices.write",
        ("invoice.issued",),
        "Issue a draft: number it and post it",
        money_moving=True,
    ),
    CommandSpec(
        "invoice.void",
        invoice.VoidInvoice,
        invoice.InvoiceDocument,
        "billing.invoices.write",
        ("invoice.voided",),
        "Void an invoice that nothing was paid on",
        money_moving=True,
    ),
    CommandSpec(
        "invoice.write_off",
        invoice.WriteOffInvoice,
        invoice.InvoiceDocument,
        "billing.invoices.write_off",
        ("invoice.written_off", "invoice.settled"),
        "Write off what will not be paid",
        money_moving=True,
    ),
    CommandSpec(
        "credit_note.issue",
        credit_note.IssueCreditNote,
        credit_note.CreditNoteResult,
        "billing.invoices.write",
        ("credit_note.issued", "payment.unallocated", "invoice.settled"),
        "Credit an invoice, wholly or per line",
        money_moving=True,
    ),
    CommandSpec(
        "payment.record",
        payment.RecordPayment,
        payment.PaymentResult,
        "billing.payments.write",
        ("payment.recorded", "invoice.settled"),
        "Record money received",
        money_moving=True,
    ),
    CommandSpec(
        "payment.allocate",
        payment.AllocatePayment,
        payment.PaymentResult,
        "billing.payments.write",
        ("payment.allocated", "invoice.settled"),
        "Allocate unapplied credit to invoices",
        money_moving=True,
    ),
    CommandSpec(
        "payment.unallocate",
        payment.UnallocatePayment,
        payment.PaymentResult,
        "billing.payments.write",
        ("payment.unallocated", "invoice.reopened"),
        "Take an allocation back",
        money_moving=True,
    ),
    CommandSpec(
        "payment.refund",
        payment.RefundPayment,
        payment.RefundResult,
        "billing.payments.refund",
        ("payment.refunded", "payment.refund_requested"),
        "Pay unapplied credit back",
        money_moving=True,
    ),
    CommandSpec(
        "payment.reverse",
        payment.ReversePayment,
        payment.PaymentResult,
        "billing.payments.refund",
        ("payment.reversed", "invoice.reopened", "account.updated"),
        "Reverse a payment that did not hold",
        money_moving=True,
    ),
    CommandSpec(
        "period.open",
        period.OpenPeriod,
        period.PeriodResult,
        "billing.periods.write",
        ("period.opened",),
        "Open an accounting period",
    ),
    CommandSpec(
        "period.close",
        period.ClosePeriod,
        period.PeriodResult,
        "billing.periods.write",
        ("period.closed",),
        "Close an accounting period",
    ),
    CommandSpec(
        "period.reopen",
        period.ReopenPeriod,
        period.PeriodResult,
        "billing.periods.write",
        ("period.reopened",),
        "Reopen a closed accounting period",
    ),
    CommandSpec(
        "ledger.define_account",
        ledger.DefineLedgerAccount,
        ledger.LedgerAccountResult,
        "billing.ledger.admin",
        ("ledger.account_defined",),
        "Extend the chart of accounts",
    ),
    CommandSpec(
        "ledger.adjust",
        ledger.AdjustLedger,
        ledger.AdjustmentResult,
        "billing.ledger.admin",
        ("ledger.adjusted",),
        "Post an adjustment by hand",
        money_moving=True,
    ),
)

_WORKER = "billing.worker"  # no token carries it: internal commands have no route

_COMMANDS += (
    CommandSpec(
        "invoice.mark_overdue",
        invoice.MarkOverdue,
        invoice.OverdueResult,
        _WORKER,
        ("invoice.overdue",),
        "Mark open invoices past their due date",
        internal=True,
    ),
    CommandSpec(
        "statement.run",
        statement.RunStatements,
        job.JobResult,
        "billing.statements.run",
        ("job.queued",),
        "Render the statements of a period",
    ),
    CommandSpec(
        "statement.record",
        statement.RecordStatement,
        statement.StatementResult,
        _WORKER,
        ("statement.issued", "statement.failed", "job.finished"),
        "Record a rendered statement",
        internal=True,
    ),
    CommandSpec("gl.map", gl.MapGlAccounts, gl.GlMapped, "billing.gl.write", ("gl.mapped",), "Set GL account codes"),
    CommandSpec(
        "gl.export",
        gl.ExportGl,
        job.JobResult,
        "billing.gl.export",
        ("job.queued", "period.closed"),
        "Export the ledger of a period or range",
    ),
    CommandSpec(
        "gl.record",
        gl.RecordGlExport,
        gl.GlExported,
        _WORKER,
        ("gl.exported", "job.finished"),
        "Record a finished GL export",
        internal=True,
    ),
    CommandSpec("job.cancel", job.CancelJob, job.JobResult, "billing.jobs.write", ("job.finished",), "Cancel a job"),
    CommandSpec(
        "job.retry", job.RetryJob, job.JobResult, "billing.jobs.write", ("job.queued",), "Go on with a failed job"
    ),
    CommandSpec(
        "job.report",
        job.ReportJob,
        job.JobResult,
        _WORKER,
        ("job.started", "job.finished"),
        "Report a job's progress",
        internal=True,
    ),
)

_COMMANDS += (
    CommandSpec(
        "payment.charge",
        hold.ChargePayment,
        hold.HoldResult,
        "billing.payments.charge",
        ("payment.pending",),
        "Charge a card or wallet through the gateway",
        money_moving=True,
    ),
    CommandSpec(
        "payment.capture",
        hold.CapturePayment,
        hold.HoldResult,
        "billing.payments.charge",
        ("payment.capturing",),
        "Take what is held at the gateway",
        money_moving=True,
    ),
    CommandSpec(
        "payment.cancel",
        hold.CancelPayment,
        hold.HoldResult,
        "billing.payments.charge",
        ("payment.cancelling",),
        "Release what is held at the gateway",
        money_moving=True,
    ),
    CommandSpec(
        "payment.dispute",
        hold.DisputePayment,
        payment.PaymentResult,
        "billing.payments.refund",
        ("payment.disputed", "payment.charged_back", "invoice.reopened", "account.updated"),
        "Record a dispute: opened, won or lost",
        money_moving=True,
    ),
    CommandSpec(
        "payment.settle",
        hold.SettlePayment,
        hold.HoldResult,
        _WORKER,
        (
            "payment.recorded",
            "payment.captured",
            "payment.authorised",
            "payment.declined",
            "payment.cancelled",
            "payment.expired",
            "payment.unknown",
            "payment.mismatched",
            "payment.pending",
            "payment.capturing",
            "payment.cancelling",
            "payment.fee_charged",
            "invoice.settled",
            "account.updated",
        ),
        "What a gateway has for a payment",
        internal=True,
    ),
    CommandSpec(
        "payment.settle_refund",
        hold.SettleRefund,
        payment.RefundResult,
        _WORKER,
        ("payment.refunded", "payment.refund_changed"),
        "What became of a refund at the gateway",
        internal=True,
    ),
    CommandSpec(
        "payment.settle_payout",
        hold.SettlePayout,
        hold.PayoutResult,
        _WORKER,
        ("payment.paid_out",),
        "A gateway's payout to the bank",
        internal=True,
    ),
    CommandSpec(
        "payment.expire",
        hold.ExpirePayment,
        hold.HoldResult,
        _WORKER,
        ("payment.cancelling",),
        "Release a hold whose time is over",
        internal=True,
    ),
    CommandSpec(
        "payment.report_circuit",
        hold.ReportCircuit,
        hold.CircuitResult,
        _WORKER,
        ("payment.circuit_changed",),
        "A gateway has stopped answering, or answers again",
        internal=True,
    ),
)

_EVENTS: tuple[EventSpec, ...] = (
    EventSpec("account.opened", account.AccountEvent, "An account was opened"),
    EventSpec("account.updated", account.AccountEvent, "An account was changed"),
    EventSpec("account.closed", account.AccountEvent, "An account was closed"),
    EventSpec("pricelist.published", pricelist.PriceListPublished, "A price list version was published"),
    EventSpec("charge.captured", charge.ChargeEvent, "A charge was captured"),
    EventSpec("charge.voided", charge.ChargeEvent, "A charge was voided"),
    EventSpec("invoice.created", invoice.InvoiceEvent, "An invoice was drafted"),
    EventSpec("invoice.issued", invoice.InvoiceEvent, "An invoice was numbered and posted"),
    EventSpec("invoice.settled", invoice.InvoiceEvent, "Nothing is open on an invoice any more"),
    EventSpec("invoice.reopened", invoice.InvoiceEvent, "A settled invoice has an open amount again"),
    EventSpec("invoice.voided", invoice.InvoiceEvent, "An invoice was voided"),
    EventSpec("invoice.written_off", invoice.InvoiceEvent, "An open amount was written off"),
    EventSpec("credit_note.issued", credit_note.CreditNoteIssued, "A credit note was issued"),
    EventSpec("payment.recorded", payment.PaymentEvent, "Money was received"),
    EventSpec("payment.allocated", payment.PaymentEvent, "Credit was allocated to invoices"),
    EventSpec("payment.unallocated", payment.PaymentEvent, "An allocation was taken back"),
    EventSpec("payment.refunded", payment.PaymentEvent, "Credit was paid back"),
    EventSpec("payment.reversed", payment.PaymentEvent, "A payment was reversed"),
    EventSpec("period.opened", period.PeriodResult, "An accounting period was opened"),
    EventSpec("period.closed", period.PeriodResult, "An accounting period was closed"),
    EventSpec("period.reopened", period.PeriodResult, "An accounting period was reopened"),
    EventSpec("ledger.account_defined", ledger.LedgerAccountResult, "A ledger account was added to the chart"),
    EventSpec("ledger.adjusted", ledger.AdjustmentResult, "The ledger was adjusted by hand"),
)

_EVENTS += (
    EventSpec("invoice.overdue", invoice.InvoiceEvent, "An invoice is past its due date"),
    EventSpec("job.queued", job.JobView, "A job waits for a worker"),
    EventSpec("job.started", job.JobView, "A worker has begun a job"),
    EventSpec("job.finished", job.JobView, "A job has succeeded, failed or was cancelled"),
    EventSpec("statement.issued", statement.StatementIssued, "A statement was stored"),
    EventSpec("statement.failed", statement.StatementResult, "A statement could not be made"),
    EventSpec("gl.mapped", gl.GlMapped, "GL account codes were set"),
    EventSpec("gl.exported", gl.GlExported, "A GL export was written"),
)

_EVENTS += (
    EventSpec("payment.pending", hold.HoldView, "A charge waits for the gateway"),
    EventSpec("payment.authorised", hold.HoldView, "The gateway holds the money"),
    EventSpec("payment.capturing", hold.HoldView, "The gateway is asked to take what it holds"),
    EventSpec("payment.captured", hold.HoldView, "The gateway took the money; payment.recorded has the payment"),
    EventSpec("payment.declined", hold.HoldView, "The gateway declined a charge"),
    EventSpec("payment.cancelling", hold.HoldView, "The gateway is asked to release what it holds"),
    EventSpec("payment.cancelled", hold.HoldView, "A charge was cancelled; nothing is held"),
    EventSpec("payment.expired", hold.HoldView, "A hold ran out; nothing is held"),
    EventSpec("payment.unknown", hold.HoldView, "The gateway gave no answer; money may have moved"),
    EventSpec("payment.mismatched", hold.HoldView, "The gateway has something else than what was asked"),
    EventSpec("payment.fee_charged", hold.HoldView, "The gateway's fee for a payment is known"),
    EventSpec("payment.disputed", hold.HoldView, "A dispute was opened or won"),
    EventSpec("payment.charged_back", payment.PaymentEvent, "A dispute was lost: money was taken back"),
    EventSpec("payment.refund_requested", hold.RefundChanged, "The gateway is asked to pay credit back"),
    EventSpec("payment.refund_changed", hold.RefundChanged, "A refund at the gateway failed, or is not known"),
    EventSpec("payment.paid_out", hold.PayoutResult, "A gateway paid out to the bank"),
    EventSpec("payment.circuit_changed", hold.CircuitResult, "A gateway stopped answering, or answers again"),
)

_QUERIES: tuple[QuerySpec, ...] = (
    QuerySpec("account.get", account.GetAccount, account.AccountView, "billing.read", "One account"),
    QuerySpec("account.list", account.ListAccounts, account.AccountPage, "billing.read", "Accounts"),
    QuerySpec("account.balance", account.GetAccount, account.AccountBalance, "billing.read", "What an account owes"),
    QuerySpec(
        "account.activity", account.AccountActivity, ledger.TransferPage, "billing.read", "Postings of an account"
    ),
    QuerySpec("charge.get", charge.GetCharge, charge.ChargeView, "billing.read", "One charge"),
    QuerySpec("charge.list", charge.ListCharges, charge.ChargePage, "billing.read", "Charges of an account"),
    QuerySpec("invoice.get", invoice.GetInvoice, invoice.InvoiceView, "billing.read", "One invoice with its lines"),
    QuerySpec("invoice.list", invoice.ListInvoices, invoice.InvoicePage, "billing.read", "Invoices"),
    QuerySpec(
        "payment.get", payment.GetPayment, payment.PaymentView, "billing.read", "One payment and its allocations"
    ),
    QuerySpec("payment.list", payment.ListPayments, payment.PaymentPage, "billing.read", "Payments"),
    QuerySpec("payment.holds", hold.ListHolds, hold.HoldPage, "billing.read", "Charges through the gateway, by state"),
    QuerySpec(
        "ledger.trial_balance",
        ledger.TrialBalance,
        ledger.TrialBalanceView,
        "billing.ledger.read",
        "Trial balance, now or at a date",
    ),
    QuerySpec("ledger.transfers", ledger.ListTransfers, ledger.TransferPage, "billing.ledger.read", "Ledger entries"),
    QuerySpec(
        "ledger.verify",
        ledger.VerifyLedger,
        ledger.LedgerVerification,
        "billing.ledger.read",
        "Check every invariant of the tenant's books",
        timeout_seconds=300.0,  # 20,000 transfers took 2.7 s on two busy cores: about two million
    ),
    QuerySpec("report.aging", report.Aging, report.AgingView, "billing.read", "Open invoices by age"),
    QuerySpec("report.revenue", report.Revenue, report.RevenueView, "billing.ledger.read", "Revenue by group"),
    QuerySpec("command.get", report.GetCommand, report.CommandView, "billing.read", "The stored outcome of a command"),
)

_QUERIES += (
    QuerySpec("job.get", job.GetJob, job.JobView, "billing.jobs.read", "One job and how far it is"),
    QuerySpec("job.list", job.ListJobs, job.JobPage, "billing.jobs.read", "Jobs"),
    QuerySpec(
        "statement.get", statement.GetStatement, statement.StatementView, "billing.read", "One statement, with links"
    ),
    QuerySpec("statement.list", statement.ListStatements, statement.StatementPage, "billing.read", "Statements"),
    QuerySpec(
        "charge.suggest_codes",
        charge.SuggestCodes,
        charge.CodeSuggestions,
        "billing.read",
        "Charge codes for a description, where there is an AI gateway",
    ),
    QuerySpec("gl.get", gl.GetGlExport, gl.GlExportView, "billing.ledger.read", "One GL export"),
    QuerySpec("gl.list", gl.ListGlExports, gl.GlExportPage, "billing.ledger.read", "GL exports"),
)

COMMANDS: dict[str, CommandSpec] = {spec.name: spec for spec in _COMMANDS}
EVENTS: dict[str, EventSpec] = {spec.name: spec for spec in _EVENTS}
QUERIES: dict[str, QuerySpec] = {spec.name: spec for spec in _QUERIES}
