"""`make faults` in short, and the proof that its checker sees what it is there to see."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import nats
import pytest

from tools.faults.checker import Broken, check
from tools.faults.history import History, Sent
from tools.faults.nemesis import FAULTS, plan
from tools.faults.run import TENANTS, nothing_left, scene_of, under_load, verified
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT

# `make faults` does every kind four times over; here as many as fit in a minute.
FAULT_COUNT = int(os.environ.get("BILLING_FAULTS", "8"))
SEED = int(os.environ.get("BILLING_FAULTS_SEED", "3"))
TENANT = TENANTS[0]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150 + 20 * FAULT_COUNT)]


async def test_nothing_is_lost_or_doubled_whatever_breaks_and_the_checker_would_see_it() -> None:
    history = History()
    async with scene_of(SEED) as scene:
        await under_load(scene, history, plan(SEED, FAULT_COUNT), seed=SEED)
        await nothing_left(scene.mesh)
        assert sum(history.faults.values()) == FAULT_COUNT
        assert len(history.sent) > 100 * FAULT_COUNT
        assert any(sent.malformed for sent in history.sent)
        await check(scene.mesh, history)
        await verified(scene.mesh)
        await _sees_damage(scene.mesh, history)
        await _sees_a_history_that_differs(scene.mesh, history)


def test_the_seed_chooses_and_no_kind_is_left_out() -> None:
    names = [fault.name for fault, _ in plan(SEED, len(FAULTS))]
    assert sorted(names) == sorted(fault.name for fault in FAULTS)
    assert plan(SEED, 40) == plan(SEED, 40) != plan(SEED + 1, 40)
    told = (PROJECT_ROOT / "docs" / "faults.md").read_text()
    assert [name for name in names if name not in told] == []


@asynccontextmanager
async def tampered(mesh: Mesh, statement: str, undo: str) -> AsyncIterator[None]:
    """As the superuser, past every trigger and policy."""
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statement)
        yield
        await connection.execute(undo)
    finally:
        await connection.close()


async def broken(mesh: Mesh, history: History) -> str:
    with pytest.raises(Broken) as caught:
        await check(mesh, history)
    return str(caught.value)


TAMPERING = {
    "outcomes": (
        "CREATE TABLE kept AS SELECT * FROM inbox ORDER BY command_id LIMIT 1;"
        " DELETE FROM inbox WHERE command_id IN (SELECT command_id FROM kept)",
        "INSERT INTO inbox SELECT * FROM kept; DROP TABLE kept",
    ),
    "payments by reference": (
        f"UPDATE payment SET reference = 'x' || reference WHERE tenant_id = '{TENANT}'",
        f"UPDATE payment SET reference = substr(reference, 2) WHERE tenant_id = '{TENANT}'",
    ),
    "what was posted": (
        f"UPDATE ledger_transfer SET amount_minor = amount_minor + 1 WHERE tenant_id = '{TENANT}' AND sequence = 3",
        f"UPDATE ledger_transfer SET amount_minor = amount_minor - 1 WHERE tenant_id = '{TENANT}' AND sequence = 3",
    ),
    "ledger sequences": (
        f"UPDATE ledger_transfer SET sequence = 1000000 WHERE tenant_id = '{TENANT}' AND sequence = 3",
        f"UPDATE ledger_transfer SET sequence = 3 WHERE tenant_id = '{TENANT}' AND sequence = 1000000",
    ),
    "balances": (
        f"UPDATE ledger_account SET debits_minor = debits_minor + 1 WHERE tenant_id = '{TENANT}'",
        f"UPDATE ledger_account SET debits_minor = debits_minor - 1 WHERE tenant_id = '{TENANT}'",
    ),
    "unapplied credit": (
        f"UPDATE ledger_account SET code = '9100' WHERE tenant_id = '{TENANT}' AND code = '2100'",
        f"UPDATE ledger_account SET code = '2100' WHERE tenant_id = '{TENANT}' AND code = '9100'",
    ),
    "events in the stream": (
        f"UPDATE tenant_book SET event_sequence = event_sequence + 1 WHERE tenant_id = '{TENANT}'",
        f"UPDATE tenant_book SET event_sequence = event_sequence - 1 WHERE tenant_id = '{TENANT}'",
    ),
    "ledger entries without their event": (
        f"UPDATE ledger_transfer SET event_sequence = event_sequence + 1 WHERE tenant_id = '{TENANT}' AND sequence = 3",
        f"UPDATE ledger_transfer SET event_sequence = event_sequence - 1 WHERE tenant_id = '{TENANT}' AND sequence = 3",
    ),
}


async def _sees_damage(mesh: Mesh, history: History) -> None:
    for what, (statement, undo) in TAMPERING.items():
        async with tampered(mesh, statement, undo):
            assert what in await broken(mesh, history), what
    await check(mesh, history)


async def _sees_a_history_that_differs(mesh: Mesh, history: History) -> None:
    lost = Sent(TENANT, "payment.record", uuid4(), "lost-1")
    history.sent.append(lost)
    assert str(lost.command_id) in await broken(mesh, history)
    history.sent.remove(lost)
    told = next(sent for sent in history.sent if not sent.malformed)
    history.answers[told.command_id].append("rejected")
    assert "was answered rejected" in await broken(mesh, history)
    history.answers[told.command_id].pop()
    client = await nats.connect(mesh.nats_url("admin"))
    try:
        letter: dict[str, Any] = {"Billing-Dlq-Message-Id": str(uuid4()), "Nats-Msg-Id": str(uuid4())}
        await client.jetstream().publish(f"billing.v1.dlq.payments.{TENANT}", b"{}", headers=letter)
    finally:
        await client.close()
    assert "dead letters" in await broken(mesh, history)
