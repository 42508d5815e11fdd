"""Suspects one step at a time; tests/faults/test_poison.py has the whole story with real deaths."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from nats.aio.msg import Msg

from adapters.nats.topology import ATTEMPTS_STREAM, COMMANDS_STREAM
from handlers.suspects import POISON_DEATHS, SUSPECT_DELIVERIES, Quarantine
from schemas import headers
from schemas.subjects import attempt_subject
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import Rig, Sent, again, rigged, stream_messages
from tools.stack import NatsServer


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


async def _payments(rig: Rig, tenant: str, count: int) -> tuple[list[Sent], list[Msg]]:
    """Commands, and their messages as delivered for the time that makes them suspects."""
    rig.add_tenant(tenant)
    account_id = await rig.account(tenant)
    sent = [await rig.send(tenant, "payment.record", rig.payment(account_id)) for _ in range(count)]
    return sent, [again(message, SUSPECT_DELIVERIES) for message in await rig.pull("payments", count)]


async def _markers(rig: Rig, sent: Sent) -> list[int]:
    """The deaths that the markers of a message state: only the last one is kept."""
    subject = attempt_subject("payments", COMMANDS_STREAM, sent.sequence)
    found = await stream_messages(rig.publisher, ATTEMPTS_STREAM, subject)
    return [orjson.loads(message.data)["deaths"] for message in found]


async def _die(rig: Rig, sent: Sent, deaths: int) -> None:
    """Leaves the marker of a process that did not come back."""
    subject = attempt_subject("payments", COMMANDS_STREAM, sent.sequence)
    await rig.publisher.jetstream().publish(subject, orjson.dumps({"deaths": deaths}))


async def test_a_suspect_that_is_innocent_is_applied_and_its_marker_says_so(rig: Rig, tenant: str) -> None:
    (sent,), messages = await _payments(rig, tenant, 1)
    await _die(rig, sent, POISON_DEATHS - 1)
    await rig.handle("payments", messages)
    assert (await rig.outcome(sent)).status == "applied"
    assert await _markers(rig, sent) == [0]


async def test_a_killer_is_dead_lettered_unread_and_its_neighbours_are_applied(rig: Rig, tenant: str) -> None:
    sent, messages = await _payments(rig, tenant, 3)
    await _die(rig, sent[1], POISON_DEATHS)
    await rig.handle("payments", messages)
    assert [(await rig.outcome(each)).status for each in sent] == ["applied", "rejected", "applied"]
    (letter,) = await rig.dead_letters(tenant)
    assert letter.data == sent[1].body
    assert "2 tries of this message alone" in (letter.headers or {})[headers.DLQ_REASON]
    assert await rig.unfinished("payments") == 0


async def test_what_this_process_has_handled_is_no_suspect(rig: Rig, tenant: str) -> None:
    """An outage: it was given back, not lost."""
    (sent,), (message,) = await _payments(rig, tenant, 1)
    await rig.handle("payments", [again(message, SUSPECT_DELIVERIES - 1)])
    await rig.handle("payments", [message])
    assert (await rig.outcome(sent, 2)).status == "duplicate"
    assert await _markers(rig, sent) == []


async def test_without_a_place_for_markers_suspects_wait_and_nothing_is_lost(rig: Rig, tenant: str) -> None:
    (sent,), messages = await _payments(rig, tenant, 1)
    jetstream = rig.publisher.jetstream()
    config = (await jetstream.stream_info(ATTEMPTS_STREAM)).config
    await jetstream.delete_stream(ATTEMPTS_STREAM)
    try:
        await rig.handle("payments", messages)
        assert await rig.silent(sent)
        assert await rig.unfinished("payments") == 1
        assert not await rig.dead_letters(tenant)
    finally:
        await jetstream.add_stream(config)


async def test_a_suspect_is_alone_in_the_process() -> None:
    quarantine = Quarantine()
    story: list[str] = []
    together, leave = asyncio.Event(), asyncio.Event()

    async def batch(name: str) -> None:
        async with quarantine.together():
            story.append(name)
            together.set()
            await leave.wait()
            story.append(f"{name} over")

    async def suspect() -> None:
        async with quarantine.alone():
            story.append("suspect")
            await asyncio.sleep(0)
            story.append("suspect over")

    first = asyncio.create_task(batch("first"))
    await together.wait()
    alone = asyncio.create_task(suspect())
    await asyncio.sleep(0)
    second = asyncio.create_task(batch("second"))
    await asyncio.sleep(0)
    assert story == ["first"]
    leave.set()
    async with asyncio.timeout(5):
        await asyncio.gather(first, alone, second)
    assert story == ["first", "first over", "suspect", "suspect over", "second", "second over"]
