"""Jobs, statement runs, GL exports and overdue marks: what follows from what, and what is never done twice."""

from typing import Any
from uuid import UUID

import orjson
import pytest

from domain.entities import Invoice, Period
from domain.job_entities import GlAccount, GlExport, Job, Statement
from tests.domain.bodies import BODIES
from tests.domain.hospital import draft as drafted
from tests.domain.hospital import invoiced, line, open_account, pay
from tests.domain.invariants import check_all, check_contracts
from tests.domain.world import KABUL, World, command, uid


def export(world: World, **more: Any) -> UUID:
    return UUID(world.do("gl.export", {"period": "2026-10", **more})["job_id"])


def record(world: World, job_id: UUID) -> dict[str, Any]:
    return world.do("gl.record", BODIES["gl.record"] | {"job_id": job_id})


def closed_october() -> World:
    world = World()
    world.do("period.close", {"period": "2026-10"})
    return world


def run_of(world: World, total: int) -> tuple[UUID, UUID]:
    account_id = open_account(world)
    job_id = UUID(world.do("statement.run", {"period": "2026-10"})["job_id"])
    world.do("job.report", {"job_id": job_id, "status": "running", "total": total})
    return job_id, account_id


def statement(job_id: UUID, account_id: UUID, number: int, *, issued: bool) -> dict[str, Any]:
    file = {"key": "me/dubai/statements/1", "sha256": "0" * 64, "bytes": 1}
    made: dict[str, Any] = {"json_file": file, "pdf_file": file, "error_code": None} if issued else {}
    return BODIES["statement.record"] | {
        "job_id": job_id,
        "account_id": account_id,
        "statement_id": uid(number),
        **made,
    }


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_work_is_announced_with_the_commit_that_asks_for_it() -> None:
    world = closed_october()
    job_id = export(world)
    (sent,) = world.jobs
    assert sent.subject == "billing.v1.job.dubai.gl_export" and orjson.loads(sent.body) == {"job_id": str(job_id)}
    assert world.one(Job, job_id).status == "queued"
    check_all(world)
    check_contracts(world)


def test_a_refused_request_announces_nothing() -> None:
    world = World()
    world.refused("gl.export", {"period": "2026-10"})
    assert not world.jobs and not world.all(Job)


@pytest.mark.parametrize(("failed", "status"), [(0, "succeeded"), (2, "succeeded"), (3, "failed")])
def test_a_run_ends_with_the_last_of_its_items(failed: int, status: str) -> None:
    world = World()
    job_id, account_id = run_of(world, 3)
    for number in range(3):
        assert world.one(Job, job_id).finished_at is None
        world.do("statement.record", statement(job_id, account_id, number, issued=number >= failed))
    job = world.one(Job, job_id)
    assert (job.status, job.done, job.failed) == (status, 3 - failed, failed) and job.finished_at
    assert [name for name, _ in world.events()].count("job.finished") == 1
    assert world.refused("statement.record", statement(job_id, account_id, 9, issued=True)).code == "job_finished"
    check_all(world)
    check_contracts(world)


def test_a_statement_without_its_files_is_a_failed_one() -> None:
    world = World()
    job_id, account_id = run_of(world, 1)
    body = statement(job_id, account_id, 1, issued=True) | {"pdf_file": None}
    assert world.do("statement.record", body)["status"] == "failed"
    assert [row.status for row in world.all(Statement)] == ["failed"]


def test_a_total_below_what_is_recorded_is_refused_and_the_same_total_again_is_not() -> None:
    world = World()
    job_id, account_id = run_of(world, 2)
    world.do("statement.record", statement(job_id, account_id, 1, issued=True))
    again = {"job_id": job_id, "status": "running", "total": 2}
    assert world.refused("job.report", again | {"total": 0}).details == {"total": 0, "recorded": 1}
    world.do("job.report", again)
    assert world.one(Job, job_id).total == 2


def test_a_job_that_was_loaded_says_byte_for_byte_what_one_of_the_same_batch_says() -> None:
    """PostgreSQL orders the keys of a JSON object by length; here they come back in another order too."""
    world = closed_october()
    job_id = export(world)
    row = world.one(Job, job_id)
    world.tables[Job][job_id] = row._replace(parameters=dict(reversed(row.parameters.items())))
    world.do("job.cancel", {"job_id": job_id, "reason": "asked"})
    queued, finished = (data["parameters"] for name, data in world.events() if name.startswith("job."))
    assert list(queued) == list(finished)


def test_a_failed_run_goes_on_where_it_stopped_and_a_finished_one_does_not() -> None:
    world = World()
    job_id, account_id = run_of(world, 2)
    world.do("statement.record", statement(job_id, account_id, 1, issued=True))
    world.do("job.report", {"job_id": job_id, "status": "failed", "error_code": "object_store_unavailable"})
    world.do("job.retry", {"job_id": job_id})
    job = world.one(Job, job_id)
    assert (job.status, job.done, job.error_code, job.finished_at) == ("queued", 1, None, None)
    assert len(world.jobs) == 2
    world.do("statement.record", statement(job_id, account_id, 2, issued=True))
    assert world.refused("job.retry", {"job_id": job_id}).code == "job_finished"
    check_all(world)
    check_contracts(world)


# --- GL export --------------------------------------------------------------------------------------------------------


def test_a_period_is_exported_once_unless_asked_for_again() -> None:
    world = closed_october()
    first = export(world)
    assert world.refused("gl.export", {"period": "2026-10"}).details["job_id"] == str(first)
    record(world, first)
    assert world.refused("gl.export", {"period": "2026-10"}).code == "already_exported"
    assert export(world, again=True) != first
    export(world, form="summary")
    check_all(world)
    check_contracts(world)


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
def test_an_export_that_came_to_nothing_does_not_stand_in_the_way_of_the_next(ending: str) -> None:
    world = closed_october()
    job_id = export(world)
    if ending == "cancelled":
        world.do("job.cancel", {"job_id": job_id, "reason": "asked"})
    else:
        world.do("job.report", {"job_id": job_id, "status": "failed", "error_code": "gl_mapping_missing"})
    assert world.one(GlExport, job_id).status == "abandoned"
    assert world.refused("gl.record", BODIES["gl.record"] | {"job_id": job_id}).code == "job_finished"
    record(world, export(world))


def test_a_period_closes_with_the_request_and_what_comes_behind_is_refused() -> None:
    world = World()
    account_id = open_account(world)
    invoiced(world, account_id, 100)
    export(world, period="2026-11", close_period=True)
    assert world.one(Period, "2026-11").status == "closed"
    assert world.refused("invoice.create", {"account_id": account_id, "lines": [line(1)]}).code == "period_closed"
    assert {"period.closed", "job.queued"} <= {name for name, _ in world.events()}
    check_all(world)
    check_contracts(world)


def test_to_close_what_is_closed_already_is_no_reason_to_refuse() -> None:
    world = closed_october()
    export(world, close_period=True)
    assert "period.closed" not in [name for name, _ in world.events()][1:]


def test_an_export_reaches_as_far_as_the_ledger_did_when_it_was_asked_for() -> None:
    world = World()
    account_id = open_account(world)
    invoiced(world, account_id, 100)
    before = world.book.ledger_sequence
    world.do("period.close", {"period": "2026-10"})
    job_id = export(world)
    invoiced(world, account_id, 100)
    assert world.one(Job, job_id).parameters["last_sequence"] == before == world.one(GlExport, job_id).upto_sequence
    assert world.one(Job, job_id).parameters["starts_on"] == "2026-10-01"


def test_a_solar_hijri_period_is_exported_between_its_own_days() -> None:
    world = World(KABUL)
    job_id = export(world, period="1405-08", close_period=True)
    parameters = world.one(Job, job_id).parameters
    assert (parameters["starts_on"], parameters["ends_on"]) == ("2026-10-23", "2026-11-21")


def test_codes_not_named_stay_as_they_are() -> None:
    world = World()
    world.do("gl.map", {"mappings": [_mapping("1000", "A"), _mapping("1010", "B")]})
    world.do("gl.map", {"mappings": [_mapping("1010", "C")]})
    assert {row.ledger_code: row.gl_code for row in world.all(GlAccount)} == {"1000": "A", "1010": "C"}
    check_contracts(world)


def _mapping(ledger_code: str, gl_code: str) -> dict[str, str]:
    return {"ledger_code": ledger_code, "gl_code": gl_code, "gl_name": "x"}


# --- overdue ----------------------------------------------------------------------------------------------------------


def test_open_invoices_past_their_due_date_are_marked_once_each() -> None:
    world = World()
    account_id = open_account(world)
    late, paid, due_today = (
        invoiced(world, account_id, 100, due_on=due_on) for due_on in ("2026-11-03", "2026-11-03", "2026-11-04")
    )
    (in_draft,) = drafted(world, account_id, [line(100)], due_on="2026-11-03")
    pay(world, account_id, 100, (paid, 100))
    body = {"as_of": "2026-11-04", "invoice_ids": [late, late, paid, due_today, in_draft, uid(0xBEEF)]}
    assert world.do("invoice.mark_overdue", body) == {"marked": 1}
    assert world.do("invoice.mark_overdue", body) == {"marked": 0}
    assert [(row.id, str(row.overdue_on)) for row in world.all(Invoice) if row.overdue_on] == [(late, "2026-11-04")]
    overdue = [data for name, data in world.events() if name == "invoice.overdue"]
    assert [data["invoice_id"] for data in overdue] == [str(late)]
    check_all(world)
    check_contracts(world)


def test_what_was_paid_in_the_same_batch_is_not_marked() -> None:
    world = World()
    account_id = open_account(world)
    late = invoiced(world, account_id, 100, due_on="2026-11-03")
    amount = {"amount_minor": 100, "currency": "AED"}
    allocation = [{"invoice_id": late, "amount_minor": 100}]
    verdicts = world.run(
        [
            command(
                "payment.record",
                {"account_id": account_id, "amount": amount, "method": "cash", "allocations": allocation},
                command_id=0x70,
            ),
            command("invoice.mark_overdue", {"as_of": "2026-11-04", "invoice_ids": [late]}, command_id=0x71),
        ]
    )
    assert verdicts[1].result == '{"marked":0}'
    check_all(world)
