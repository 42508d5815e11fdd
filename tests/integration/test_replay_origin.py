"""Replayed messages in the pipeline: their own place in the history is believed on the replay stream, and nowhere else."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from nats.aio.msg import Msg

from adapters.nats.topology import REPLAY_STREAM, replay_durable
from schemas import headers
from schemas.subjects import replay_subject
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import Rig, rigged
from tools.stack import NatsServer

SEQUENCE = 4_711


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


def _story(**changes: str) -> dict[str, str]:
    moment = datetime.now(UTC) - timedelta(days=3)
    told = {
        headers.REPLAY_ID: "run-1",
        headers.REPLAY_STREAM: "BILLING_COMMANDS",
        headers.REPLAY_SEQUENCE: str(SEQUENCE),
        headers.REPLAY_RECORDED_AT: moment.isoformat(timespec="microseconds"),
    }
    return {name: value for name, value in (told | changes).items() if value}


async def _replayed(rig: Rig, tenant: str, story: dict[str, str]) -> tuple[Msg, str]:
    """An `account.open` on the replay stream, as its consumer group gets it; and its command id."""
    command_id = str(uuid4())
    body = orjson.dumps({"account_id": str(uuid4()), "patient": "Patient/1", "currency": "AED"})
    await rig.publisher.jetstream().publish(
        replay_subject("accounts", tenant, "account.open"),
        body,
        headers={headers.MESSAGE_ID: f"{command_id}:r1", **story},
    )
    pull = await rig.connection.jetstream().pull_subscribe_bind(replay_durable("accounts"), stream=REPLAY_STREAM)
    (message,) = await pull.fetch(1, timeout=10)
    return message, command_id


async def test_a_replayed_command_has_the_time_and_place_of_its_original(rig: Rig, tenant: str) -> None:
    rig.add_tenant(tenant)
    story = _story()
    message, command_id = await _replayed(rig, tenant, story)
    await rig.handle("accounts", [message])
    (row,) = await rig.rows("SELECT * FROM inbox WHERE tenant_id = $1", tenant)
    assert (str(row["command_id"]), row["stream_sequence"]) == (command_id, SEQUENCE)
    assert row["recorded_at"] == datetime.fromisoformat(story[headers.REPLAY_RECORDED_AT])
    (account,) = await rig.rows("SELECT recorded_at FROM account WHERE tenant_id = $1", tenant)
    assert account["recorded_at"] == row["recorded_at"]


async def test_a_publisher_of_commands_cannot_choose_its_time(rig: Rig, tenant: str) -> None:
    rig.add_tenant(tenant)
    body = {"account_id": str(uuid4()), "patient": "Patient/1", "currency": "AED"}
    sent = await rig.send(tenant, "account.open", body, more=_story())
    await rig.apply("accounts", 1)
    (row,) = await rig.rows("SELECT recorded_at, stream_sequence FROM inbox WHERE tenant_id = $1", tenant)
    assert row["stream_sequence"] == sent.sequence != SEQUENCE
    assert datetime.now(UTC) - row["recorded_at"] < timedelta(minutes=1)


@pytest.mark.parametrize(
    "changes",
    [
        {headers.REPLAY_ID: ""},
        {headers.REPLAY_ID: "a b"},
        {headers.REPLAY_STREAM: "BILLING_JOBS"},
        {headers.REPLAY_SEQUENCE: ""},
        {headers.REPLAY_SEQUENCE: "0"},
        {headers.REPLAY_SEQUENCE: "-1"},
        {headers.REPLAY_SEQUENCE: "9" * 30},
        {headers.REPLAY_RECORDED_AT: ""},
        {headers.REPLAY_RECORDED_AT: "2026-02-30T00:00:00.000000+00:00"},
        {headers.REPLAY_RECORDED_AT: "2126-01-01T00:00:00.000000+00:00"},
        {headers.REPLAY_RECORDED_AT: "2001-01-01T00:00:00.000000+00:00"},
        {headers.REPLAY_RECORDED_AT: "yesterday"},
    ],
    ids=lambda changes: "-".join(f"{name[15:]}={value[:12]}" for name, value in changes.items()),
)
async def test_a_story_that_cannot_be_true_is_dead_lettered(rig: Rig, tenant: str, changes: dict[str, str]) -> None:
    rig.add_tenant(tenant)
    message, _ = await _replayed(rig, tenant, _story(**changes))
    await rig.handle("accounts", [message])
    (letter,) = await rig.dead_letters(tenant)
    assert letter.data == message.data
    assert (letter.headers or {})[headers.DLQ_CODE] == "malformed_command"
    assert not await rig.rows("SELECT 1 FROM inbox WHERE tenant_id = $1", tenant)
