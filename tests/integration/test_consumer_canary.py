"""The consumer canary: nats-server's own weighted mapping, two consumer groups, one history (docs/decisions/0040)."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import asyncpg
import nats
import pytest
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM, canary_durable, command_durables
from schemas import headers
from schemas.registry import GROUPS
from schemas.subjects import CANARY_PREFIX, COMMAND_PREFIX, both_ways, command_subject
from tests.fixtures.servers import TEMPLATE
from tests.integration.replay_support import account, act, billing, books, in_thread, on_nats, payment, publish
from tools.stack import Stack
from tools.stack.mesh import Mesh

WEIGHT_PERCENT = 5
# By tenant. Of so many commands, 5 % ± 1 is four standard deviations: a chance in ten thousand to be outside.
COMMANDS = {"canary-one": 3_800, "canary-two": 3_800, "canary-three": 400}
TENANTS = tuple(COMMANDS)
DEPENDENT = 200
WAIT_SECONDS = 60
_POLL_SECONDS = 0.05


class Sent(NamedTuple):
    """What was published: payments by tenant, in all commands, and the accounts."""

    payments: dict[str, list[str]]
    accounts: dict[str, str]


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    """Stable handlers, a canary, and the mapping between them; then a burst of payments."""
    with Mesh.isolated(
        stack, template=TEMPLATE, tenants=TENANTS, roles=("handlers", "worker"), env={"HANDLER_COMMANDS": "stable"}
    ) as running:
        running.add_process("handlers", "canary", env={"HANDLER_COMMANDS": "canary"}).start()
        for tenant in TENANTS:
            running.tenant_nats_url(tenant)
        running.nats.map_commands(WEIGHT_PERCENT)
        yield running


@pytest.fixture(scope="module")
def sent(mesh: Mesh) -> Sent:
    return in_thread(_burst(mesh))


async def _burst(mesh: Mesh) -> Sent:
    """As each tenant's own user: what NATS permits is part of what is tested."""
    found = Sent({}, {})
    for tenant in TENANTS:
        client = await nats.connect(mesh.tenant_nats_url(tenant), inbox_prefix=f"_INBOX.{tenant}".encode())
        try:
            found.accounts[tenant] = str(uuid.uuid4())
            await publish(client, tenant, "account.open", [account(found.accounts[tenant])])
            await _handled(mesh)
            bodies = [payment(found.accounts[tenant], 1 + each) for each in range(COMMANDS[tenant])]
            found.payments[tenant] = await publish(client, tenant, "payment.record", bodies)
        finally:
            await client.close()
    await _handled(mesh)
    return found


async def _handled(mesh: Mesh) -> None:
    """Until both durables of every group are empty."""
    client = await nats.connect(mesh.nats_url("admin"))
    try:
        for name in [name for group in GROUPS for name in command_durables(group)]:
            await _empty(client, name)
    finally:
        await client.close()


async def _empty(client: Client, durable: str) -> None:
    """The server has no event for that."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if not await _depth(client, durable):
                return
            await asyncio.sleep(_POLL_SECONDS)


async def _depth(client: Client, durable: str) -> int:
    info = await client.jetstream().consumer_info(COMMANDS_STREAM, durable)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def _stored(client: Client, *prefixes: str) -> Counter[str]:
    """Messages of the command stream by prefix of their subject."""
    found: Counter[str] = Counter()
    for prefix in prefixes:
        info = await client.jetstream().stream_info(COMMANDS_STREAM, subjects_filter=f"{prefix}.>")
        found[prefix] = sum((info.state.subjects or {}).values())
    return found


def _fetch(mesh: Mesh, query: str, *arguments: Any) -> list[Any]:
    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(mesh.dsn("postgres"))
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    return in_thread(fetch())


def _consumed(mesh: Mesh, process: str) -> int:
    """Commands of the group `payments` that a process has handled."""
    lines = mesh[process].metrics().splitlines()
    counts = [line for line in lines if line.startswith('billing_command_batch_size_sum{group="payments"')]
    return int(float(counts[0].split()[-1])) if counts else 0


def test_five_percent_go_to_the_canary_and_each_has_one_effect(mesh: Mesh, sent: Sent) -> None:
    counts = on_nats(mesh, lambda client: _stored(client, COMMAND_PREFIX, CANARY_PREFIX))
    share = 100 * counts[CANARY_PREFIX] / counts.total()
    assert abs(share - WEIGHT_PERCENT) <= 1, counts
    assert counts.total() == sum(map(len, sent.payments.values())) + len(TENANTS)
    handled = {process: _consumed(mesh, process) for process in ("handlers", "canary")}
    payments = sum(map(len, sent.payments.values()))
    assert sum(handled.values()) == payments, "each by one group"
    assert 0.04 * payments <= handled["canary"] <= 0.06 * payments, handled
    for tenant, ids in sent.payments.items():
        rows = _fetch(mesh, "SELECT command_id::text, status FROM inbox WHERE tenant_id = $1", tenant)
        assert {row[0] for row in rows} >= set(ids) and {row[1] for row in rows} == {"applied"}
        (found,) = _fetch(mesh, "SELECT count(*), sum(amount_minor) FROM payment WHERE tenant_id = $1", tenant)
        assert tuple(found) == (len(ids), len(ids) * (len(ids) + 1) // 2)
    assert sorted(books(mesh, *TENANTS)) == sorted(TENANTS)


def test_a_retry_is_known_whichever_way_either_went(mesh: Mesh, sent: Sent) -> None:
    """By the stream inside its window; by the inbox with another attempt's message id."""
    tenant = TENANTS[0]

    async def again(client: Client) -> tuple[list[bool], int]:
        jetstream, before = client.jetstream(), (await client.jetstream().stream_info(COMMANDS_STREAM)).state.messages
        body = json.dumps(payment(sent.accounts[tenant])).encode()
        acks = [
            await jetstream.publish(
                subject, body, stream=COMMANDS_STREAM, headers={headers.MESSAGE_ID: sent.payments[tenant][number]}
            )
            for number in range(20)
            for subject in both_ways(command_subject(tenant, "payment.record"))
        ]
        after = (await jetstream.stream_info(COMMANDS_STREAM)).state.messages
        return [bool(ack.duplicate) for ack in acks], after - before

    assert on_nats(mesh, again) == ([True] * 40, 0)
    known = sent.payments[tenant][3]
    body = payment(sent.accounts[tenant], 4)
    subject = command_subject(tenant, "payment.record")
    result = billing(mesh, "publish", subject, json.dumps(body), "--id", f"{known}:1", "--wait", "--json")
    assert result.data["outcome"]["status"] == "duplicate", result.out


async def test_what_depends_on_a_command_in_the_other_group_waits_for_it(mesh: Mesh, sent: Sent) -> None:
    """Pipelined: the refund may be read before its payment is there. It is given back until it is."""
    tenant = TENANTS[1]
    client = await nats.connect(mesh.nats_url("operator"))
    try:
        for _ in range(DEPENDENT):
            payment_id = str(uuid.uuid4())
            paid = payment(sent.accounts[tenant], 100, payment_id=payment_id)
            refund = {"payment_id": payment_id, "amount_minor": 1, "reason": "asked"}
            for name, body in (("payment.record", paid), ("payment.refund", refund)):
                await client.publish(
                    command_subject(tenant, name), json.dumps(body).encode(), headers={"Nats-Msg-Id": str(uuid.uuid4())}
                )
        await client.flush()
    finally:
        await client.close()
    await _handled(mesh)
    refused = _fetch(mesh, "SELECT error FROM inbox WHERE tenant_id = $1 AND status <> 'applied'", tenant)
    assert not refused, refused[:3]
    assert _fetch(mesh, "SELECT count(*) FROM refund WHERE tenant_id = $1", tenant)[0][0] == DEPENDENT


def test_the_canarys_commands_are_part_of_the_history(mesh: Mesh, sent: Sent) -> None:
    """Replaying finds them under the subject they were sent to; rebuilding gives the same ledger."""
    tenant = TENANTS[2]
    asked, count = ("replay", "redeliver", "--tenant", tenant, "--group", "payments"), len(sent.payments[tenant])
    planned = billing(mesh, *asked, "--json").data
    assert planned["by_subject"] == {command_subject(tenant, "payment.record"): count}
    run = act(mesh, *asked)
    assert run.code == 0, run.out + run.err
    assert (run.data["published"], run.data["duplicate"], run.data["applied"]) == (count, count, 0)
    name = f"rebuild_{uuid.uuid4().hex[:8]}"
    mesh.stack.postgres.create_database(name, TEMPLATE)
    try:
        url = mesh.stack.postgres.dsn("billing_app", name)
        rebuilt = billing(
            mesh,
            "replay",
            "rebuild",
            "--tenant",
            tenant,
            "--reason",
            "a drill",
            "--json",
            env={"REBUILD_DATABASE_URL": url},
        )
    finally:
        mesh.stack.postgres.drop_database(name)
    assert rebuilt.code == 0, rebuilt.out + rebuilt.err
    (found,) = rebuilt.data["tenants"]
    assert found["identical"] and found["live_head"] == found["rebuilt_head"] != "0" * 64


async def test_a_malformed_command_of_the_canary_is_a_dead_letter_of_its_group(mesh: Mesh) -> None:
    """Sent to the canary on purpose, which its permissions allow: a way to try it before it gets its share."""
    tenant, message_id = TENANTS[0], str(uuid.uuid4())
    client = await nats.connect(mesh.nats_url("admin"))
    try:
        jetstream = client.jetstream()
        subscription = await client.subscribe(f"billing.v1.dlq.payments.{tenant}")
        _, subject = both_ways(command_subject(tenant, "payment.record"))
        assert subject.startswith(f"{CANARY_PREFIX}.")
        await jetstream.publish(subject, b"{", headers={headers.MESSAGE_ID: message_id})
        letter = await subscription.next_msg(timeout=WAIT_SECONDS)
    finally:
        await client.close()
    fields = letter.headers or {}
    assert fields[headers.DLQ_SUBJECT] == command_subject(tenant, "payment.record")
    assert fields[headers.DLQ_CONSUMER] == "payments"
    assert fields[headers.DLQ_MESSAGE_ID] == message_id


async def test_a_command_that_is_denied_is_denied_whichever_way_it_would_go(mesh: Mesh) -> None:
    """NATS checks the subject that the mapping made of it: workers' commands stay theirs, others' tenants stay apart."""
    refused: asyncio.Queue[Exception] = asyncio.Queue()
    tenant = TENANTS[0]

    client = await nats.connect(
        mesh.tenant_nats_url(tenant), inbox_prefix=f"_INBOX.{tenant}".encode(), error_cb=refused.put
    )
    try:
        tries = 60  # at 5 %, three of them go the canary's way
        for _ in range(tries):
            await client.publish(command_subject(tenant, "job.report"), b"{}")
        for other in both_ways(command_subject(TENANTS[1], "payment.record")):
            await client.publish(other, b"{}")
        await client.flush()
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(tries + 2):
                await refused.get()
    finally:
        await client.close()


async def test_what_the_canary_left_is_applied_when_it_is_gone(mesh: Mesh, sent: Sent) -> None:
    """Its pods die under load, then the mapping goes, then the stable handlers are told that there is no canary."""
    tenant = TENANTS[0]
    client = await nats.connect(mesh.nats_url("operator"))
    try:
        await asyncio.to_thread(mesh["canary"].kill)
        await publish(client, tenant, "payment.record", [payment(sent.accounts[tenant]) for _ in range(400)])
        await _empty(client, "payments")
        left = await _depth(client, canary_durable("payments"))
        assert left > 0, "stable handlers must leave the canary's share alone"
        rows = billing(mesh, "queues", "--interval", "0.1", "--json").data["groups"]
        (shown,) = [row for row in rows if row["group"] == "payments-canary"]
        assert (shown["depth"], shown["pulls"]) == (left, 0), "and it must show that nobody consumes it"
        await asyncio.to_thread(mesh.nats.map_commands, 0)
        mesh["handlers"].env["HANDLER_COMMANDS"] = "all"
        await asyncio.to_thread(mesh["handlers"].restart)
        await _handled(mesh)
        before = await _stored(client, CANARY_PREFIX)
        await publish(client, tenant, "payment.record", [payment(sent.accounts[tenant]) for _ in range(200)])
        await _handled(mesh)
        assert await _stored(client, CANARY_PREFIX) == before, "the mapping is gone"
    finally:
        await client.close()
    counted = _fetch(mesh, "SELECT count(*) FROM payment WHERE tenant_id = $1", tenant)[0][0]
    assert counted == len(sent.payments[tenant]) + 400 + 200
    books(mesh, tenant)
