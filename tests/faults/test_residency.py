"""A tenant of another region: refused on every way in and by every job, also one that was asked for while it was allowed."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from adapters.objects import ObjectStore
from gateway_shim.problems import MEDIA_TYPE
from tests.fixtures.sandbox import hospital
from tests.integration.statements_support import object_server, object_settings, statement_mesh
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.seaweedfs import SeaweedFS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(110)]
ELSEWHERE = "me-central-1"
WAIT_SECONDS = 40.0

# What a tenant may ask for over HTTP: a command, queries, and both kinds of job.
REQUESTS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "command": ("POST", "/v1/accounts", {"patient": "Patient/1", "currency": "AFN"}),
    "payment": ("POST", "/v1/payments", None),
    "query": ("GET", "/v1/accounts", None),
    "jobs": ("GET", "/v1/jobs", None),
    "statement run": ("POST", "/v1/statement-runs", {"period": "2026-10"}),
    "gl export": ("POST", "/v1/gl/exports", {"first_sequence": 1, "last_sequence": 1}),
}


@pytest.fixture(scope="module")
def objects(stack: Stack) -> Iterator[SeaweedFS]:
    with object_server(stack, "objects-of-residency") as server:
        yield server


@pytest.fixture(scope="module")
def mesh(stack: Stack, objects: SeaweedFS) -> Iterator[Mesh]:
    """Without a worker: jobs wait until a test starts one."""
    with statement_mesh(stack, objects, roles=("handlers", "api")) as started:
        started.add_process("worker")
        yield started


@pytest.fixture
def foreign(mesh: Mesh) -> str:
    tenant = f"r-{uuid4().hex[:10]}"
    mesh.add_tenant(hospital(tenant, region=ELSEWHERE))
    return tenant


def _opt_in(mesh: Mesh, tenant: str, allowed: bool) -> None:
    mesh.add_tenant(hospital(tenant, region=ELSEWHERE, cross_region_opt_in=allowed))


async def _ask(mesh: Mesh, tenant: str, request: str, body: dict[str, Any] | None = None) -> httpx.Response:
    method, path, example = REQUESTS[request]
    headers = {"Authorization": f"Bearer {mesh.token(tenant)}", "Idempotency-Key": str(uuid4())}
    async with httpx.AsyncClient(base_url=mesh.http_url, timeout=WAIT_SECONDS) as http:
        return await http.request(method, path, json=body or example, headers=headers)


@pytest.mark.parametrize("request_name", [name for name in REQUESTS if name != "payment"])
async def test_over_http(mesh: Mesh, foreign: str, request_name: str) -> None:
    refused = await _ask(mesh, foreign, request_name)
    problem = refused.json()
    assert (refused.status_code, refused.headers["content-type"]) == (403, MEDIA_TYPE)
    assert (problem["code"], problem["retryable"]) == ("residency_violation", False)
    _opt_in(mesh, foreign, True)
    allowed = await _ask(mesh, foreign, request_name)
    assert allowed.status_code != 403, allowed.text


async def test_a_job_whose_tenant_is_no_longer_allowed_writes_nothing(
    mesh: Mesh, objects: SeaweedFS, foreign: str
) -> None:
    _opt_in(mesh, foreign, True)
    account_id = (await _ask(mesh, foreign, "command")).json()["result"]["account_id"]
    paid = {"account_id": account_id, "amount": {"amount_minor": 100, "currency": "AFN"}, "method": "cash"}
    assert (await _ask(mesh, foreign, "payment", paid)).status_code == 201
    assert (await _ask(mesh, foreign, "gl export")).status_code == 201
    _opt_in(mesh, foreign, False)
    assert (await _given_up(mesh, foreign))["code"] == "residency_violation"
    settings = object_settings(objects)
    async with ObjectStore.open(settings) as store:
        listed = await store._client.list_objects_v2(Bucket=settings.object_store_bucket)
    assert [each["Key"] for each in listed.get("Contents", []) if foreign in each["Key"]] == []


async def _given_up(mesh: Mesh, tenant: str) -> dict[str, Any]:
    """What a worker said when it gave the tenant's job up. The job itself cannot be told: that, too, is a command."""
    await asyncio.to_thread(mesh["worker"].start)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                for line in mesh["worker"].log_path.read_text().splitlines():
                    if '"job_given_up"' in line and tenant in line:
                        found: dict[str, Any] = json.loads(line)
                        return found
                await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(mesh["worker"].stop)
