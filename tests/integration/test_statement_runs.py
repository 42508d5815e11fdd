"""Statement runs on a real mesh: what goes wrong is a clear state of the job or of one statement, and can be gone on with."""

import asyncio
import hashlib
import json
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from adapters.nats.consumer_state import consumer_state
from adapters.nats.topology import DLQ_STREAM, JOBS_STREAM
from adapters.objects.store import ObjectStore
from schemas.tenant import StatementProfile
from tests.golden.statements import logo
from tests.integration.pipeline_support import stream_messages
from tests.integration.relay_support import until
from tests.integration.statements_support import (
    Office,
    hospital,
    object_server,
    object_settings,
    seed,
    statement_mesh,
)
from tests.integration.test_cli import billing
from tools.stack import SeaweedFS, Stack
from tools.stack.mesh import Mesh

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def objects(stack: Stack) -> Iterator[SeaweedFS]:
    with object_server(stack, "objects-of-statement-runs") as server:
        yield server


@pytest.fixture(scope="module")
def mesh(stack: Stack, objects: SeaweedFS) -> Iterator[Mesh]:
    with statement_mesh(stack, objects, JOB_MAX_DELIVERIES="2") as started:
        yield started


@pytest_asyncio.fixture
async def office(mesh: Mesh) -> AsyncIterator[Office]:
    """Of a tenant of the test's own, with no accounts yet."""
    tenant = mesh.add_tenant(f"t-{uuid.uuid4().hex[:12]}").tenant_id
    async with Office.of(mesh, tenant) as office:
        yield office


async def open_account(office: Office, name: str, **fields: Any) -> UUID:
    """One that owes 1,000."""
    account_id = uuid4()
    party = {"party_id": "patient", "kind": "patient", "share_basis_points": 10_000, "name": name}
    body = {"account_id": account_id, "patient": "Patient/1", "currency": "AED", "parties": [party]}
    assert (await office.send("account.open", body | fields)).error is None
    line = {"description": "Care", "quantity": "1", "unit_price_minor": 1_000}
    created = await office.send(
        "invoice.create", {"account_id": account_id, "lines": [line], "invoice_date": "2026-03-02"}
    )
    assert created.result is not None
    invoice_id = created.result["documents"][0]["invoice_id"]
    assert (await office.send("invoice.issue", {"invoice_id": invoice_id})).error is None
    return account_id


async def idle(office: Office, *queues: str) -> None:
    """Returns when nothing is left in the job queues."""

    async def empty() -> bool:
        states = [await consumer_state(office.connection, JOBS_STREAM, queue) for queue in queues]
        return not any(state.depth for state in states)

    await until(empty, 60)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def test_a_run_makes_every_statement_and_its_links_open(office: Office) -> None:
    async with hospital(office.mesh, office.tenant) as books:
        await seed(books, 8)
    job_id = await office.run()
    job = await office.finished(job_id)
    assert (job["status"], job["total"], job["done"], job["failed"]) == ("succeeded", 10, 10, 0)  # two have an insurer
    listed = (await office.ask("statement.list", job_id=job_id))["items"]
    assert {item["locale"] for item in listed} == {"en", "ar", "fa-AF", "ps"}
    assert min(item["closing_minor"] for item in listed) < 0  # one paid more than it owed
    shown = await office.ask("statement.get", statement_id=listed[0]["statement_id"])
    async with httpx.AsyncClient() as client:
        pdf, data = await asyncio.gather(client.get(shown["pdf_url"]), client.get(shown["json_url"]))
    assert hashlib.sha256(pdf.content).hexdigest() == shown["pdf_sha256"]
    assert json.loads(data.content)["statement"]["closing_minor"] == shown["closing_minor"]
    (row,) = [row for row in await office.statements(job_id) if str(row["id"]) == shown["statement_id"]]
    assert row["pdf_key"].startswith(f"local-1/{office.tenant}/statements/2026-03/")
    assert (await office.send("statement.run", {"job_id": job_id, "period": "2026-03"})).error is not None


async def test_mixed_scripts_in_a_name(office: Office) -> None:
    await open_account(office, "د. Ahmad الکابلی ‌(ABC-12) ۵۰", locale="ps")
    job = await office.finished(await office.run())
    assert (job["status"], job["failed"]) == ("succeeded", 0)


async def test_a_tenant_without_anything_has_nothing_to_state(office: Office) -> None:
    job = await office.finished(await office.run())
    assert (job["status"], job["total"], job["error_code"]) == ("succeeded", 0, None)


async def test_an_account_asked_for_by_name_is_stated_though_nothing_happened(office: Office) -> None:
    account_id = await open_account(office, "Zahra")
    job_id = await office.run("2026-01", account_ids=[account_id])
    job = await office.finished(job_id)
    (row,) = await office.statements(job_id)
    assert (job["status"], row["opening_minor"], row["closing_minor"], row["status"]) == ("succeeded", 0, 0, "issued")


# --- what is asked wrongly --------------------------------------------------------------------------------------------


async def test_a_period_that_is_none_queues_nothing(office: Office) -> None:
    outcome = await office.send("statement.run", {"period": "0000-01"})
    assert outcome.error is not None
    assert outcome.error.code == "period_not_found"
    assert (await office.ask("job.list"))["items"] == []


async def test_accounts_that_nobody_opened_fail_the_run_and_are_named(office: Office) -> None:
    known, unknown = await open_account(office, "Zahra"), uuid4()
    job_id = await office.run(account_ids=[known, unknown])
    job = await office.finished(job_id)
    assert (job["status"], job["error_code"]) == ("failed", "account_not_found")
    assert str(unknown) in job["error_detail"]
    assert str(known) not in job["error_detail"]
    assert await office.statements(job_id) == []


async def test_a_name_that_no_font_can_show_costs_one_statement(office: Office) -> None:
    await open_account(office, "漢字")
    await open_account(office, "Zahra")
    job_id = await office.run()
    job = await office.finished(job_id)
    assert (job["status"], job["done"], job["failed"]) == ("succeeded", 1, 1)
    found = {(row["status"], row["error_code"], row["pdf_key"] is None) for row in await office.statements(job_id)}
    assert found == {("failed", "glyph_missing", True), ("issued", None, False)}


async def test_a_logo_that_is_not_there_fails_the_run_until_it_is(office: Office, objects: SeaweedFS) -> None:
    key = f"logos/{office.tenant}.png"
    profile = office.mesh.profile(office.tenant).model_copy(update={"statement": StatementProfile(logo_object_key=key)})
    office.mesh.add_tenant(profile)
    await open_account(office, "Zahra")
    job_id = await office.run()
    job = await office.finished(job_id)
    assert (job["status"], job["error_code"]) == ("failed", "logo_not_found")
    async with ObjectStore.open(object_settings(objects)) as store:
        await store.put(key, logo(), content_type="image/png")
    assert (await office.send("job.retry", {"job_id": job_id})).error is None
    assert (await office.finished(job_id))["status"] == "succeeded"


# --- the object store -------------------------------------------------------------------------------------------------


async def test_a_run_while_the_object_store_is_down_fails_and_goes_on_later(office: Office, objects: SeaweedFS) -> None:
    await open_account(office, "Zahra")
    await asyncio.to_thread(objects.stop)
    try:
        job_id = await office.run()
        job = await office.finished(job_id, 90)
    finally:
        await asyncio.to_thread(objects.start)
    assert (job["status"], job["error_code"], job["done"]) == ("failed", "object_store_unavailable", 0)
    assert await office.statements(job_id) == []
    letters = await stream_messages(
        office.connection, DLQ_STREAM, f"billing.v1.dlq.jobs-statements-items.{office.tenant}"
    )
    assert [json.loads(letter.data)["job_id"] for letter in letters] == [str(job_id)]
    assert (await office.send("job.retry", {"job_id": job_id})).error is None
    job = await office.finished(job_id)
    assert (job["status"], job["done"], job["error_code"]) == ("succeeded", 1, None)


@contextmanager
def full_store() -> Iterator[str]:
    """A stand-in for an S3 without room, which a real one cannot be brought to here: it refuses every write."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # the client expects a 100 before it sends a body

        def do_GET(self) -> None:
            self._answer(200, b"<LocationConstraint/>")

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(507, b"<Error><Code>InsufficientStorage</Code></Error>")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def other_worker(mesh: Mesh, **env: str) -> Iterator[None]:
    """The only worker, with other settings, while the block runs."""
    mesh["worker"].stop()
    other = mesh.add_process("worker", f"worker-{uuid.uuid4().hex[:8]}", env=env)
    try:
        other.start()
        yield
    finally:
        other.stop()
        mesh["worker"].start()


async def test_a_run_that_the_object_store_denies_says_so(office: Office) -> None:
    await open_account(office, "Zahra")
    with other_worker(office.mesh, OBJECT_STORE_SECRET_ACCESS_KEY="wrong"):
        job = await office.finished(await office.run(), 90)
    assert (job["status"], job["error_code"], job["done"]) == ("failed", "object_store_denied", 0)


async def test_a_run_into_a_full_object_store_says_so(office: Office) -> None:
    await open_account(office, "Zahra")
    with full_store() as url, other_worker(office.mesh, OBJECT_STORE_ENDPOINT_URL=url):
        job = await office.finished(await office.run(), 90)
    assert (job["status"], job["error_code"], job["done"]) == ("failed", "object_store_full", 0)


# --- ending early -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_stops_between_statements_and_can_go_on(office: Office) -> None:
    async with hospital(office.mesh, office.tenant) as books:
        await seed(books, 100)
    job_id = await office.run()
    await office.heard("statement.issued", 3)
    assert (await office.send("job.cancel", {"job_id": job_id, "reason": "wrong month"})).error is None
    await idle(office, "statements", "statements-items")
    job = await office.ask("job.get", job_id=job_id)
    made = {row["id"] for row in await office.statements(job_id)}
    assert (job["status"], job["done"]) == ("cancelled", len(made))
    assert 3 <= len(made) < job["total"] == 120
    assert (await office.send("job.retry", {"job_id": job_id})).error is None
    await office.heard("job.queued")
    job = await office.finished(job_id)
    rows = await office.statements(job_id)
    assert (job["status"], job["done"], len(rows)) == ("succeeded", 120, 120)
    assert made <= {row["id"] for row in rows}  # what was done was not done again


async def test_a_worker_that_is_stopped_gives_back_what_it_has_not_begun(office: Office) -> None:
    async with hospital(office.mesh, office.tenant) as books:
        await seed(books, 60)
    job_id = await office.run()
    await office.heard("statement.issued", 3)
    with other_worker(office.mesh):
        # Long before the ack wait of 15 s could have given the chunks out again.
        job = await office.finished(job_id)
    assert (job["status"], job["done"]) == ("succeeded", 72)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(mesh: Mesh) -> Callable[..., Any]:
    """Runs `billing …` as the operator, off the event loop."""
    env = mesh.env("operator")

    async def command(*arguments: str) -> Any:
        return await asyncio.to_thread(billing, *arguments, env=env)

    return command


async def test_statements_from_the_command_line(office: Office, run: Callable[..., Any]) -> None:
    tenant, account_id = office.tenant, await open_account(office, "Zahra")
    ran = await run("statements", "run", tenant, "2026-03", "--account", str(account_id), "--wait", "--json")
    assert ran.code == 0, ran.err
    assert (ran.data["status"], ran.data["done"]) == ("succeeded", 1)
    shown = await run("statements", "show", tenant, "--job", ran.data["job_id"], "--json")
    (item,) = shown.data["items"]
    assert (item["account_id"], item["closing_minor"]) == (str(account_id), 1_000)
    one = await run("statements", "show", tenant, item["statement_id"])
    assert "1,000 AED" in one.out
    assert "http" in one.out
    listed = await run("jobs", "list", tenant, "--json")
    assert [job["job_id"] for job in listed.data["items"]] == [ran.data["job_id"]]
    table = await run("jobs", "show", tenant, ran.data["job_id"])
    assert "succeeded" in table.out


async def test_the_command_line_says_what_is_refused(office: Office, run: Callable[..., Any]) -> None:
    failed = await run("statements", "run", office.tenant, "2026-03", "--account", str(uuid4()), "--wait")
    assert failed.code == 1
    assert "account_not_found" in failed.err
    (job,) = (await run("jobs", "list", office.tenant, "--status", "failed", "--json")).data["items"]
    for verb, code in (("cancel", "job_finished"), ("show", None)):
        result = await run("jobs", verb, office.tenant, job["job_id"])
        assert result.code == (1 if code else 0)
        assert (code or "account_not_found") in result.err + result.out
    retried = await run("jobs", "retry", office.tenant, job["job_id"], "--wait")
    assert (retried.code, "account_not_found" in retried.err) == (1, True)
    assert (await run("jobs", "show", office.tenant, str(uuid4()))).code == 1
    unknown = await run("statements", "run", office.tenant, "0000-01")
    assert (unknown.code, "period_not_found" in unknown.err) == (1, True)


async def test_a_worker_without_a_bucket_says_which_jobs_it_does_not_run(mesh: Mesh) -> None:
    def without() -> str:
        with other_worker(mesh, OBJECT_STORE_BUCKET=""):
            other = list(mesh)[-1]
            return other.log_path.read_text()

    (line,) = [line for line in (await asyncio.to_thread(without)).splitlines() if "jobs_not_run" in line]
    assert json.loads(line)["queues"] == ["statements", "statements-items", "gl-export", "gateway"]
