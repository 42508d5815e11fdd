"""`billing gl` as a process, against a mesh with handlers, a worker and an object store."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.statements_support import object_server, statement_mesh
from tests.integration.test_cli import Result, billing
from tools.stack import Stack
from tools.stack.mesh import Mesh

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    with object_server(stack, "objects-of-test-cli-gl") as objects, statement_mesh(stack, objects) as started:
        yield started


@pytest.fixture
def run(mesh: Mesh, tenant: str) -> Run:
    """`billing`, as the operator; the tenant is known and has one entry in October."""
    mesh.add_tenant(tenant)
    env = mesh.env("operator")

    def billing_gl(*arguments: str) -> Result:
        return billing(*arguments, env=env)

    body: dict[str, Any] = {
        "debit_code": "1000",
        "credit_code": "4900",
        "amount": {"amount_minor": 1250, "currency": "AED"},
        "reason": "count",
        "effective_on": "2026-10-05",
    }
    posted = billing_gl("publish", f"billing.v1.cmd.{tenant}.ledger.adjust", json.dumps(body), "--wait")
    assert posted.code == 0, posted.err
    return billing_gl


def test_map_export_and_show(run: Run, tenant: str) -> None:
    mapped = run("gl", "map", tenant, "1000=10-100:Cash in hand", "4900=49/0", "--json")
    assert (mapped.code, mapped.data) == (0, {"mapped": 2}), mapped.err
    options = ("--period", "2026-10", "--close-period", "--format", "csv", "--format", "parquet")
    written = run("gl", "export", tenant, *options, "--json")
    assert written.code == 0, written.err
    assert written.data["totals"] == [{"currency": "AED", "debits_minor": 1250, "credits_minor": 1250}]
    assert [file["format"] for file in written.data["files"]] == ["csv", "parquet"]
    shown = run("gl", "show", tenant, written.data["job_id"], "--json")
    assert shown.data == written.data
    assert [each["job_id"] for each in run("gl", "show", tenant, "--json").data["items"]] == [written.data["job_id"]]
    assert written.data["manifest_key"] in run("gl", "show", tenant, written.data["job_id"]).err
    again = run("gl", "export", tenant, "--period", "2026-10")
    assert again.code == 1 and "already_exported" in again.err
    repeated = run("gl", "export", tenant, *options[:2], *options[3:], "--again", "--json")
    assert repeated.data["files"] == written.data["files"]


def test_what_cannot_be_exported_says_why(run: Run, tenant: str) -> None:
    refused = run("gl", "export", tenant, "--period", "2026-10")
    assert refused.code == 1 and "period_not_closed" in refused.err
    failed = run("gl", "export", tenant, "--from", "1", "--to", "1")
    assert failed.code == 1 and "gl_mapping_missing" in failed.err and "1000, 4900" in failed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "{tenant}"),
        ("export", "{tenant}", "--from", "1"),
        ("export", "{tenant}", "--from", "2", "--to", "1"),
        ("export", "{tenant}", "--period", "October"),
        ("export", "{tenant}", "--period", "2026-10", "--format", "xlsx"),
        ("map", "{tenant}"),
        ("map", "{tenant}", "1000"),
        ("show", "a.b"),
    ],
)
def test_wrong_arguments_are_told_apart_from_refusals(arguments: tuple[str, ...], mesh: Mesh, tenant: str) -> None:
    result = billing("gl", *(each.format(tenant=tenant) for each in arguments), env=mesh.env("operator"))
    assert result.code == 2 and "Traceback" not in result.err, result.err
