"""Jobs, statements and GL exports as the queries show them, from rows that the real engine wrote."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from adapters.postgres.database import Database
from handlers.queries import Queries
from schemas.registry import QUERIES
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import Hospital, ask, profile

SHA = "ab" * 32
PERIOD = "2026-03"
# The queries whose isolation is tested here; those of the books are in test_queries_answers.py.
ASKED_OF_STRANGERS = {"job.get", "job.list", "statement.get", "statement.list", "gl.get", "gl.list"}


async def _presign(key: str) -> str:
    return f"https://objects.example/{key}?signed"


class Run:
    """A statement run of two accounts, one of which could not be rendered, and a GL export."""

    def __init__(self, hospital: Hospital, read: Database) -> None:
        self.hospital, self.read = hospital, read
        self.queries = Queries(read, None, profile)
        self.accounts: list[UUID] = []
        self.job_id, self.export_id = uuid4(), uuid4()
        self.issued, self.failed = uuid4(), uuid4()

    async def do(self) -> None:
        opened = await self.hospital.apply(
            *[("account.open", {"patient": "Patient/1", "currency": "AED", "locale": "ps"})] * 2
        )
        self.accounts = [UUID(result["account_id"]) for result in opened]
        await self.hospital.apply(("statement.run", {"job_id": self.job_id, "period": PERIOD}))
        await self.hospital.apply(("job.report", {"job_id": self.job_id, "status": "running", "total": 2}))
        files = {name: {"key": f"r/t/{name}", "sha256": SHA, "bytes": 9} for name in ("json_file", "pdf_file")}
        await self.hospital.apply(
            ("statement.record", self._record(self.issued, self.accounts[0]) | files),
            ("statement.record", self._record(self.failed, self.accounts[1]) | {"error_code": "glyph_missing"}),
        )
        await self._export()

    async def _export(self) -> None:
        await self.hospital.apply(
            ("gl.export", {"job_id": self.export_id, "period": PERIOD, "close_period": True, "formats": ["csv"]})
        )
        assert await self.code("gl.get", job_id=self.export_id) == "gl_export_not_found"
        written = {
            "job_id": self.export_id,
            "transfers": 0,
            "first_sequence": 0,
            "last_sequence": 0,
            "totals": [{"currency": "AED", "debits_minor": 5, "credits_minor": 5}],
            "files": [{"format": "csv", "key": "r/t/gl.csv", "sha256": SHA, "bytes": 3, "rows": 0}],
            "manifest_key": "r/t/manifest.json",
            "manifest_sha256": SHA,
        }
        await self.hospital.apply(("gl.record", written))

    def _record(self, statement_id: UUID, account_id: UUID) -> dict[str, Any]:
        whose = {"statement_id": statement_id, "job_id": self.job_id, "account_id": account_id, "party_id": "patient"}
        return whose | {"period": PERIOD, "locale": "ps", "currency": "AED", "opening_minor": -7, "closing_minor": 12}

    async def result(self, name: str, **fields: Any) -> Any:
        answer = await ask(self.queries, self.hospital.tenant_id, name, **fields)
        assert answer["error"] is None
        return QUERIES[name].result.model_validate_json(json.dumps(answer["result"]))

    async def code(self, name: str, **fields: Any) -> str:
        answer = await ask(self.queries, self.hospital.tenant_id, name, **fields)
        assert answer["result"] is None
        return str(answer["error"]["code"])


@pytest_asyncio.fixture
async def run(database: ModuleDatabase, tenant: str) -> AsyncIterator[Run]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    read = Database(database.dsn("billing_read"), application_name="test", pool_size=4)
    try:
        run = Run(Hospital(app, tenant), read)
        await run.do()
        yield run
    finally:
        await read.close()
        await app.close()


async def test_a_job_says_how_far_it_is(run: Run) -> None:
    job = await run.result("job.get", job_id=run.job_id)
    assert (job.kind, job.status, job.total, job.done, job.failed) == ("statements", "succeeded", 2, 1, 1)
    assert job.parameters["period"] == PERIOD
    assert job.recorded_at < job.started_at <= job.finished_at
    assert await run.code("job.get", job_id=uuid4()) == "job_not_found"


async def test_jobs_are_listed_newest_first_by_kind_and_status(run: Run) -> None:
    async def ids(**fields: Any) -> list[UUID]:
        return [job.job_id for job in (await run.result("job.list", **fields)).items]

    assert await ids() == [run.export_id, run.job_id]
    assert await ids(kind="statements") == [run.job_id]
    assert await ids(status="succeeded") == [run.export_id, run.job_id]
    assert await ids(status="failed") == []
    first = await run.result("job.list", limit=1)
    assert await ids(limit=1, cursor=first.next_cursor) == [run.job_id]


async def test_a_statement_has_links_only_where_there_is_an_object_store(run: Run) -> None:
    without = await run.result("statement.get", statement_id=run.issued)
    assert (without.status, without.opening_minor, without.closing_minor) == ("issued", -7, 12)
    assert (without.json_url, without.pdf_url, without.pdf_sha256) == (None, None, SHA)
    run.queries = Queries(run.read, None, profile, presign=_presign)
    linked = await run.result("statement.get", statement_id=run.issued)
    assert linked.json_url == "https://objects.example/r/t/json_file?signed"
    assert linked.pdf_url == "https://objects.example/r/t/pdf_file?signed"
    assert await run.code("statement.get", statement_id=uuid4()) == "statement_not_found"


async def test_a_statement_that_could_not_be_made_says_why(run: Run) -> None:
    run.queries = Queries(run.read, None, profile, presign=_presign)
    failed = await run.result("statement.get", statement_id=run.failed)
    assert (failed.status, failed.error_code, failed.pdf_url, failed.json_url) == (
        "failed",
        "glyph_missing",
        None,
        None,
    )


async def test_statements_are_listed_by_account_and_by_run(run: Run) -> None:
    async def ids(**fields: Any) -> set[UUID]:
        return {item.statement_id for item in (await run.result("statement.list", **fields)).items}

    assert await ids() == await ids(job_id=run.job_id) == {run.issued, run.failed}
    assert await ids(account_id=run.accounts[0]) == {run.issued}
    assert await ids(account_id=run.accounts[0], job_id=uuid4()) == set()


async def test_a_written_export_is_shown_with_its_files_and_totals(run: Run) -> None:
    export = await run.result("gl.get", job_id=run.export_id)
    assert [(total.currency, total.debits_minor, total.credits_minor) for total in export.totals] == [("AED", 5, 5)]
    assert [(file.format, file.key) for file in export.files] == [("csv", "r/t/gl.csv")]
    assert export.manifest_sha256 == SHA
    assert (await run.result("gl.list", period=PERIOD)).items == (export,)
    assert (await run.result("gl.list", period="2026-02")).items == ()


@pytest.mark.parametrize("role", ["billing_read", "postgres"])
async def test_another_tenant_sees_none_of_it(run: Run, database: ModuleDatabase, role: str) -> None:
    """By row-level security and, where a role is exempt from it, by every statement's own condition."""
    source = Database(database.dsn(role), application_name="test", pool_size=1)
    queries, stranger = Queries(source, None, profile), f"{run.hospital.tenant_id}-x"
    asked: dict[str, dict[str, Any]] = {
        "job.get": {"job_id": run.job_id},
        "statement.get": {"statement_id": run.issued},
        "gl.get": {"job_id": run.export_id},
        "job.list": {},
        "statement.list": {},
        "gl.list": {},
    }
    assert asked.keys() == ASKED_OF_STRANGERS
    for name, fields in asked.items():
        answer = await ask(queries, stranger, name, **fields)
        if name.endswith(".get"):
            assert answer["error"]["code"].endswith("_not_found")
        else:
            assert answer["result"]["items"] == []
    await source.close()
