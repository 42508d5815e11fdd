"""`billing replay rebuild`: a day of the demo's hospitals, applied to an empty database, gives the same rows and hashes."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.fixtures.servers import TEMPLATE
from tests.integration.replay_support import Result, act, billing, in_thread
from tools.demo import run as demo
from tools.demo.story import tenants
from tools.stack import Stack
from tools.stack.mesh import Mesh

TENANTS = ("dubai-marina", "herat-clinic", "kabul-central")


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    """After the demo's day: splits, tax, refunds, bounced cheques, refusals, malformed commands, repeats."""
    with Mesh.isolated(stack, template=TEMPLATE) as running:
        for profile in tenants(running.env("handlers")["REGION"]):
            running.add_tenant(profile)
        _, _, checks = in_thread(demo._day(running, TENANTS))
        answered = next(check for check in checks if check.promise.startswith("every command ends"))
        assert answered.holds, answered
        yield running


@pytest.fixture
def rebuild(mesh: Mesh) -> Iterator[Callable[..., Result]]:
    """`billing replay rebuild --json …` into a database of the test's own."""
    name = f"rebuild_{uuid.uuid4().hex[:8]}"
    mesh.stack.postgres.create_database(name, TEMPLATE)
    url = mesh.stack.postgres.dsn("billing_app", name)
    yield lambda *arguments: billing(
        mesh, "replay", "rebuild", "--reason", "a drill", "--json", *arguments, env={"REBUILD_DATABASE_URL": url}
    )
    mesh.stack.postgres.drop_database(name)


def test_the_demos_history_gives_the_same_ledgers(mesh: Mesh, rebuild: Callable[..., Result]) -> None:
    result = rebuild()
    assert result.code == 0, result.out + result.err
    found = {each["tenant"]: each for each in result.data["tenants"]}
    assert sorted(found) == list(TENANTS)
    for each in found.values():
        assert each["commands"] > 10
        assert each["live_head"] == each["rebuilt_head"] != "0" * 64
        assert each["live_mismatches"] == each["rebuilt_mismatches"] == 0
        assert {table["table"] for table in each["tables"]} >= {
            "ledger_transfer",
            "invoice",
            "payment",
            "inbox",
            "account",
        }
        assert all(table["same"] for table in each["tables"])
    again = rebuild()
    assert again.code == 2
    assert "not empty" in again.err


async def _superuser(mesh: Mesh, statement: str) -> str:
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    try:
        return str(await connection.execute(statement))
    finally:
        await connection.close()


def test_a_row_that_somebody_changed_is_found(mesh: Mesh, rebuild: Callable[..., Result]) -> None:
    forged = "'RelatedPerson/forged'"
    change = f"UPDATE account SET guarantor = {forged} WHERE tenant_id = 'herat-clinic' AND guarantor IS NULL"
    assert in_thread(_superuser(mesh, change)) != "UPDATE 0"
    try:
        result = rebuild("--tenant", "herat-clinic")
    finally:
        in_thread(_superuser(mesh, f"UPDATE account SET guarantor = NULL WHERE guarantor = {forged}"))
    assert result.code == 1
    (found,) = result.data["tenants"]
    assert [table["table"] for table in found["tables"] if not table["same"]] == ["account"]
    assert found["first_different_rows"]["account"]
    assert found["live_head"] == found["rebuilt_head"]


def test_history_that_is_gone_is_said_and_nothing_is_half_done(
    mesh: Mesh, rebuild: Callable[..., Result], tmp_path: Path
) -> None:
    """From an export that begins too late, as a stream does whose first messages have expired."""
    whole, late = tmp_path / "whole.zst", tmp_path / "late.zst"
    for path, arguments in ((whole, ()), (late, ("--from-sequence", "20"))):
        exported = billing(mesh, "replay", "export", str(path), "--reason", "drill", *arguments)
        assert exported.code == 0, exported.err
    refused = rebuild("--tenant", "kabul-central", "--archive", str(late))
    assert refused.code == 2
    assert "no longer holds it" in refused.err
    # Nothing was written: the same database still takes the whole history.
    result = rebuild("--tenant", "kabul-central", "--archive", str(whole))
    assert result.code == 0, result.out + result.err


def test_a_replay_of_the_demos_day_changes_nothing(mesh: Mesh, rebuild: Callable[..., Result]) -> None:
    run = act(mesh, "replay", "redeliver", "--max-refused-percent", "50")
    assert run.code == 0, run.err
    # What is refused was refused for its shape: it never reached the inbox.
    assert run.data["applied"] == 0
    assert set(run.data["codes"]) <= {"malformed_command", "idempotency_key_reused"}
    assert rebuild().code == 0
