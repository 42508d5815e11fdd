"""`billing replay redeliver`, `resume` and `reset` against a running mesh: what is selected, what is refused, what it does."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.aio.client import Client

from adapters.nats.topology import AUDIT_STREAM, COMMANDS_STREAM, REPLAY_STREAM
from schemas import headers
from tests.fixtures.servers import TEMPLATE
from tests.integration.pipeline_support import stream_messages
from tests.integration.replay_support import (
    act,
    arguments_of,
    billing,
    books,
    environment,
    handled,
    on_nats,
    originals,
    paid,
    payment,
    publish,
    replayed,
)
from tools.replay.plan import make_plan
from tools.replay.selection import Selection
from tools.replay.source import resolve
from tools.stack import Stack
from tools.stack.mesh import Mesh

COUNT = 60


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE, roles=("handlers", "worker")) as running:
        yield running


@pytest.fixture
def ids(mesh: Mesh, tenant: str) -> list[str]:
    """The command ids of COUNT payments of the tenant, of 1, 2, 3, … minor units."""
    mesh.add_tenant(tenant)
    return on_nats(mesh, lambda client: paid(client, tenant, COUNT))


async def _sent(client: Client) -> int:
    return (await client.jetstream().stream_info(REPLAY_STREAM)).state.messages


# --- what it does


def test_a_dry_run_counts_and_sends_nothing(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    before = on_nats(mesh, _sent)
    plan = billing(mesh, "replay", "redeliver", "--tenant", tenant, "--json").data
    assert plan["count"] == COUNT + 1
    assert plan["by_subject"] == {
        f"billing.v1.cmd.{tenant}.account.open": 1,
        f"billing.v1.cmd.{tenant}.payment.record": COUNT,
    }
    assert plan["money_moving"] == COUNT
    assert (plan["first"]["subject"], plan["last"]["message_id"]) == (f"billing.v1.cmd.{tenant}.account.open", ids[-1])
    assert len(plan["sample"]) == 2
    table = billing(mesh, "replay", "redeliver", "--tenant", tenant)
    assert "dry run" in table.err
    assert on_nats(mesh, _sent) == before


def test_a_replay_changes_nothing_and_says_where_each_message_is_from(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    before = books(mesh, tenant)
    result = act(mesh, "replay", "redeliver", "--tenant", tenant)
    assert result.code == 0
    run = result.data
    assert (run["state"], run["published"], run["duplicate"], run["applied"]) == ("done", COUNT + 1, COUNT + 1, 0)
    assert books(mesh, tenant) == before
    messages = replayed(mesh, run["replay_id"])
    assert [message.headers[headers.MESSAGE_ID].split(":")[0] for message in messages[1:]] == ids  # type: ignore[index]
    stored = on_nats(mesh, lambda client: stream_messages(client, COMMANDS_STREAM, f"billing.v1.cmd.{tenant}.>"))
    assert originals(messages) == [message.metadata.sequence.stream for message in stored]
    for message, original in zip(messages, stored, strict=True):
        told = message.headers or {}
        assert message.data == original.data
        assert told[headers.REPLAY_STREAM] == COMMANDS_STREAM
        recorded_at = datetime.fromisoformat(told[headers.REPLAY_RECORDED_AT])
        assert abs((recorded_at - original.metadata.timestamp).total_seconds()) < 0.001


def test_every_run_leaves_an_audit_event_with_its_reason(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    run = act(mesh, "replay", "redeliver", "--tenant", tenant).data["replay_id"]
    found = on_nats(mesh, lambda client: stream_messages(client, AUDIT_STREAM, f"audit.v1.billing.{tenant}.replay.*"))
    events = [json.loads(message.data) | {"subject": message.subject} for message in found]
    mine = [event for event in events if event["replay_id"] == run]
    assert [event["subject"].rpartition(".")[2] for event in mine] == ["started", "finished"]
    assert {event["reason"] for event in mine} == {"a test"}
    assert mine[1]["published"] == COUNT + 1


def test_the_same_replay_id_sends_once(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    arguments = ("replay", "redeliver", "--tenant", tenant, "--replay-id", f"once-{tenant}")
    assert act(mesh, *arguments).code == 0
    again = act(mesh, *arguments)
    assert (again.code, again.data["state"]) == (0, "done")
    assert len(replayed(mesh, f"once-{tenant}")) == COUNT + 1


def test_a_new_id_is_a_new_effect_and_part_of_the_history(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    before = books(mesh, tenant)[tenant][0]
    run = act(mesh, "replay", "redeliver", "--id", ids[3], "--force-new-id")
    assert (run.code, run.data["applied"]) == (0, 1)
    assert books(mesh, tenant)[tenant][0] == before + 1
    stored = on_nats(
        mesh, lambda client: stream_messages(client, COMMANDS_STREAM, f"billing.v1.cmd.{tenant}.payment.*")
    )
    assert len(stored) == COUNT + 1


# --- selection


def test_selection_by_time_id_header_and_body(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    def count(max_count: int | None = None, **selected: Any) -> int:
        async def planned(client: Client) -> int:
            selection = Selection(tenant=tenant, **selected)
            plan = await make_plan(client, selection, await resolve(client, selection), max_count=max_count)
            return plan.count

        return on_nats(mesh, planned)

    assert count(body_predicates=("amount.amount_minor>50",)) == COUNT - 50
    assert count(body_predicates=("amount.amount_minor<=10", "method=bank")) == 10
    assert count(body_predicates=("method~^ca",)) == 0
    assert count(ids=(ids[0], f"{ids[7]}:2")) == 2
    assert count(group="accounts") == 1
    assert count(header_predicates=(f"nats-msg-id={ids[5]}",)) == 1
    assert count(subjects=(f"billing.v1.cmd.{tenant}.account.*",)) == 1
    assert count(max_count=7) == 7
    moment = datetime.now(UTC)
    assert count(to_time=moment) == COUNT + 1
    on_nats(mesh, lambda client: paid(client, tenant, 4))
    assert count(from_time=moment) == 5
    assert count(to_time=moment) == COUNT + 1


def test_ids_that_are_nowhere_are_named(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    lost = "00000000-0000-4000-8000-000000000000"
    result = billing(mesh, "replay", "redeliver", "--tenant", tenant, "--id", lost, "--id", ids[0])
    assert "1 ids were not found" in result.err
    assert lost in result.err


# --- rails


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--yes", "--allow-money"], "--reason"),
        (["--yes", "--reason", "x"], "--allow-money"),
        (["--allow-money", "--reason", "x"], "--yes"),
        (["--yes", "--reason", "x", "--force-new-id"], "--allow-money"),
    ],
)
def test_nothing_is_sent_without_what_it_takes(
    mesh: Mesh, tenant: str, ids: list[str], arguments: list[str], reason: str
) -> None:
    before = on_nats(mesh, _sent)
    result = billing(mesh, "replay", "redeliver", "--tenant", tenant, "--execute", *arguments)
    assert result.code == 2
    assert reason in result.err
    assert on_nats(mesh, _sent) == before


def test_an_environment_that_nobody_named_is_refused(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    before = on_nats(mesh, _sent)
    result = act(mesh, "replay", "redeliver", "--tenant", tenant, env={"REPLAY_ENVIRONMENTS": "staging"})
    assert result.code == 2
    assert "REPLAY_ENVIRONMENTS" in result.err
    assert on_nats(mesh, _sent) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from-sequence", "900000000"], "nothing of the range is in BILLING_COMMANDS"),
        (["--from-time", "2090-01-01T00:00:00Z"], "nothing of the range is in BILLING_COMMANDS"),
        (["--to-time", "2001-01-01T00:00:00Z"], "nothing of the range is in BILLING_COMMANDS"),
        (["--from-sequence", "9", "--to-sequence", "3"], "the end is before the start"),
        (["--from-time", "yesterday"], "ISO 8601"),
        (["--from-time", "2026-03-21T06:00:00"], "time zone"),
        (["--group", "refunds"], "there is no consumer group"),
        (["--tenant", "a.b"], "not a tenant id"),
        (["--where", "nonsense"], "not a predicate"),
        (["--where", "method~("], "not a regular expression"),
        (["--id", "17"], "not command ids"),
    ],
)
def test_what_cannot_be_meant_is_said(
    mesh: Mesh, tenant: str, ids: list[str], arguments: list[str], words: str
) -> None:
    result = billing(mesh, "replay", "redeliver", *arguments)
    assert result.code == 2
    assert words in result.err


def test_new_refusals_stop_a_run(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    """Malformed commands are refused every time they are tried."""
    on_nats(mesh, lambda client: publish(client, tenant, "payment.record", [{"nonsense": each} for each in range(40)]))
    on_nats(mesh, handled)
    result = act(mesh, "replay", "redeliver", "--tenant", tenant, "--where", "nonsense>=0", "--rate", "50")
    assert result.code == 1
    assert result.data["state"] == "stopped"
    assert "malformed_command" in result.data["stopped_by"]
    assert result.data["published"] < 40


def test_a_queue_of_live_commands_stops_a_run(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    mesh["handlers"].stop()
    try:
        on_nats(mesh, lambda client: publish(client, tenant, "payment.record", [payment(ids[0])] * 20))
        result = act(mesh, "replay", "redeliver", "--tenant", tenant, "--group", "payments", "--max-lag", "10")
    finally:
        mesh["handlers"].start()
    assert result.code == 1
    assert "live commands wait for payments" in result.data["stopped_by"]
    assert result.data["published"] == 0
    on_nats(mesh, handled)
    resumed = billing(mesh, "replay", "resume", result.data["replay_id"], "--json")
    assert (resumed.code, resumed.data["state"]) == (0, "done")


# --- while it runs


def test_what_the_stream_gains_meanwhile_is_not_replayed(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    process = _start(mesh, tenant, "growing", rate=40)
    on_nats(mesh, lambda client: _replaying(client, f"growing-{tenant}"))
    on_nats(mesh, lambda client: paid(client, tenant, 10))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["published"] == COUNT + 1


def test_ctrl_c_leaves_a_run_that_can_be_resumed(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    import signal

    process = _start(mesh, tenant, "ctrlc", rate=20)
    on_nats(mesh, lambda client: _replaying(client, f"ctrlc-{tenant}"))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert 0 < json.loads(out)["published"] < COUNT + 1
    resumed = billing(mesh, "replay", "resume", f"ctrlc-{tenant}", "--json")
    # Its own rate holds for the rest of it, too.
    assert (resumed.code, resumed.data["published"]) == (0, COUNT + 1)
    found = originals(replayed(mesh, f"ctrlc-{tenant}"))
    assert len(found) == len(set(found)) == COUNT + 1


def test_two_processes_cannot_continue_one_run(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    process = _start(mesh, tenant, "twice", rate=4)
    on_nats(mesh, lambda client: _replaying(client, f"twice-{tenant}"))
    second = billing(mesh, "replay", "resume", f"twice-{tenant}", "--json")
    _, err = process.communicate(timeout=60)
    assert sorted([process.returncode, second.code]) == [0, 2], err + second.err
    assert "another process continues" in err + second.err
    found = originals(replayed(mesh, f"twice-{tenant}"))
    assert len(found) == len(set(found)) == COUNT + 1


def test_nats_may_be_restarted_in_the_middle(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    before = books(mesh, tenant)
    process = _start(mesh, tenant, "restart", rate=30)
    on_nats(mesh, lambda client: _replaying(client, f"restart-{tenant}"))
    mesh.nats.kill()
    mesh.nats.start()
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert json.loads(out)["published"] == COUNT + 1
    found = originals(replayed(mesh, f"restart-{tenant}"))
    assert len(found) == len(set(found)) == COUNT + 1
    assert books(mesh, tenant) == before


def _start(mesh: Mesh, tenant: str, name: str, *, rate: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments_of(
            *("replay", "redeliver", "--tenant", tenant, "--replay-id", f"{name}-{tenant}", "--rate", str(rate)),
            *("--execute", "--yes", "--allow-money", "--reason", "a test", "--json"),
        ),
        env=environment(mesh),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def _replaying(client: Client, run: str) -> None:
    """Until the run has sent its first messages."""
    subscription = await client.jetstream().subscribe(
        "billing.v1.replay.*.*.*.*", stream=REPLAY_STREAM, ordered_consumer=True
    )
    async with asyncio.timeout(60):
        while True:
            message = await subscription.next_msg(timeout=60)
            if (message.headers or {}).get(headers.REPLAY_ID) == run:
                return


# --- reset


def test_a_reset_delivers_everything_again_and_changes_nothing(mesh: Mesh, tenant: str, ids: list[str]) -> None:
    before = books(mesh, tenant)
    shown = billing(mesh, "replay", "reset", "payments", "--json")
    assert (shown.code, shown.data["executed"]) == (0, False)
    assert shown.data["messages"] >= COUNT
    done = act(mesh, "replay", "reset", "payments")
    assert done.code == 0
    on_nats(mesh, handled)

    async def consumer(client: Client) -> Any:
        return await client.jetstream().consumer_info(COMMANDS_STREAM, "payments")

    info = on_nats(mesh, consumer)
    # Reset counts from the start again: every message it delivered since is one that was delivered before.
    assert info.delivered.consumer_seq >= shown.data["messages"]
    assert not info.paused
    assert books(mesh, tenant) == before


def test_a_reset_of_a_consumer_that_does_not_exist_is_refused(mesh: Mesh) -> None:
    result = act(mesh, "replay", "reset", "refunds")
    assert result.code == 2
    assert re.search("no consumer group 'refunds'.*payments", result.err)


def test_resuming_what_never_began_is_refused(mesh: Mesh) -> None:
    result = billing(mesh, "replay", "resume", "no-such-run")
    assert result.code == 2
    assert "there is no run no-such-run" in result.err
