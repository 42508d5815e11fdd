"""GL export: the customer's account codes, the request, and the export as a worker records it."""

from domain.common import needs_chart, unknown_ledger_code
from domain.decision import Accepted, Capability, Command, Decision, Event, JobMessage, Rejected, rejected
from domain.entities import Book, Entity, Period
from domain.job import counted, job_event, job_result, queued, running
from domain.job_entities import GlAccount, GlExport, Job
from domain.lookups import GL_ACCOUNT, GL_EXPORT, GL_EXPORTS_OF_SCOPE, JOB
from domain.period import bounds_of, closing, needs_closing, period_event
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.gl import ExportGl, GlExported, GlMapped, MapGlAccounts, RecordGlExport
from schemas.job import JobMessage as JobBody


def needs_map(command: Command[MapGlAccounts]) -> Needs:
    codes = [mapping.ledger_code for mapping in command.body.mappings]
    return [*((GL_ACCOUNT, code) for code in codes), *needs_chart(codes)]


def decide_map(snapshot: Snapshot, command: Command[MapGlAccounts]) -> Decision:
    mappings = command.body.mappings
    codes = [mapping.ledger_code for mapping in mappings]
    if len(set(codes)) != len(codes):
        return rejected(Code.DUPLICATE_REFERENCE, field="mappings")
    if unknown := unknown_ledger_code(snapshot, codes):
        return rejected(Code.LEDGER_ACCOUNT_UNKNOWN, code=unknown)
    rows = []
    for mapping in mappings:
        stored = snapshot.get(GlAccount, mapping.ledger_code)
        recorded_at = stored.recorded_at if stored else command.recorded_at
        rows.append(GlAccount(mapping.ledger_code, mapping.gl_code, mapping.gl_name, recorded_at))
    result = GlMapped(mapped=len(rows))
    return Accepted(result, (Event("gl.mapped", command.tenant.tenant_id, result),), tuple(rows))


def scope_of(body: ExportGl) -> str:
    """Names what an export holds: form and range."""
    where = body.period or f"{body.first_sequence}-{body.last_sequence}"
    return f"{body.form}:{where}"


def needs_export(command: Command[ExportGl]) -> Needs:
    body = command.body
    return [
        (GL_EXPORTS_OF_SCOPE, scope_of(body)),
        *([(JOB, body.job_id)] if body.job_id else []),
        *(needs_closing(body.period) if body.period else []),
    ]


def decide_export(snapshot: Snapshot, command: Command[ExportGl]) -> Decision:
    """A period must be closed, or is closed with the request: what is exported cannot grow afterwards."""
    body = command.body
    if body.job_id and snapshot.get(Job, body.job_id):
        return rejected(Code.ALREADY_EXISTS, job_id=str(body.job_id))
    closed_now = _closed_now(snapshot, command)
    if isinstance(closed_now, Rejected):
        return closed_now
    earlier = [row for row in snapshot.find(GL_EXPORTS_OF_SCOPE, scope_of(body)) if row.status != "abandoned"]
    if earlier and not body.again:
        return rejected(Code.ALREADY_EXPORTED, job_id=str(earlier[0].id), scope=scope_of(body))
    book = snapshot.get(Book, ())
    upto = book.ledger_sequence if book else 0
    if body.last_sequence is not None and body.last_sequence > upto:
        return rejected(Code.AMOUNT_OUT_OF_RANGE, last_sequence=body.last_sequence, ledger_sequence=upto)
    job = queued(command, "gl_export", _parameters(command, upto))
    events = [job_event("job.queued", job)]
    writes: list[Entity] = [job, _requested(command, job, upto)]
    if closed_now:
        writes.append(closed_now)
        events.append(period_event("period.closed", closed_now))
    message = JobMessage(job.kind, JobBody(job_id=job.id))
    return Accepted(job_result(job), tuple(events), tuple(writes), jobs=(message,))


def _closed_now(snapshot: Snapshot, command: Command[ExportGl]) -> Period | Rejected | None:
    """The period if this request closes it, None if nothing has to be closed."""
    period, stored = command.body.period, None
    if period is None:
        return None
    if bounds_of(command.tenant, period) is None:
        return rejected(Code.PERIOD_NOT_FOUND, period=period)
    stored = snapshot.get(Period, period)
    if stored and stored.status == "closed":
        return None
    return (
        closing(snapshot, command, period)
        if command.body.close_period
        else rejected(Code.PERIOD_NOT_CLOSED, period=period)
    )


def _parameters(command: Command[ExportGl], upto: int) -> dict[str, object]:
    body = command.body
    bounds = bounds_of(command.tenant, body.period) if body.period else None
    return {
        "period": body.period,
        "starts_on": bounds[0].isoformat() if bounds else None,
        "ends_on": bounds[1].isoformat() if bounds else None,
        "first_sequence": body.first_sequence or 1,
        "last_sequence": body.last_sequence or upto,
        "form": body.form,
        "formats": list(body.formats),
    }


def _requested(command: Command[ExportGl], job: Job, upto: int) -> GlExport:
    return GlExport(
        id=job.id,
        scope=scope_of(command.body),
        status="requested",
        period=command.body.period,
        form=command.body.form,
        upto_sequence=upto,
        transfers=0,
        first_sequence=0,
        last_sequence=0,
        first_hash=None,
        last_hash=None,
        totals=(),
        files=(),
        manifest_key=None,
        manifest_sha256=None,
        recorded_at=command.recorded_at,
    )


def needs_record(command: Command[RecordGlExport]) -> Needs:
    return [(JOB, command.body.job_id), (GL_EXPORT, command.body.job_id)]


def decide_record(snapshot: Snapshot, command: Command[RecordGlExport]) -> Decision:
    body = command.body
    export = snapshot.get(GlExport, body.job_id)
    if export is None:
        other_kind = snapshot.get(Job, body.job_id) is not None
        return rejected(Code.GL_EXPORT_NOT_FOUND if other_kind else Code.JOB_NOT_FOUND, job_id=str(body.job_id))
    job = running(snapshot, body.job_id)
    if isinstance(job, Rejected):
        return job
    written = export._replace(
        status="written",
        transfers=body.transfers,
        first_sequence=body.first_sequence,
        last_sequence=body.last_sequence,
        first_hash=body.first_hash,
        last_hash=body.last_hash,
        totals=body.totals,
        files=body.files,
        manifest_key=body.manifest_key,
        manifest_sha256=body.manifest_sha256,
    )
    after = counted(command, job._replace(total=1), failed=False)
    result = GlExported(
        job_id=export.id,
        period=export.period,
        form=export.form,
        transfers=body.transfers,
        first_sequence=body.first_sequence,
        last_sequence=body.last_sequence,
        totals=body.totals,
        manifest_key=body.manifest_key,
        manifest_sha256=body.manifest_sha256,
    )
    events = (Event("gl.exported", str(export.id), result), job_event("job.finished", after))
    return Accepted(result, events, (written, after))


CAPABILITIES = {
    "gl.map": Capability(needs_map, decide_map),
    "gl.export": Capability(needs_export, decide_export),
    "gl.record": Capability(needs_record, decide_record),
}
