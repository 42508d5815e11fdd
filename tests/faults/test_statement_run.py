"""A statement run while its worker is killed -9 twice: every statement exactly once, and together they are the ledger.

STATEMENT_RUN_ACCOUNTS sets the size: 300 by default, so that it ends in about a minute on two cores; 2,000 is what is promised.
"""

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from adapters.nats.topology import EVENTS_STREAM
from adapters.objects.store import ObjectStore
from schemas.subjects import event_subject
from tests.integration.pipeline_support import stream_messages
from tests.integration.statements_support import (
    LOCALES,
    Office,
    hospital,
    object_server,
    object_settings,
    seed,
    statement_mesh,
)
from tools.stack import SeaweedFS, Stack
from tools.stack.mesh import Mesh

ACCOUNTS = int(os.environ.get("STATEMENT_RUN_ACCOUNTS", "300"))
KILLS = 2
# Rendering, at ten a second when the tests share the cores, and twice the ack wait of what a killed worker held.
RUN_SECONDS = 60 + ACCOUNTS * 1.2 / 10
TENANT = "statement-faults"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(int(RUN_SECONDS) + 120)]

_LEDGER = """
SELECT account_id, coalesce(party_id, 'patient') AS party_id, sum(debits_minor - credits_minor)::bigint AS net_minor
FROM ledger_account WHERE tenant_id = $1 AND code IN ('1100', '2100') GROUP BY 1, 2
"""


@pytest.fixture(scope="module")
def objects(stack: Stack) -> Iterator[SeaweedFS]:
    with object_server(stack, "objects-of-statement-faults") as server:
        yield server


@pytest.fixture
def mesh(stack: Stack, objects: SeaweedFS) -> Iterator[Mesh]:
    with statement_mesh(stack, objects) as started:
        started.add_tenant(TENANT)
        started.add_process("worker", "worker-2").start()
        yield started


async def test_a_run_survives_two_kills(mesh: Mesh, objects: SeaweedFS) -> None:
    async with hospital(mesh, TENANT) as books:
        accounts = await seed(books, ACCOUNTS)
    async with Office.of(mesh, TENANT) as office:
        job_id = await office.run()
        for name in ("worker", "worker-2")[:KILLS]:
            await office.heard("statement.issued", ACCOUNTS // 8, RUN_SECONDS)
            await asyncio.to_thread(mesh[name].kill)
            await asyncio.to_thread(mesh[name].start)
        job = await office.finished(job_id, RUN_SECONDS)
        rows = await office.statements(job_id)
        assert (job["status"], job["failed"], job["error_code"]) == ("succeeded", 0, None)
        assert job["done"] == job["total"] == len(rows)
        await _once_each(office, rows)
        await _as_the_ledger(office, rows, accounts)
        assert {row["locale"] for row in rows} == set(LOCALES)
        await _stored(objects, rows)


async def _once_each(office: Office, rows: list[Any]) -> None:
    assert max(Counter((row["account_id"], row["party_id"]) for row in rows).values()) == 1
    messages = await stream_messages(office.connection, EVENTS_STREAM, event_subject(TENANT, "statement.issued"))
    told = Counter(json.loads(message.data)["statement_id"] for message in messages)
    assert told == Counter(str(row["id"]) for row in rows)


async def _as_the_ledger(office: Office, rows: list[Any], accounts: list[UUID]) -> None:
    """What the statements say is owed, less what they say is in favour, is the balance of every sub-ledger."""
    ledger = {(row["account_id"], row["party_id"]): row["net_minor"] for row in await office.rows(_LEDGER, TENANT)}
    said = {(row["account_id"], row["party_id"]): row["closing_minor"] for row in rows}
    assert {account_id for account_id, _ in said} == set(accounts)
    assert said == ledger


async def _stored(objects: SeaweedFS, rows: list[Any]) -> None:
    """Every file is there with the digest that was recorded, and says what the row says."""
    async with ObjectStore.open(object_settings(objects)) as store:
        for row in rows:
            pdf, data = await asyncio.gather(store.get(row["pdf_key"]), store.get(row["json_key"]))
            assert (pdf[:5], hashlib.sha256(pdf).hexdigest()) == (b"%PDF-", row["pdf_sha256"])
            assert hashlib.sha256(data).hexdigest() == row["json_sha256"]
            said = json.loads(data)["statement"]
            assert (said["account_id"], said["closing_minor"]) == (str(row["account_id"]), row["closing_minor"])
