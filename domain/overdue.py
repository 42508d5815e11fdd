"""Overdue marking: the schedule names candidates, the decision looks again."""

from domain.decision import Accepted, Capability, Command, Decision, Event
from domain.entities import Invoice
from domain.invoice import invoice_event
from domain.lookups import INVOICE
from domain.snapshot import Needs, Snapshot
from schemas.invoice import MarkOverdue, OverdueResult


def needs_mark(command: Command[MarkOverdue]) -> Needs:
    return [(INVOICE, invoice_id) for invoice_id in command.body.invoice_ids]


def decide_mark(snapshot: Snapshot, command: Command[MarkOverdue]) -> Decision:
    """Marks those that are still open, past due and not marked; what was paid meanwhile is left alone."""
    as_of = command.body.as_of
    found = (snapshot.get(Invoice, invoice_id) for invoice_id in dict.fromkeys(command.body.invoice_ids))
    due = [
        invoice._replace(overdue_on=as_of)
        for invoice in found
        if invoice and invoice.status == "issued" and invoice.due_on < as_of and invoice.overdue_on is None
    ]
    events: tuple[Event, ...] = tuple(invoice_event("invoice.overdue", invoice) for invoice in due)
    return Accepted(OverdueResult(marked=len(due)), events, tuple(due))


CAPABILITIES = {"invoice.mark_overdue": Capability(needs_mark, decide_mark)}
