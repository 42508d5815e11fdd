"""Streams and durables are what topology.py says, whatever they were before."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError

from adapters.nats import topology
from adapters.nats.connection import connect
from schemas.registry import GROUPS
from schemas.subjects import both_ways, command_of, command_subject
from tools.stack import NatsServer


@pytest.fixture
async def nc(bare_nats_server: NatsServer) -> AsyncIterator[Client]:
    """The admin's connection to a server without streams."""
    client = await connect(bare_nats_server.url("admin"), name="test")
    jetstream = client.jetstream()
    for stream in await jetstream.streams_info():
        await jetstream.delete_stream(str(stream.config.name))
    yield client
    await client.close()


async def _config(nc: Client, subject: str) -> dict[str, Any]:
    answer = await nc.request(f"$JS.API.{subject}", b"", timeout=5)
    config: dict[str, Any] = json.loads(answer.data)["config"]
    return config


async def _update_stream(nc: Client, config: dict[str, Any]) -> None:
    answer = await nc.request(f"$JS.API.STREAM.UPDATE.{config['name']}", json.dumps(config).encode(), timeout=5)
    assert "error" not in json.loads(answer.data)


async def test_everything_is_created_once(nc: Client) -> None:
    changes = await topology.reconcile(nc, replicas=1)
    assert {change.action for change in changes} == {"created"}
    streams = {change.name for change in changes if change.kind == "stream"}
    assert streams == {
        "BILLING_COMMANDS",
        "BILLING_EVENTS",
        "BILLING_JOBS",
        "BILLING_DLQ",
        "BILLING_REPLAY",
        "BILLING_ATTEMPTS",
    }
    assert (
        sum(change.kind == "durable" for change in changes) == 3 * len(GROUPS) + len(topology.JOB_QUEUES) + 2
    )  # fhir, fhir-replay
    assert await topology.reconcile(nc, replicas=1) == []


async def test_a_stream_is_durable_ordered_and_cannot_be_emptied(nc: Client) -> None:
    await topology.reconcile(nc, replicas=1)
    config = await _config(nc, "STREAM.INFO.BILLING_COMMANDS")
    assert config["storage"] == "file"
    assert config["duplicate_window"] == 120 * 10**9
    assert config["max_age"] == 14 * 86_400 * 10**9
    with pytest.raises(APIError):
        await nc.jetstream().purge_stream("BILLING_COMMANDS")


async def test_audit_is_declared_in_dev_only(nc: Client) -> None:
    changes = await topology.reconcile(nc, replicas=1, dev=True)
    assert "AUDIT" in {change.name for change in changes}


async def test_a_drifted_stream_comes_back_and_keeps_what_is_not_declared(nc: Client) -> None:
    await topology.reconcile(nc, replicas=1)
    config = await _config(nc, "STREAM.INFO.BILLING_EVENTS")
    drifted = config | {"max_age": 10**12, "description": "someone was here", "max_msg_size": 500_000}
    await _update_stream(nc, drifted | {"subjects": ["billing.v1.evt.a.>"]})
    changes = await topology.reconcile(nc, replicas=1)
    assert [(change.action, change.name) for change in changes] == [("updated", "BILLING_EVENTS")]
    assert changes[0].fields["max_age"] == (10**12, topology.EVENTS_MAX_AGE)
    assert set(changes[0].fields) == {"max_age", "description", "subjects"}
    assert await _config(nc, "STREAM.INFO.BILLING_EVENTS") == config | {"max_msg_size": 500_000}
    assert await topology.reconcile(nc, replicas=1) == []


@pytest.mark.parametrize(
    "drift",
    [
        {"ack_wait": 10**9},
        {"max_ack_pending": 10},
        {"max_deliver": 3},
        {"filter_subjects": ["billing.v1.cmd.*.other.*"]},
    ],
)
async def test_a_drifted_durable_comes_back_at_its_place(nc: Client, drift: dict[str, Any]) -> None:
    await topology.reconcile(nc, replicas=1)
    jetstream = nc.jetstream()
    await jetstream.publish(command_subject("t", "payment.record"), b"{}", headers={"Nats-Msg-Id": f"{drift}"})
    subscription = await jetstream.pull_subscribe_bind(durable="payments", stream="BILLING_COMMANDS")
    await (await subscription.fetch(1))[0].ack_sync()
    config = await _config(nc, "CONSUMER.INFO.BILLING_COMMANDS.payments")
    body = {"stream_name": "BILLING_COMMANDS", "config": config | drift, "action": "update"}
    answer = await nc.request("$JS.API.CONSUMER.CREATE.BILLING_COMMANDS.payments", json.dumps(body).encode(), timeout=5)
    assert "error" not in json.loads(answer.data)

    changes = await topology.reconcile(nc, replicas=1)
    assert [(change.action, change.name) for change in changes] == [("updated", "BILLING_COMMANDS/payments")]
    assert set(changes[0].fields) == set(drift)
    info = await jetstream.consumer_info("BILLING_COMMANDS", "payments")
    assert info.ack_floor is not None and info.ack_floor.stream_seq == 1, "an update must not start over"
    assert await topology.reconcile(nc, replicas=1) == []


async def test_a_deleted_durable_is_made_again(nc: Client) -> None:
    await topology.reconcile(nc, replicas=1)
    await nc.jetstream().delete_consumer("BILLING_REPLAY", "charges-replay")
    changes = await topology.reconcile(nc, replicas=1)
    assert [str(change) for change in changes] == ["created durable BILLING_REPLAY/charges-replay"]


async def test_what_cannot_change_in_place_is_refused_before_anything_is_changed(nc: Client) -> None:
    await nc.jetstream().add_stream(name="BILLING_DLQ", subjects=["billing.v1.dlq.>"], storage="memory")
    with pytest.raises(topology.TopologyError, match=r"BILLING_DLQ: storage is 'memory', must be 'file'"):
        await topology.reconcile(nc, replicas=1)
    assert [stream.config.name for stream in await nc.jetstream().streams_info()] == ["BILLING_DLQ"]


async def test_a_refusal_of_the_server_is_passed_on(nc: Client) -> None:
    with pytest.raises(topology.TopologyError, match="replicas"):
        await topology.reconcile(nc, replicas=3)


async def test_commands_of_unknown_aggregates_have_no_stream(nc: Client) -> None:
    await topology.reconcile(nc, replicas=1)
    jetstream = nc.jetstream()
    assert (await jetstream.publish(command_subject("t", "payment.no_such_verb"), b"{}")).stream == "BILLING_COMMANDS"
    with pytest.raises(NoStreamResponseError):
        await jetstream.publish(command_subject("t", "no_such_aggregate.record"), b"{}")


async def test_a_command_waits_for_one_group_whichever_way_it_went(nc: Client) -> None:
    await topology.reconcile(nc, replicas=1)
    jetstream, (stable, canary) = nc.jetstream(), both_ways(command_subject("t", "payment.record"))
    assert command_of(canary) == command_of(stable) == stable != canary
    acks = [await jetstream.publish(each, b"{}", headers={"Nats-Msg-Id": each}) for each in (stable, canary, canary)]
    assert [(ack.stream, ack.duplicate) for ack in acks] == [
        (topology.COMMANDS_STREAM, each) for each in (None, None, True)
    ]
    waiting = [
        (await jetstream.consumer_info(topology.COMMANDS_STREAM, name)).num_pending
        for name in topology.command_durables("payments")
    ]
    assert waiting == [1, 1]
    with pytest.raises(NoStreamResponseError):
        await jetstream.publish(both_ways(command_subject("t", "no_such_aggregate.record"))[1], b"{}")


def test_subjects_that_are_no_commands_have_one_way() -> None:
    for subject in ("billing.v1.evt.t.payment.recorded", "billing.v1.>", "billing.v1.replay.payments.t.payment.record"):
        assert both_ways(subject) == (subject,) and command_of(subject) == subject
