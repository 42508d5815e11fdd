"""The pure middle of a batch: what `load` brought goes in, what `save` has to write comes out.

Commands of one tenant are executed in stream order. Each sees the effects of those before it, exactly as if each had been a
batch of its own: a batch of N equals N batches of one.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from domain import (
    account,
    adjustment,
    audit,
    charge,
    credit_note,
    gateway_facts,
    gl,
    hold,
    invoice,
    job,
    ledger,
    overdue,
    payment,
    payment_undo,
    period,
    pricelist,
    settlement,
    statement_run,
)
from domain.chart import TEMPLATE
from domain.decision import Accepted, Capability, Command, Decision, Rejected
from domain.entities import Book, ChartEntry, InboxEntry
from domain.lookups import BOOK, INBOX, Lookup
from domain.outbox import job_row, outbox_row
from domain.snapshot import Snapshot
from schemas.codes import Code
from schemas.outcome import Problem, problem

CAPABILITIES: dict[str, Capability] = {
    **account.CAPABILITIES,
    **pricelist.CAPABILITIES,
    **charge.CAPABILITIES,
    **invoice.CAPABILITIES,
    **credit_note.CAPABILITIES,
    **payment.CAPABILITIES,
    **payment_undo.CAPABILITIES,
    **hold.CAPABILITIES,
    **settlement.CAPABILITIES,
    **gateway_facts.CAPABILITIES,
    **period.CAPABILITIES,
    **adjustment.CAPABILITIES,
    **overdue.CAPABILITIES,
    **job.CAPABILITIES,
    **statement_run.CAPABILITIES,
    **gl.CAPABILITIES,
}


class Verdict(NamedTuple):
    """What a command came to. `result` and `error` are JSON text.

    `deferred`: refused for something that may still arrive; nothing is stored and the command should be tried again shortly.
    `failure`: its `decide` raised, which is a bug; nothing is stored and the command should be dead-lettered.
    """

    status: Literal["applied", "duplicate", "rejected", "deferred", "failed"]
    result: str | None = None
    error: str | None = None
    code: Code | None = None
    failure: Exception | None = None


def needs(commands: Iterable[Command[Any]]) -> dict[Lookup, set[Any]]:
    """The union of everything the commands may read, by lookup. Raises what a `needs` raises: a bug."""
    union: dict[Lookup, set[Any]] = {BOOK: {()}, INBOX: set()}
    for command in commands:
        union[INBOX].add(command.command_id)
        if command.refusal is None:
            for lookup, key in CAPABILITIES[command.name].needs(command):
                union.setdefault(lookup, set()).add(key)
    return union


def execute(snapshot: Snapshot, commands: Sequence[Command[Any]]) -> list[Verdict]:
    """Decides the commands in order, folding each into the snapshot; one verdict per command, in the same order."""
    return [_execute_one(snapshot, command) for command in commands]


def _execute_one(snapshot: Snapshot, command: Command[Any]) -> Verdict:
    if stored := snapshot.get(InboxEntry, command.command_id):
        return _replayed(snapshot, stored, command)
    try:
        decision = _decide(snapshot, command)
        if isinstance(decision, Accepted):
            ledger.check(decision.postings)
            return _apply(snapshot, command, decision)
    except Exception as failure:  # a bug in one capability must not stop its neighbours in the batch
        return Verdict("failed", failure=failure, code=Code.COMMAND_FAILED)
    return _refuse(snapshot, command, decision)


def _replayed(snapshot: Snapshot, stored: InboxEntry, command: Command[Any]) -> Verdict:
    """A delivery that comes again, or is replayed, is nobody's act and leaves no audit event; one that was sent again is."""
    if stored.payload_hash != command.payload_hash:
        snapshot.append(audit.outcome_row(command, "rejected", Code.IDEMPOTENCY_KEY_REUSED))
        return Verdict("rejected", error=_json(problem(Code.IDEMPOTENCY_KEY_REUSED)), code=Code.IDEMPOTENCY_KEY_REUSED)
    if stored.stream_sequence != command.stream_sequence:
        snapshot.append(audit.outcome_row(command, "duplicate"))
    return Verdict("duplicate", stored.result, stored.error)


def _decide(snapshot: Snapshot, command: Command[Any]) -> Decision:
    if command.refusal is not None:
        return Rejected(command.refusal, awaits=False)
    return CAPABILITIES[command.name].decide(snapshot, command)


def _refuse(snapshot: Snapshot, command: Command[Any], decision: Rejected) -> Verdict:
    code, error = decision.problem.code, _json(decision.problem)
    if decision.awaits and command.may_wait:
        return Verdict("deferred", error=error, code=code)
    if not decision.problem.retryable:
        book = _book(snapshot)
        _record(snapshot, command, book, "rejected", None, error)
    snapshot.append(audit.outcome_row(command, "rejected", code))
    return Verdict("rejected", error=error, code=code)


def _apply(snapshot: Snapshot, command: Command[Any], accepted: Accepted) -> Verdict:
    """Builds every row first and folds them in last: an exception on the way leaves the snapshot as it was."""
    book = _book(snapshot)
    first = book.event_sequence + 1
    events = [outbox_row(command, event, index, first + index) for index, event in enumerate(accepted.events)]
    jobs = [job_row(command, message, index) for index, message in enumerate(accepted.jobs)]
    told = audit.outcome_row(command, "applied", None, accepted)
    result = accepted.result.model_dump_json()
    for row in accepted.writes:
        snapshot.put(row)
    book = ledger.post(snapshot, book, command, accepted.postings, first)
    for outbox in (*events, *jobs, told):
        snapshot.append(outbox)
    book = Book(book.ledger_sequence, book.ledger_head, book.event_sequence + len(events), book.command_sequence)
    _record(snapshot, command, book, "applied", result, None)
    return Verdict("applied", result=result)


def _record(
    snapshot: Snapshot, command: Command[Any], book: Book, status: str, result: str | None, error: str | None
) -> None:
    """Counts the command and stores its outcome; a tenant's first also seeds the chart of accounts from the template."""
    sequence = book.command_sequence + 1
    if sequence == 1:
        for code, entry in TEMPLATE.items():
            snapshot.put(ChartEntry(code, entry.name, entry.kind, command.recorded_at))
    snapshot.put(Book(book.ledger_sequence, book.ledger_head, book.event_sequence, sequence))
    snapshot.put(
        InboxEntry(
            command_id=command.command_id,
            name=command.name,
            payload_hash=command.payload_hash,
            status=status,
            result=result,
            error=error,
            sequence=sequence,
            stream_sequence=command.stream_sequence,
            recorded_at=command.recorded_at,
        )
    )


def _book(snapshot: Snapshot) -> Book:
    """The tenant's book; one that is new has counted nothing yet and is stored with the first command."""
    return snapshot.get(Book, ()) or Book(0, ledger.GENESIS, 0, 0)


def _json(error: Problem) -> str:
    return orjson.dumps(error.model_dump(mode="json")).decode()
