"""Statement runs: the request, and each statement as a worker records it."""

from domain.decision import Accepted, Capability, Command, Decision, Event, JobMessage, Rejected, rejected
from domain.entities import Book
from domain.job import counted, job_event, job_result, queued, running
from domain.job_entities import Job, Statement
from domain.lookups import JOB, STATEMENT
from domain.period import bounds_of
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.job import JobMessage as JobBody
from schemas.statement import RecordStatement, RunStatements, StatementIssued, StatementResult


def needs_run(command: Command[RunStatements]) -> Needs:
    return [(JOB, command.body.job_id)] if command.body.job_id else []


def decide_run(snapshot: Snapshot, command: Command[RunStatements]) -> Decision:
    """`upto_sequence` fixes what of the ledger the run sees, so that rendering a statement twice gives the same statement."""
    body, book = command.body, snapshot.get(Book, ())
    bounds = bounds_of(command.tenant, body.period)
    if bounds is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=body.period)
    if body.job_id and snapshot.get(Job, body.job_id):
        return rejected(Code.ALREADY_EXISTS, job_id=str(body.job_id))
    job = queued(
        command,
        "statements",
        {
            "period": body.period,
            "starts_on": bounds[0].isoformat(),
            "ends_on": bounds[1].isoformat(),
            "upto_sequence": book.ledger_sequence if book else 0,
            "account_ids": [str(account_id) for account_id in body.account_ids] if body.account_ids else None,
        },
    )
    message = JobMessage(job.kind, JobBody(job_id=job.id))
    return Accepted(job_result(job), (job_event("job.queued", job),), (job,), jobs=(message,))


def needs_record(command: Command[RecordStatement]) -> Needs:
    return [(JOB, command.body.job_id), (STATEMENT, command.body.statement_id)]


def decide_record(snapshot: Snapshot, command: Command[RecordStatement]) -> Decision:
    body = command.body
    if snapshot.get(Statement, body.statement_id):
        return rejected(Code.ALREADY_EXISTS, statement_id=str(body.statement_id))
    job = running(snapshot, body.job_id)
    if isinstance(job, Rejected):
        return job
    if job.done + job.failed >= job.total:  # not split yet, or nothing left to record
        return rejected(Code.JOB_FINISHED, job_id=str(job.id), status=job.status)
    statement = _statement(command)
    after = counted(command, job, failed=statement.status == "failed")
    result = StatementResult(statement_id=statement.id, status=statement.status)
    events = [_event(statement, result)]
    if after.finished_at:
        events.append(job_event("job.finished", after))
    return Accepted(result, tuple(events), (statement, after))


def _statement(command: Command[RecordStatement]) -> Statement:
    body = command.body
    return Statement(
        id=body.statement_id,
        job_id=body.job_id,
        account_id=body.account_id,
        party_id=body.party_id,
        period=body.period,
        status="issued" if body.pdf_file and body.json_file and not body.error_code else "failed",
        locale=body.locale,
        currency=body.currency,
        opening_minor=body.opening_minor,
        closing_minor=body.closing_minor,
        due_minor=body.due_minor,
        json_key=body.json_file.key if body.json_file else None,
        json_sha256=body.json_file.sha256 if body.json_file else None,
        pdf_key=body.pdf_file.key if body.pdf_file else None,
        pdf_sha256=body.pdf_file.sha256 if body.pdf_file else None,
        error_code=body.error_code,
        recorded_at=command.recorded_at,
    )


def _event(statement: Statement, result: StatementResult) -> Event:
    if statement.status == "failed" or statement.pdf_sha256 is None:
        return Event("statement.failed", str(statement.id), result)
    data = StatementIssued(
        statement_id=statement.id,
        job_id=statement.job_id,
        account_id=statement.account_id,
        party_id=statement.party_id,
        period=statement.period,
        currency=statement.currency,
        closing_minor=statement.closing_minor,
        due_minor=statement.due_minor,
        pdf_sha256=statement.pdf_sha256,
    )
    return Event("statement.issued", str(statement.id), data)


CAPABILITIES = {
    "statement.run": Capability(needs_run, decide_run),
    "statement.record": Capability(needs_record, decide_record),
}
