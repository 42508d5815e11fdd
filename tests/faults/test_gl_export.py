"""A GL export whose worker is killed -9 half-way, and one into a store that is full: nothing half-visible, nothing twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from adapters.nats.topology import EVENTS_STREAM
from adapters.objects.store import ObjectStore
from schemas.subjects import event_subject
from tests.integration.pipeline_support import stream_messages
from tests.integration.relay_support import until
from tests.integration.statements_support import Office, object_server, object_settings, statement_mesh
from tools.bench.gl_export import TENANT, seed
from tools.stack import SeaweedFS, Stack
from tools.stack.mesh import Mesh

# The first part of an upload is sent after some 12,000 entries (8 MiB of JSON Lines, two an entry): well before the end.
ENTRIES = 24_000
ROOM_MB = 2
WAIT_SECONDS = 120

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture
def objects(stack: Stack, request: pytest.FixtureRequest) -> Iterator[SeaweedFS]:
    with object_server(stack, f"objects-of-{request.node.name}") as server:
        yield server


@pytest.fixture
def mesh(stack: Stack, objects: SeaweedFS) -> Iterator[Mesh]:
    with statement_mesh(stack, objects) as started:
        started.add_tenant(TENANT)
        yield started


@asynccontextmanager
async def accountant(mesh: Mesh, entries: int) -> AsyncIterator[Office]:
    """With a ledger of `entries` and codes for its accounts."""
    await seed(mesh.dsn("postgres"), entries)
    async with Office.of(mesh, TENANT) as office:
        mappings = [{"ledger_code": code, "gl_code": code, "gl_name": code} for code in ("1000", "1100", "4000")]
        assert (await office.send("gl.map", {"mappings": mappings})).error is None
        yield office


async def export(office: Office, entries: int, **fields: Any) -> UUID:
    body = {"first_sequence": 1, "last_sequence": entries, "form": "detail", "formats": ["jsonl"]}
    outcome = await office.send("gl.export", body | fields)
    assert outcome.result is not None, outcome
    return UUID(outcome.result["job_id"])


async def half_written(store: ObjectStore, server: SeaweedFS) -> list[str]:
    """The keys of uploads that were begun and not ended."""
    found = await store._client.list_multipart_uploads(Bucket=server.bucket)
    return [upload["Key"] for upload in found.get("Uploads", ())]


async def visible(store: ObjectStore, server: SeaweedFS) -> list[str]:
    found = await store._client.list_objects_v2(Bucket=server.bucket)
    return sorted(each["Key"] for each in found.get("Contents", ()))


async def test_a_worker_killed_in_the_middle_of_an_export(mesh: Mesh, objects: SeaweedFS) -> None:
    async with accountant(mesh, ENTRIES) as office, ObjectStore.open(object_settings(objects)) as store:
        job_id = await export(office, ENTRIES)

        async def begun() -> bool:
            return bool(await half_written(store, objects))

        await until(begun, WAIT_SECONDS)
        await asyncio.to_thread(mesh["worker"].kill)
        assert await visible(store, objects) == []
        await asyncio.to_thread(mesh["worker"].start)
        job = await office.finished(job_id, WAIT_SECONDS)
        assert (job["status"], job["done"], job["error_code"]) == ("succeeded", 1, None)
        assert await half_written(store, objects) == []
        await _once(office, store, objects, job_id)


async def _once(office: Office, store: ObjectStore, objects: SeaweedFS, job_id: UUID) -> None:
    written = await office.ask("gl.get", job_id=job_id)
    assert (written["transfers"], written["first_sequence"], written["last_sequence"]) == (ENTRIES, 1, ENTRIES)
    (file,) = written["files"]
    assert await visible(store, objects) == sorted([file["key"], written["manifest_key"]])
    lines = (await store.get(file["key"])).splitlines()
    assert [json.loads(line)["sequence"] for line in (lines[0], lines[-1])] == [1, ENTRIES]
    assert len(lines) == 2 * ENTRIES  # a debit and a credit each
    told = await stream_messages(office.connection, EVENTS_STREAM, event_subject(TENANT, "gl.exported"))
    assert [json.loads(message.data)["job_id"] for message in told] == [str(job_id)]


async def test_an_export_into_a_store_that_is_full_fails_whole_and_succeeds_with_more_room(
    mesh: Mesh, objects: SeaweedFS
) -> None:
    """A full SeaweedFS says no more than 500, which is what any outage looks like."""
    await _restarted(objects, ROOM_MB)
    async with accountant(mesh, ENTRIES // 2) as office:
        job = await office.finished(await export(office, ENTRIES // 2), WAIT_SECONDS)
        assert (job["status"], job["error_code"]) == ("failed", "object_store_unavailable")
        await _restarted(objects, None)
        async with ObjectStore.open(object_settings(objects)) as store:
            assert await visible(store, objects) == []
            job = await office.finished(await export(office, ENTRIES // 2), WAIT_SECONDS)
            assert (job["status"], job["done"]) == ("succeeded", 1)
            assert len(await visible(store, objects)) == 2


async def _restarted(server: SeaweedFS, room_mb: int | None) -> None:
    await asyncio.to_thread(server.stop)
    server.room_mb = room_mb
    await asyncio.to_thread(server.start)
