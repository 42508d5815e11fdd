"""Hundreds of nasty messages in one stream: each ends in an answer or a dead letter, and every good one between is applied."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import headers
from tests.fixtures.servers import Database
from tests.fuzz.mangling import cut, mangled
from tests.integration.pipeline_support import Rig, Sent, rigged
from tools.stack import NatsServer

ACCOUNT = UUID("0b9d1c1e-6d0a-4f7a-9f5e-2b8f0c1d2e3f")
COUNT = 2_000 if os.environ.get("BILLING_LONG") else 200
PAYMENT = {"amount": {"amount_minor": 5, "currency": "AED"}, "method": "bank"}
# Kept whole: a payment on an account that nobody has yet waits for it, which is another promise.
BEGINNING = f'{{"account_id":"{ACCOUNT}",'.encode()


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


def nasties(count: int) -> list[bytes]:
    """Always the same ones: bodies that were valid once."""
    found: list[bytes] = []

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        found.append(BEGINNING + data.draw(cut(orjson.dumps(data.draw(mangled(PAYMENT)))[1:])))

    collect()
    return found[:count]


@pytest.mark.timeout(600)
async def test_every_nasty_message_ends_and_its_neighbours_are_applied(rig: Rig, tenant: str) -> None:
    rig.add_tenant(tenant)
    await rig.account(tenant, ACCOUNT)
    bad: list[Sent] = []
    good: list[Sent] = []
    for number, body in enumerate(await asyncio.to_thread(nasties, COUNT)):
        bad.append(await rig.send(tenant, "payment.record", body))
        if number % 10 == 0:
            good.append(await rig.send(tenant, "payment.record", PAYMENT | {"account_id": str(ACCOUNT)}))

    await rig.apply("payments", len(bad) + len(good))

    assert {(await rig.outcome(sent)).status for sent in good} == {"applied"}
    answers = [await rig.outcome(sent) for sent in bad]
    assert {answer.status for answer in answers} <= {"applied", "duplicate", "rejected"}
    buried = {(letter.headers or {})[headers.DLQ_MESSAGE_ID] for letter in await rig.dead_letters(tenant)}
    stored = {str(row[0]) for row in await rig.rows("SELECT command_id FROM inbox WHERE tenant_id = $1", tenant)}
    for sent in bad:
        assert (str(sent.command_id) in buried) != (str(sent.command_id) in stored)
    assert len(buried) > COUNT / 4
    assert await rig.unfinished("payments") == 0
