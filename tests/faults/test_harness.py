"""`make faults` in short, and the proof that its checker sees what it is there to see."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import nats
import pytest

from tools.faults.checker import Broken, check
from tools.faults.frames import Frames, doubled_and_mixed, is_acknowledgement, is_confirmation, without
from tools.faults.history import History, Sent
from tools.faults.nemesis import FAULTS, Fault, kinds, left_out, plan
from tools.faults.run import TENANTS, nothing_left, scene_of, under_load, verified
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT
from tools.stack.stepped_clock import MISSING, NOTICED_WITHIN_SECONDS, SteppedClock, library

# `make faults` does every kind four times over; here those of which each breaks something else, for so many seconds. With
# BILLING_FAULTS, as many of any kind.
SHORT = {
    "postgres killed": 1.0,
    "clocks of roles stepped": 2.0,
    "handlers frozen": 6.0,  # beyond ack_wait
    "nats killed": 1.0,
    "api killed": 0.5,
    "acknowledgements lost": 6.0,  # beyond ack_wait
    "worker killed": 0.5,
    "publish confirmations lost": 3.0,
}
FAULT_COUNT = int(os.environ.get("BILLING_FAULTS", "0"))
SEED = int(os.environ.get("BILLING_FAULTS_SEED", "3"))
TENANT = TENANTS[0]
PER_SECOND = 150  # what is scanned fifteen times over at the end

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150 + 20 * (FAULT_COUNT or len(SHORT)))]


async def test_nothing_is_lost_or_doubled_whatever_breaks_and_the_checker_would_see_it() -> None:
    history = History()
    async with scene_of(SEED) as scene:
        faults = _faults()
        await under_load(scene, history, faults, seed=SEED, per_second=PER_SECOND, hurried=not FAULT_COUNT)
        await nothing_left(scene.mesh)
        assert sum(history.faults.values()) == len(faults)
        assert len(history.sent) > 100 * len(faults)
        assert any(sent.malformed for sent in history.sent) and any(sent.refused for sent in history.sent)
        assert history.over_http and history.witnessed and history.reuse_answers
        await check(scene.mesh, history)
        await verified(scene.mesh)
        await _sees_damage(scene.mesh, history)
        await _sees_a_history_that_differs(scene.mesh, history)


def _faults() -> list[tuple[Fault, float]]:
    if FAULT_COUNT:
        return plan(SEED, FAULT_COUNT, kinds())
    possible = {fault.name: fault for fault in kinds()}
    return [(possible[name], seconds) for name, seconds in SHORT.items() if name in possible]


def test_the_seed_chooses_and_no_kind_is_left_out() -> None:
    names = [fault.name for fault, _ in plan(SEED, len(FAULTS))]
    assert sorted(names) == sorted(fault.name for fault in FAULTS)
    assert plan(SEED, 40) == plan(SEED, 40) != plan(SEED + 1, 40)
    told = (PROJECT_ROOT / "docs" / "faults.md").read_text()
    assert [name for name in names if name not in told] == []


def test_a_cluster_has_kinds_of_its_own_and_clocks_are_stepped_here() -> None:
    single, cluster = ({fault.name for fault in kinds(cluster=each)} for each in (False, True))
    assert single - cluster >= {"nats killed", "acknowledgements lost"}
    assert cluster - single >= {"leader killed", "leader partitioned from its peers"}
    assert left_out() == [] or sys.platform != "linux" or platform.machine() != "x86_64"


def test_a_stepped_clock_is_one_processs_alone(tmp_path: Path) -> None:
    if library() is None:
        pytest.skip(MISSING)
    clock = SteppedClock(tmp_path)
    code = "import time\nwhile input(): print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [*clock.prefix, sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def off() -> tuple[float, float]:
            """From this process's two clocks."""
            print("?", file=process.stdin, flush=True)
            wall, monotonic = map(float, process.stdout.readline().split())  # type: ignore[union-attr]
            return wall - time.time(), monotonic - time.monotonic()

        for step_seconds in (0, -3_600):
            clock.step(step_seconds)
            time.sleep(NOTICED_WITHIN_SECONDS if step_seconds else 0)  # libfaketime looks at its file now and then
            assert off() == pytest.approx((step_seconds, 0), abs=1)
        process.kill()
    clock.close()


WIRE = [
    b"PING\r\n",
    b"PUB $JS.ACK.S.d.1.2.3.4.5 0\r\n\r\n",
    b"HPUB cmd inbox 12 18\r\nNATS/1.0\r\n\r\nPUB \r\n\r\n",
    b'MSG _INBOX.a 1 23\r\n{"stream":"E", "seq":1}\r\n',
    b"MSG cmd 1 $JS.ACK.S.d.1.1.1.1.1 2\r\n{}\r\n",
    b"HMSG cmd 1 $JS.ACK.S.d.1.2.2.2.2 12 14\r\nNATS/1.0\r\n\r\n{}\r\n",
]


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_frames_are_whole_however_they_come(size: int) -> None:
    frames, stream = Frames(), b"".join(WIRE)
    found = [each for start in range(0, len(stream), size) for each in frames.feed(stream[start : start + size])]
    assert found == WIRE
    assert without(is_acknowledgement)(WIRE) == [*WIRE[:1], *WIRE[2:]]
    assert without(is_confirmation)(WIRE) == [*WIRE[:3], *WIRE[4:]]
    mixed = doubled_and_mixed(Random(1), 1.0)(WIRE)
    assert list(mixed[:4]) == WIRE[:4] and sorted(mixed[4:]) == sorted(WIRE[4:] * 2)


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
    "credit_note rows": (
        f"UPDATE credit_note SET tenant_id = 'x' || tenant_id WHERE tenant_id = '{TENANT}'",
        f"UPDATE credit_note SET tenant_id = '{TENANT}' WHERE tenant_id = 'x{TENANT}'",
    ),
    "payment rows that payment.reverse has left": (
        "CREATE TABLE back AS SELECT id FROM payment WHERE status = 'reversed';"
        " UPDATE payment SET status = 'recorded' WHERE status = 'reversed'",
        "UPDATE payment SET status = 'reversed' WHERE id IN (SELECT id FROM back); DROP TABLE back",
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
    history.reuse_answers.append((told.command_id, "applied", "None"))
    assert "another body" in await broken(mesh, history)
    history.reuse_answers.pop()
    history.looked(told.command_id, committed=False)
    assert "before it was committed" in await broken(mesh, history)
    history.surprises.pop()
    refused = next(sent for sent in history.sent if sent.refused)
    history.sent[history.sent.index(refused)] = refused._replace(refused="account_closed")
    assert "refused" in await broken(mesh, history)
    history.sent[history.sent.index(refused._replace(refused="account_closed"))] = refused
    client = await nats.connect(mesh.nats_url("admin"))
    try:
        letter: dict[str, Any] = {"Billing-Dlq-Message-Id": str(uuid4()), "Nats-Msg-Id": str(uuid4())}
        await client.jetstream().publish(f"billing.v1.dlq.payments.{TENANT}", b"{}", headers=letter)
    finally:
        await client.close()
    assert "dead letters" in await broken(mesh, history)
