"""`billing import fhir` as a process against a real mesh: the Synthea bundles' own totals in the ledger, and no second effect.

Totals are computed here from the raw JSON, with none of the importer's code.
"""

import json
import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.fixtures.servers import TEMPLATE
from tests.integration.test_cli import Result, billing
from tools.stack import Stack, tenant_file
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT, binary

SYNTHEA = PROJECT_ROOT.parent / "shared" / "data" / "synthea"
DEMO = PROJECT_ROOT / "tools" / "demo" / "bundles"
PATIENTS, CLAIMS = 38, 705
# All of them with FHIR_IMPORT_ALL=1: half a minute on an idle machine, two on a busy one. Otherwise every seventh patient.
ALL = os.environ.get("FHIR_IMPORT_ALL") == "1"
_IMPORT_TIMEOUT_SECONDS = 240
CVX = "http://hl7.org/fhir/sid/cvx"  # vaccines; Synthea's claims are coded in it and in SNOMED CT

needs_synthea = pytest.mark.skipif(not SYNTHEA.is_dir(), reason="the Synthea bundles are not in ../shared/data/synthea")


class Totals(NamedTuple):
    billed_minor: int
    paid_minor: int


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    with pytest.MonkeyPatch.context() as patch, Mesh.isolated(stack, template=TEMPLATE, roles=("handlers",)) as mesh:
        patch.setitem(tenant_file.CODE_SYSTEMS, CVX, "*")
        mesh.tenants.add()
        yield mesh


@pytest.fixture
def tenant(mesh: Mesh) -> str:
    return mesh.add_tenant(f"t-{uuid.uuid4().hex[:12]}").tenant_id


def imported(mesh: Mesh, tenant: str, *arguments: str) -> Result:
    result = subprocess.run(
        [binary("billing"), "import", "fhir", *arguments, "--tenant", tenant, "--json"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), **mesh.env("operator")},
        capture_output=True,
        text=True,
        check=False,
        timeout=_IMPORT_TIMEOUT_SECONDS,
    )
    return Result(result.returncode, result.stdout, result.stderr)


def own_totals(path: Path) -> tuple[str, Totals]:
    """A bundle's patient and what its claims and payments come to, by adding up what it says."""
    entries = json.loads(path.read_text(), parse_float=Decimal)["entry"]
    by_type: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_type.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    (patient,) = by_type["Patient"]
    billed = sum(_cents(claim["total"]) for claim in by_type["Claim"])
    paid = sum(_cents(benefit["payment"]["amount"]) for benefit in by_type["ExplanationOfBenefit"])
    return f"Patient/{patient['id']}", Totals(billed, paid)


def _claims(path: Path) -> int:
    return sum(entry["resource"]["resourceType"] == "Claim" for entry in json.loads(path.read_text())["entry"])


def _cents(money: dict[str, Any]) -> int:
    assert money["currency"] == "USD"
    return int((Decimal(money["value"]) * 100).quantize(Decimal(1), rounding=ROUND_HALF_UP))


async def in_postgres(mesh: Mesh, tenant: str, sql: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(mesh.dsn("billing_read"))
    try:
        await connection.execute("SELECT set_config('billing.tenant', $1, false)", tenant)
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def ledger_totals(mesh: Mesh, tenant: str) -> dict[str, Totals]:
    """Per patient, from the ledger's own entries: receivable debited at issue, money that insurers remitted."""
    rows = await in_postgres(
        mesh,
        tenant,
        "SELECT a.patient, (SELECT coalesce(sum(i.total_minor), 0) FROM invoice i"
        "  WHERE i.account_id = a.id AND i.number IS NOT NULL)::bigint,"
        " (SELECT coalesce(sum(p.amount_minor), 0) FROM payment p WHERE p.account_id = a.id)::bigint FROM account a",
    )
    return {patient: Totals(billed, paid) for patient, billed, paid in rows}


def books_hold(mesh: Mesh, tenant: str) -> str:
    """The head of the hash chain, once every invariant of the ledger is recomputed and the trial balance is zero."""
    env = mesh.env("operator")
    asked = billing("query", f"billing.v1.qry.{tenant}.ledger.trial_balance", "--json", env=env)
    lines = json.loads(asked.out)["result"]["lines"]
    assert lines
    assert sum(line["debits_minor"] - line["credits_minor"] for line in lines) == 0
    verified = billing(
        "ledger", "verify", "--tenant", tenant, "--json", env=env | {"DATABASE_URL": mesh.dsn("billing_read")}
    )
    (row,) = json.loads(verified.out)["tenants"]
    assert [each for each in row["mismatches"] if not each["check"].startswith("event_")] == []
    return str(row["head_hash"])


@needs_synthea
@pytest.mark.timeout(600)
async def test_synthea_claims_come_to_the_bundles_own_totals_and_a_second_import_changes_nothing(
    mesh: Mesh, tenant: str
) -> None:
    files = sorted(SYNTHEA.glob("*.json"))
    assert len(files) == PATIENTS
    files = files if ALL else files[::7]
    paths = [str(SYNTHEA)] if ALL else [str(path) for path in files]
    expected = dict(own_totals(path) for path in files)
    assert len(expected) == len(files)
    claims = sum(_claims(path) for path in files)
    assert claims == CLAIMS or not ALL

    first = imported(mesh, tenant, *paths, "--strict")
    assert first.code == 0, first.err or first.data["refused"][:3]
    counts = first.data["resources"]
    assert counts["Claim"]["seen"] == claims
    assert all(row["applied"] == row["planned"] > 0 and row["unmapped"] == 0 for row in counts.values())
    assert await ledger_totals(mesh, tenant) == expected
    reported = {row["patient"]: Totals(*row["bundle"].values()) for row in first.data["patients"]}
    assert reported == expected
    assert all(row["agrees"] for row in first.data["patients"])
    head = books_hold(mesh, tenant)
    ((invoices,),) = await in_postgres(mesh, tenant, "SELECT count(*) FROM invoice WHERE number IS NOT NULL")
    assert invoices == claims

    second = imported(mesh, tenant, *paths, "--strict")
    assert second.code == 0, second.err
    assert all(row["duplicate"] == row["planned"] and row["applied"] == 0 for row in second.data["resources"].values())
    assert books_hold(mesh, tenant) == head
    assert await ledger_totals(mesh, tenant) == expected


@needs_synthea
@pytest.mark.timeout(600)
def test_the_history_of_an_import_rebuilds_the_same_ledger(mesh: Mesh, tenant: str) -> None:
    """`billing replay rebuild` applies the stream to an empty database: every table and the chain's head are the same."""
    files = sorted(SYNTHEA.glob("*.json"))
    paths = [str(SYNTHEA)] if ALL else [str(path) for path in files[::13]]
    assert imported(mesh, tenant, *paths, "--strict").code == 0
    name = f"rebuild_{uuid.uuid4().hex[:8]}"
    mesh.stack.postgres.create_database(name, TEMPLATE)
    try:
        url = mesh.stack.postgres.dsn("billing_app", name)
        env = mesh.env("operator") | {"REBUILD_DATABASE_URL": url}
        rebuilt = billing("replay", "rebuild", "--reason", "a drill", "--tenant", tenant, "--json", env=env)
    finally:
        mesh.stack.postgres.drop_database(name)
    assert rebuilt.code == 0, rebuilt.err
    (found,) = rebuilt.data["tenants"]
    assert found["live_head"] == found["rebuilt_head"] == books_hold(mesh, tenant)
    assert all(table["same"] for table in found["tables"])


async def test_the_demo_s_bundle_fits_and_every_kind_of_resource_arrives(mesh: Mesh, tenant: str) -> None:
    result = imported(mesh, tenant, str(DEMO), "--strict")
    assert result.code == 0, result.err or result.data
    assert result.data["refused"] == result.data["remarks"] == []
    assert await ledger_totals(mesh, tenant) == {
        "Patient/demo-7001": Totals(23050, 16440),
        "Patient/demo-7002": Totals(37000, 15000),
    }
    receivables = {row["patient"]: row["ledger"]["receivable_minor"] for row in result.data["patients"]}
    assert receivables == {"Patient/demo-7001": 23050 - 16440, "Patient/demo-7002": 37000 - 15000}
    books_hold(mesh, tenant)


async def test_a_dry_run_sends_nothing(mesh: Mesh, tenant: str) -> None:
    result = billing("import", "fhir", str(DEMO), "--tenant", tenant, "--dry-run", "--json", env={})
    assert result.code == 0
    assert result.data["commands"] == 12
    assert await in_postgres(mesh, tenant, "SELECT 1 FROM inbox") == []


async def test_a_refused_charge_holds_its_claim_back_and_importing_again_after_the_fix_completes_it(
    mesh: Mesh, tenant: str, tmp_path: Path
) -> None:
    content = json.loads((DEMO / "clinic.json").read_text())
    system = f"urn:test:{tenant}"
    for entry in content["entry"]:
        if entry["resource"]["resourceType"] == "Claim":
            entry["resource"]["item"][1]["productOrService"]["coding"][0]["system"] = system
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(content))

    refused = imported(mesh, tenant, str(path))
    assert refused.code == 1
    became = {(each["resource"], each["command"]): each["code"] or each["status"] for each in refused.data["refused"]}
    assert became == {
        ("Claim/claim-1", "charge.capture"): "charge_code_unknown",
        ("Claim/claim-1", "invoice.create"): "not_sent",
        ("Claim/claim-1", "invoice.issue"): "not_sent",
        ("ExplanationOfBenefit/benefit-1", "payment.record"): "not_sent",
    }
    (row,) = (row for row in refused.data["patients"] if row["patient"] == "Patient/demo-7001")
    assert row["agrees"] is False

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tenant_file.CODE_SYSTEMS, system, "*")
        mesh.tenants.add()
        completed = imported(mesh, tenant, str(path))
    assert completed.code == 0, completed.data["refused"]
    assert all(row["agrees"] for row in completed.data["patients"])
    again = imported(mesh, tenant, str(path))
    assert Counter(row["applied"] for row in again.data["resources"].values()) == {0: len(again.data["resources"])}
    assert again.code == 0


async def test_more_bundles_of_a_patient_add_to_the_account_without_touching_its_shares(
    mesh: Mesh, tenant: str, tmp_path: Path
) -> None:
    assert imported(mesh, tenant, str(DEMO)).code == 0
    text = (DEMO / "clinic.json").read_text()
    for old, new in (("claim-1", "claim-2"), ("benefit-1", "benefit-2"), ("gulf-care", "other-care")):
        text = text.replace(old, new)
    (tmp_path / "more.json").write_text(text)
    result = imported(mesh, tenant, str(tmp_path / "more.json"))
    assert result.code == 0, result.data["refused"]
    ((parties,),) = await in_postgres(
        mesh, tenant, "SELECT parties::text FROM account WHERE patient = 'Patient/demo-7001'"
    )
    shares = {party["party_id"]: party["share_basis_points"] for party in json.loads(parties)}
    assert shares == {"patient": 10_000, "org-gulf-care": 0, "org-other-care": 0}
    totals = await ledger_totals(mesh, tenant)
    assert totals["Patient/demo-7001"] == Totals(2 * 23050, 2 * 16440)


def test_bad_files_are_named_and_the_good_ones_imported(mesh: Mesh, tenant: str, tmp_path: Path) -> None:
    whole = (DEMO / "clinic.json").read_bytes()
    (tmp_path / "cut.json").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "other.json").write_text('{"hello": "world"}')
    (tmp_path / "whole.json").write_bytes(whole)
    report = tmp_path / "report" / "import.json"
    report.parent.mkdir()
    arguments = ("import", "fhir", str(tmp_path), "--tenant", tenant, "--report", str(report))
    result = billing(*arguments, env=mesh.env("operator"))
    assert result.code == 0, result.err
    assert "cut.json" in result.out
    assert "truncated" in result.out
    assert "other.json" in result.out
    written = json.loads(report.read_text())
    assert written["bundles"] == 1
    assert all(row["agrees"] for row in written["patients"])
    assert billing(*arguments, "--strict", env=mesh.env("operator")).code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere.json", "--tenant", "t"), 2, "nowhere.json"),
        ((str(DEMO), "--tenant", "a.b"), 2, "--tenant"),
        ((str(DEMO), "--tenant", "t", "--dry-run", "--report", "/no/such/folder/x"), 2, "--report"),
        ((str(PROJECT_ROOT / "tools" / "cli"), "--tenant", "t"), 2, "no *.json"),
        ((str(PROJECT_ROOT / "README.md"), "--tenant", "t", "--dry-run"), 1, "not JSON"),
        ((str(DEMO), "--tenant", "t"), 3, "NATS"),
    ],
)
def test_wrong_arguments_and_absent_servers(arguments: tuple[str, ...], code: int, words: str) -> None:
    env = {"NATS_URL": "nats://127.0.0.1:9", "NATS_CONNECT_TIMEOUT_SECONDS": "1"}
    result = billing("import", "fhir", *arguments, env=env)
    assert result.code == code, (result.out, result.err)
    assert words in result.out + result.err
    assert "Traceback" not in result.err


def test_another_tenant_s_user_cannot_import_for_it(mesh: Mesh, tenant: str) -> None:
    stranger = mesh.add_tenant(f"t-{uuid.uuid4().hex[:12]}").tenant_id
    env = mesh.env("operator") | {"NATS_URL": mesh.tenant_nats_url(stranger)}
    prefix = ("--inbox-prefix", f"_INBOX.{stranger}")
    own = billing("import", "fhir", str(DEMO), "--tenant", stranger, *prefix, "--json", env=env)
    assert own.code == 0, own.err or own.data["refused"]
    other = billing("import", "fhir", str(DEMO), "--tenant", tenant, *prefix, "--timeout", "2", "--json", env=env)
    assert other.code == 3
    assert {each["status"] for each in other.data["refused"]} == {"unanswered", "not_sent"}
