"""GL exports end to end: command, job, files and manifest in a real S3, and everything that must stop one."""

import csv
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from pydantic import SecretStr

from adapters.objects import ObjectStore
from adapters.settings import ObjectStoreSettings
from tests.fixtures.servers import Database
from tests.integration.gl_support import Books, object_settings, working
from tools.stack import NatsServer, SeaweedFS, Stack

FORMATS = ["csv", "jsonl", "parquet"]


@pytest.fixture(scope="module")
def s3(stack: Stack) -> Iterator[SeaweedFS]:
    with SeaweedFS(stack.directory / "objects-of-test-gl-export") as started:
        yield started


@pytest.fixture
async def store(s3: SeaweedFS) -> AsyncIterator[ObjectStore]:
    async with ObjectStore.open(object_settings(s3)) as opened:
        yield opened


@pytest.fixture
async def books(
    nats_server: NatsServer, database: Database, tmp_path: Path, s3: SeaweedFS, tenant: str
) -> AsyncIterator[Books]:
    async with working(nats_server, database, tmp_path, object_settings(s3)) as rig:
        rig.add_tenant(tenant)
        books = Books(rig, tenant)
        for amount, day, currency in (
            (1_000, "2026-09-30", "AED"),
            (2_050, "2026-10-01", "AED"),
            (7, "2026-10-31", "JOD"),
            (3_000, "2026-11-01", "AED"),
            (4_000, "2026-10-15", "AED"),
        ):
            await books.adjust(amount, day, currency)
        yield books


async def listed(settings: ObjectStoreSettings, prefix: str) -> list[str]:
    async with ObjectStore.open(settings) as store:
        found = await store._client.list_objects_v2(Bucket=settings.object_store_bucket, Prefix=prefix)
    return sorted(each["Key"] for each in found.get("Contents", ()))


async def test_a_period_is_exported_in_every_format_with_a_manifest_that_adds_up(
    books: Books, store: ObjectStore, s3: SeaweedFS
) -> None:
    await books.map()
    job_id = await books.export(period="2026-10", close_period=True, formats=FORMATS)
    job = await books.ended(job_id)
    assert (job["status"], job["error_code"], job["done"], job["total"]) == ("succeeded", None, 1, 1)
    export = await books.exported(job_id)
    assert (export["status"], export["transfers"]) == ("written", 3)
    assert (export["first_sequence"], export["last_sequence"]) == (2, 5)  # the one of November lies between them
    text = await store.get(export["manifest_key"])
    assert hashlib.sha256(text).hexdigest() == export["manifest_sha256"]
    manifest = orjson.loads(text)
    assert manifest["totals"] == [
        {"currency": "AED", "debits_minor": 6_050, "credits_minor": 6_050},
        {"currency": "JOD", "debits_minor": 7, "credits_minor": 7},
    ]
    assert manifest["files"] == export["files"] and [file["format"] for file in manifest["files"]] == FORMATS
    hashes = await books.rows_of(
        "SELECT encode(hash, 'hex') FROM ledger_transfer WHERE tenant_id = $1 ORDER BY sequence"
    )
    assert (manifest["first_hash"], manifest["last_hash"]) == (hashes[1], hashes[4])
    files = {}
    for file in manifest["files"]:
        assert file["key"].startswith(f"local-1/{books.tenant}/gl/2026-10/detail-")
        files[file["format"]] = await store.get(file["key"])
        assert hashlib.sha256(files[file["format"]]).hexdigest() == file["sha256"]
        assert (len(files[file["format"]]), file["rows"]) == (file["bytes"], 6)
    lines = list(csv.DictReader(io.StringIO(files["csv"].decode(), newline="")))
    assert [(one["sequence"], one["side"], one["gl_code"], one["debit"], one["credit"]) for one in lines[:4]] == [
        ("2", "debit", "GL-1000", "20.50", "0.00"),
        ("2", "credit", "GL-4900", "0.00", "20.50"),
        ("3", "debit", "GL-1000", "0.007", "0.000"),
        ("3", "credit", "GL-4900", "0.000", "0.007"),
    ]
    objects = [orjson.loads(line) for line in files["jsonl"].splitlines()]
    assert [{key: "" if value is None else str(value) for key, value in one.items()} for one in objects] == lines
    table = pq.read_table(io.BytesIO(files["parquet"])).to_pylist()
    assert [one["sequence"] for one in table] == [one["sequence"] for one in objects]
    assert sum(one["debit"] for one in table if one["currency"] == "AED") == Decimal("60.50")
    assert {one["gl_name"] for one in table} == {"نقد 1000", "نقد 4900"}


async def test_a_summary_has_one_line_per_account_and_currency(books: Books, store: ObjectStore) -> None:
    await books.map()
    job_id = await books.export(first_sequence=1, last_sequence=4, form="summary")
    assert (await books.ended(job_id))["status"] == "succeeded"
    export = await books.exported(job_id)
    assert "/gl/1-4/summary-" in export["files"][0]["key"]
    text = (await store.get(export["files"][0]["key"])).decode()
    lines = [tuple(line.values()) for line in csv.DictReader(io.StringIO(text, newline=""))]
    assert lines == [
        ("1000", "GL-1000", "نقد 1000", "AED", "3", "60.50", "0.00"),
        ("1000", "GL-1000", "نقد 1000", "JOD", "1", "0.007", "0.000"),
        ("4900", "GL-4900", "نقد 4900", "AED", "3", "0.00", "60.50"),
        ("4900", "GL-4900", "نقد 4900", "JOD", "1", "0.000", "0.007"),
    ]


async def test_an_export_repeated_after_the_ledger_grew_is_the_same_byte_for_byte(
    books: Books, store: ObjectStore, s3: SeaweedFS
) -> None:
    await books.map()
    first = await books.export(period="2026-10", close_period=True, formats=FORMATS)
    await books.ended(first)
    keys = await listed(object_settings(s3), f"local-1/{books.tenant}/")
    before = {key: await store.get(key) for key in keys}
    assert len(before) == 4
    await books.adjust(9, "2026-11-02")
    assert await books.refused("jobs", "gl.export", {"period": "2026-10", "formats": FORMATS}) == "already_exported"
    second = await books.export(period="2026-10", formats=FORMATS[::-1], again=True)
    assert (await books.ended(second))["status"] == "succeeded"
    ours, theirs = await books.exported(first), await books.exported(second)
    for name in ("manifest_key", "manifest_sha256", "files", "totals", "first_hash", "last_hash"):
        assert ours[name] == theirs[name]
    assert {key: await store.get(key) for key in keys} == before
    assert await listed(object_settings(s3), f"local-1/{books.tenant}/") == keys


async def test_other_codes_or_a_late_entry_never_change_what_stands_under_a_key(
    books: Books, store: ObjectStore, s3: SeaweedFS
) -> None:
    await books.map()
    await books.ended(await books.export(period="2026-10", close_period=True))
    keys = await listed(object_settings(s3), f"local-1/{books.tenant}/")
    before = {key: await store.get(key) for key in keys}
    await books.do("jobs", "gl.map", {"mappings": [{"ledger_code": "1000", "gl_code": "NEW", "gl_name": "x"}]})
    await books.ended(await books.export(period="2026-10", again=True))
    await books.do("accounts", "period.reopen", {"period": "2026-10", "reason": "late"})
    await books.adjust(1, "2026-10-20")
    await books.ended(await books.export(period="2026-10", again=True, close_period=True))
    assert {key: await store.get(key) for key in keys} == before
    assert len(await listed(object_settings(s3), f"local-1/{books.tenant}/")) == 6


async def test_an_empty_period_is_an_export_of_nothing(books: Books, store: ObjectStore) -> None:
    job_id = await books.export(period="2026-08", close_period=True, formats=FORMATS)
    assert (await books.ended(job_id))["status"] == "succeeded"
    export = await books.exported(job_id)
    assert (export["transfers"], export["first_sequence"], export["totals"]) == (0, 0, [])
    assert [file["rows"] for file in export["files"]] == [0, 0, 0]
    files = {file["format"]: await store.get(file["key"]) for file in export["files"]}
    assert files["csv"].startswith(b"sequence,side,") and files["csv"].count(b"\n") == 1 and files["jsonl"] == b""
    assert pq.read_table(io.BytesIO(files["parquet"])).num_rows == 0


async def test_a_period_that_is_unknown_or_open_is_refused_before_there_is_a_job(books: Books) -> None:
    assert await books.refused("jobs", "gl.export", {"period": "0000-01"}) == "period_not_found"
    assert await books.refused("jobs", "gl.export", {"period": "2026-10"}) == "period_not_closed"
    assert not await books.rows_of("SELECT id::text FROM job WHERE tenant_id = $1")


# --- what stops an export -----------------------------------------------------------------------------------------------


async def test_codes_that_are_missing_are_all_named_and_nothing_is_written(books: Books, s3: SeaweedFS) -> None:
    await books.map("1010")
    job = await books.ended(await books.export(period="2026-10", close_period=True))
    assert (job["status"], job["error_code"]) == ("failed", "gl_mapping_missing")
    assert "1000, 4900" in job["error_detail"] and "1010" not in job["error_detail"]
    assert await listed(object_settings(s3), f"local-1/{books.tenant}/") == []
    await books.map()
    again = await books.export(period="2026-10")  # the failed one stands in nobody's way
    assert (await books.ended(again))["status"] == "succeeded"


DAMAGE = {
    "amount": (
        "UPDATE ledger_transfer SET amount_minor = 1 WHERE tenant_id = $1 AND sequence = 4",
        "ledger entry 4: ",
    ),
    "date": (
        "UPDATE ledger_transfer SET effective_on = '2026-11-30' WHERE tenant_id = $1 AND sequence = 4",
        "ledger entry 4: ",
    ),
    "hash": ("UPDATE ledger_transfer SET hash = sha256('x') WHERE tenant_id = $1 AND sequence = 4", "ledger entry 4: "),
    "gone": (
        "WITH gone AS (DELETE FROM ledger_transfer WHERE tenant_id = $1 AND sequence = 4 RETURNING *),"
        " d AS (UPDATE ledger_account a SET debits_minor = debits_minor - amount_minor FROM gone"
        " WHERE a.tenant_id = $1 AND a.id = gone.debit_account_id)"
        " UPDATE ledger_account a SET credits_minor = credits_minor - amount_minor FROM gone"
        " WHERE a.tenant_id = $1 AND a.id = gone.credit_account_id",
        "ledger entry 4: it is missing",
    ),
    "balance": (
        "UPDATE ledger_account SET debits_minor = debits_minor + 1 WHERE tenant_id = $1 AND code = '1000'"
        " AND currency = 'AED'",
        "running_balance",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_damaged_ledger_stops_the_export_by_name_even_outside_its_range(
    kind: str, books: Books, s3: SeaweedFS
) -> None:
    """Entry 4 is of November; October is what is exported."""
    await books.map()
    statement, named = DAMAGE[kind]
    await books.as_superuser(statement, books.tenant)
    job = await books.ended(await books.export(period="2026-10", close_period=True, formats=FORMATS))
    assert (job["status"], job["error_code"]) == ("failed", "ledger_damaged")
    assert named in job["error_detail"]
    assert await listed(object_settings(s3), f"local-1/{books.tenant}/") == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"object_store_secret_access_key": SecretStr("wrong")}, "object_store_denied"),
        ({"object_store_endpoint_url": "http://127.0.0.1:9"}, "object_store_unavailable"),
    ],
)
async def test_a_store_that_denies_or_is_down_fails_the_job_and_the_next_request_succeeds(
    changes: dict[str, Any],
    code: str,
    nats_server: NatsServer,
    database: Database,
    tmp_path: Path,
    s3: SeaweedFS,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from adapters.objects import store as store_module

    async def unchecked(*_: object) -> None:
        """The worker started while the store was well."""

    async def failed_job() -> UUID:
        with monkeypatch.context() as patched:
            patched.setattr(store_module, "_check_region", unchecked)
            async with working(nats_server, database, tmp_path, object_settings(s3, **changes)) as rig:
                rig.add_tenant(tenant)
                books = Books(rig, tenant)
                await books.adjust(5, "2026-10-01")
                await books.map()
                job = await books.ended(await books.export(period="2026-10", close_period=True))
                assert (job["status"], job["error_code"]) == ("failed", code)
                return UUID(str(job["id"]))

    failed = await failed_job()
    assert await listed(object_settings(s3), f"local-1/{tenant}/") == []
    async with working(nats_server, database, tmp_path, object_settings(s3)) as rig:
        rig.add_tenant(tenant)
        books = Books(rig, tenant)
        assert (await books.exported(failed))["status"] == "abandoned"
        assert (await books.ended(await books.export(period="2026-10")))["status"] == "succeeded"


async def test_what_a_killed_worker_had_uploaded_is_dropped_by_the_next_attempt(
    books: Books, store: ObjectStore, s3: SeaweedFS
) -> None:
    await books.map()
    await books.ended(await books.export(period="2026-10", close_period=True))
    (csv_key, _) = await listed(object_settings(s3), f"local-1/{books.tenant}/")
    target = {"Bucket": s3.bucket, "Key": csv_key}
    begun = await store._client.create_multipart_upload(**target)
    await store._client.upload_part(**target, UploadId=begun["UploadId"], PartNumber=1, Body=b"half")
    before = await store.get(csv_key)
    await books.ended(await books.export(period="2026-10", again=True))
    left = await store._client.list_multipart_uploads(Bucket=s3.bucket, Prefix=csv_key)
    assert not left.get("Uploads") and await store.get(csv_key) == before
