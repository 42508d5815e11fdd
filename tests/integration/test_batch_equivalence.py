"""A batch of N equals N batches of one, under any redelivery and any interleaving: every row of every table is the same.

The same messages of one stream are applied to two databases: one by one to the first, and to the second in random batches with
messages that were handled before among them, tenants interleaved. What waits for something is tried again at the end of both.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import UUID, uuid4, uuid5

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from adapters.nats.topology import COMMANDS_STREAM
from adapters.postgres.tables import TABLES
from adapters.postgres.verify import verify_tenant
from domain.ids import derived_id
from handlers.inbound import delivery
from handlers.waits import LATE_WAITS
from schemas.gateway import GatewayProfile
from schemas.subjects import COMMAND_PREFIX
from tests.fixtures.servers import TEMPLATE, Database
from tests.integration.pipeline_support import Rig, again, rigged
from tools.stack import NatsServer, Stack

NAMESPACE = UUID("7a0e3b52-9a55-4d0a-8b0c-5f2f6f0f4a11")
SPLIT = [
    {"party_id": "patient", "kind": "patient", "share_basis_points": 3333},
    {"party_id": "insurer", "kind": "insurer", "share_basis_points": 6667},
]


class Step(NamedTuple):
    """What to do; `a` and `b` pick among what exists by then, `amount` is in minor units."""

    verb: str
    tenant: int
    a: int
    b: int
    amount: int


VERBS = (
    "open", "capture", "capture", "charge_void", "create", "create", "issue", "issue", "issue", "void", "write_off", "credit",
    "pay", "pay", "pay", "allocate", "unallocate", "refund", "reverse", "reverse", "adjust", "close_account",
    "charge", "charge", "settle", "settle", "settle", "take", "cancel", "gateway_refund", "dispute",
    "period_close", "period_reopen", "pricelist", "repeat", "reuse", "malformed", "wrong_currency",
)  # fmt: skip
steps = st.lists(
    st.builds(
        Step,
        verb=st.sampled_from(VERBS),
        tenant=st.integers(0, 1),
        a=st.integers(0, 7),
        b=st.integers(0, 7),
        amount=st.integers(1, 30_000),
    ),
    min_size=8,
    max_size=40,
)


class Hospital:
    """Writes the commands of one tenant, remembering ids. It does not know what will be refused."""

    def __init__(self, rig: Rig, tenant: str) -> None:
        self.rig, self.tenant = rig, tenant
        self.ids: dict[str, list[UUID]] = {kind: [] for kind in ("account", "charge", "invoice", "payment", "hold")}
        self.sent: list[tuple[str, dict[str, Any], UUID]] = []

    def pick(self, kind: str, number: int) -> UUID:
        """One that was made, or now and then one that nobody made."""
        known = self.ids[kind]
        return known[number % len(known)] if known and number < 7 else uuid5(NAMESPACE, f"{self.tenant}{kind}{number}")

    def new(self, kind: str) -> UUID:
        self.ids[kind].append(uuid4())
        return self.ids[kind][-1]

    def body(self, step: Step) -> tuple[str, dict[str, Any]]:  # noqa: C901, PLR0912  a case per command
        account, money = self.pick("account", step.a), {"amount_minor": step.amount, "currency": "AED"}
        invoice, payment = self.pick("invoice", step.a), self.pick("payment", step.b)
        allocation = {"invoice_id": invoice, "amount_minor": step.amount // 2 + 1}
        line = {"description": "care", "quantity": "1.5", "unit_price_minor": step.amount, "tax_category": "standard"}
        match step.verb:
            case "open":
                parties = {"parties": SPLIT} if step.b % 2 else {}
                return "account.open", {
                    "account_id": self.new("account"), "patient": "Patient/1", "currency": "AED", **parties,
                }  # fmt: skip
            case "capture":
                return "charge.capture", {
                    "charge_id": self.new("charge"), "account_id": account, "code_system": "http://loinc.org",
                    "code": "1-8", "quantity": 2, "unit_price": money,
                }  # fmt: skip
            case "charge_void":
                return "charge.void", {"charge_id": self.pick("charge", step.a), "reason": "wrong"}
            case "create" if step.b % 2 and self.ids["charge"]:
                return "invoice.create", {"account_id": account, "charge_ids": [self.pick("charge", step.b)]}
            case "create":
                return "invoice.create", {"account_id": account, "lines": [line, line]}
            case "issue":
                return "invoice.issue", {"invoice_id": invoice}
            case "void":
                return "invoice.void", {"invoice_id": invoice, "reason": "wrong"}
            case "write_off":
                return "invoice.write_off", {"invoice_id": invoice, "amount_minor": step.amount, "reason": "poor"}
            case "credit":
                lines = {"lines": [{"line_number": 1, "net_minor": step.amount // 3 + 1}]} if step.b % 2 else {}
                return "credit_note.issue", {"invoice_id": invoice, "reason": "goodwill", **lines}
            case "pay" | "wrong_currency":
                currency = {"currency": "AFN"} if step.verb == "wrong_currency" else {}
                allocations = [allocation] if step.b % 2 else []
                return "payment.record", {
                    "payment_id": self.new("payment"), "account_id": account, "method": "cheque",
                    "amount": money | currency, "allocations": allocations,
                }  # fmt: skip
            case "allocate":
                return "payment.allocate", {"payment_id": payment, "allocations": [allocation]}
            case "unallocate":
                return "payment.unallocate", {"payment_id": payment, "invoice_id": invoice, "reason": "wrong"}
            case "refund":
                return "payment.refund", {
                    "payment_id": payment,
                    "amount_minor": step.amount // 4 + 1,
                    "reason": "asked",
                }
            case "reverse":
                return "payment.reverse", {"payment_id": payment, "reason": "bounced"}
            case "charge":
                return "payment.charge", {
                    "payment_id": self.new("hold"), "account_id": account, "amount": money, "source": "tok",
                    "capture": ("automatic", "manual")[step.b % 2], "allocations": [allocation] if step.b % 3 else [],
                }  # fmt: skip
            case "settle":
                states = (
                    "captured",
                    "captured",
                    "authorised",
                    "unknown",
                    "absent",
                    "declined",
                    "cancelled",
                    "refunded",
                )
                told = {"currency": "AED", "authorised_minor": step.amount, "captured_minor": step.amount}
                return "payment.settle", {
                    "payment_id": self.pick("hold", step.a), "state": states[step.b], **told, "fee_minor": step.b,
                }  # fmt: skip
            case "take":
                return "payment.capture", {"payment_id": self.pick("hold", step.a)}
            case "cancel":
                return "payment.cancel", {"payment_id": self.pick("hold", step.a), "reason": "no"}
            case "gateway_refund":
                return "payment.refund", {"payment_id": self.pick("hold", step.a), "amount_minor": 1, "reason": "asked"}
            case "dispute":
                return "payment.dispute", {"payment_id": self.pick("hold", step.a), "stage": "lost"}
            case "adjust":
                return "ledger.adjust", {"debit_code": "1000", "credit_code": "4900", "amount": money, "reason": "till"}
            case "close_account":
                return "account.close", {"account_id": account}
            case "period_close" | "period_reopen":
                reason = {"reason": "late"} if step.verb == "period_reopen" else {}
                return f"period.{step.verb.removeprefix('period_')}", {"period": f"2026-0{step.a + 1}", **reason}
            case _:
                prices = [{"code": "1-8", "unit_price_minor": step.amount}]
                return "pricelist.publish", {
                    "price_list": "main", "currency": "AED", "effective_from": "2026-01-01", "prices": prices,
                }  # fmt: skip

    async def do(self, step: Step) -> None:
        if step.verb == "malformed":
            await self.rig.send(self.tenant, "payment.record", b'{"account_id": 1}')
        elif step.verb in ("repeat", "reuse") and self.sent:
            name, body, command_id = self.sent[step.a % len(self.sent)]
            more = {"tenant_id": self.tenant} if step.verb == "reuse" else {}
            await self.rig.send(
                self.tenant, name, body | more, command_id=command_id, message_id=f"{command_id}:{uuid4()}"
            )
        else:
            await self._send(*self.body(step))

    async def _send(self, name: str, body: dict[str, Any]) -> None:
        sent = await self.rig.send(self.tenant, name, body)
        self.sent.append((name, body, sent.command_id))
        if name == "invoice.create":  # documents' ids follow from when the stream stored the command
            stored = await self.rig.publisher.request(
                f"$JS.API.DIRECT.GET.{COMMANDS_STREAM}", orjson.dumps({"seq": sent.sequence})
            )
            recorded_at = delivery(f"$JS.ACK.x.x.1.1.1.{_nanoseconds((stored.headers or {})['Nats-Time-Stamp'])}.0")
            for party in ("patient", "insurer"):
                found = derived_id(self.tenant, sent.command_id, recorded_at.recorded_at, "invoice", party)
                self.ids["invoice"].append(found)


def _nanoseconds(stamp: str) -> int:
    seconds, _, fraction = stamp.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds + "+00:00").timestamp())
    return whole * 1_000_000_000 + int(fraction.ljust(9, "0"))


class Pair(NamedTuple):
    """Two databases beside one stream, in one event loop that the examples share."""

    runner: asyncio.Runner
    one_by_one: Rig
    batched: Rig


@pytest.fixture(scope="module")
def pair(stack: Stack, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    databases = [Database(stack, f"equivalence_{side}_{uuid4().hex[:8]}") for side in "ab"]
    directory: Path = tmp_path_factory.mktemp("equivalence")
    for database in databases:
        stack.postgres.create_database(database.name, TEMPLATE)
    with asyncio.Runner() as runner:
        contexts = [rigged(nats_server, database, directory) for database in databases]
        rigs = [runner.run(context.__aenter__()) for context in contexts]
        yield Pair(runner, *rigs)
        for context in contexts:
            runner.run(context.__aexit__(None, None, None))
    for database in databases:
        stack.postgres.drop_database(database.name)


@settings(
    max_examples=150 if os.environ.get("BILLING_LONG") else 15,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # each example takes a third of a second: shrinking would take minutes
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(plan=steps, seed=st.integers(0, 2**32))
def test_a_batch_of_n_equals_n_batches_of_one(pair: Pair, plan: list[Step], seed: int) -> None:
    pair.runner.run(compare(pair.one_by_one, pair.batched, plan, Random(seed)))


async def compare(one_by_one: Rig, batched: Rig, plan: Sequence[Step], random: Random) -> None:
    tenants = [f"eq-{uuid4().hex[:10]}" for _ in range(2)]
    for tenant in tenants:
        one_by_one.add_tenant(tenant, gateway=GatewayProfile(adapter="generic", url="https://gateway.example"))
    hospitals = [Hospital(one_by_one, tenant) for tenant in tenants]
    for number, hospital in enumerate(hospitals):
        await hospital.do(Step("open", number, 0, 0, 1))
        await hospital.do(Step("open", number, 0, 1, 1))
    for step in plan:
        await hospitals[step.tenant].do(step)
    messages = await published(one_by_one, tenants)
    assert len(messages) == len(plan) + 4

    for message in messages:
        await one_by_one.handle("payments", [again(message, 1)])
    await apply_at_random(batched, messages, random)
    waiting = [await unanswered(rig, messages) for rig in (one_by_one, batched)]
    assert waiting[0] == waiting[1]
    for rig in (one_by_one, batched):
        await exhaust(rig, messages, waiting[0])

    states = [await state(rig, tenants) for rig in (one_by_one, batched)]
    for table in states[0]:
        assert states[0][table] == states[1][table], table
    for tenant in tenants:
        async with batched.pool.reading(tenant) as connection:
            verification = await verify_tenant(connection, tenant)
        assert verification.mismatches == ()


async def apply_at_random(rig: Rig, messages: Sequence[Msg], random: Random) -> None:
    """In stream order per tenant, in batches of any size, with some that were answered before coming again."""
    left, done = list(messages), list[Msg]()
    while left:
        batch, left = left[: (size := random.randint(1, 12))], left[size:]
        waiting = await unanswered(rig, done)
        repeated = [again(each, random.choice((2, 3, 9))) for each in done if _sequence(each) not in waiting]
        mixed = [again(each, 1) for each in batch] + random.sample(repeated, min(len(repeated), random.randint(0, 4)))
        random.shuffle(mixed)
        await rig.handle("payments", mixed)
        done += batch


async def exhaust(rig: Rig, messages: Sequence[Msg], waiting: set[int]) -> None:
    """What waits is tried until its refusal is final; by then every reference has come or never will."""
    for delivered in range(2, LATE_WAITS + 2):
        for message in messages:
            if _sequence(message) in waiting:
                await rig.handle("payments", [again(message, delivered)])


async def published(rig: Rig, tenants: Sequence[str]) -> list[Msg]:
    subjects = [f"{COMMAND_PREFIX}.{tenant}.>" for tenant in tenants]
    name = f"eq-{uuid4().hex[:10]}"
    config = ConsumerConfig(filter_subjects=subjects, durable_name=name, ack_wait=600, num_replicas=1, mem_storage=True)
    jetstream = rig.publisher.jetstream()
    await jetstream.add_consumer(COMMANDS_STREAM, config)
    consumer = await rig.connection.jetstream().pull_subscribe_bind(name, stream=COMMANDS_STREAM)
    count = (await jetstream.consumer_info(COMMANDS_STREAM, name)).num_pending or 0
    messages: list[Msg] = []
    while len(messages) < count:
        messages += await consumer.fetch(count - len(messages), timeout=10)
    await jetstream.delete_consumer(COMMANDS_STREAM, name)
    return messages


async def unanswered(rig: Rig, messages: Sequence[Msg]) -> set[int]:
    """The stream sequences of the sound ones among them whose outcome the inbox does not have: what waits."""
    sound = {
        _sequence(each): UUID(((each.headers or {})["Nats-Msg-Id"]).split(":")[0])
        for each in messages
        if each.data != b'{"account_id": 1}'
    }
    rows = await rig.rows("SELECT command_id FROM inbox WHERE command_id = ANY($1)", list(sound.values()))
    stored = {row["command_id"] for row in rows}
    return {sequence for sequence, command_id in sound.items() if command_id not in stored}


async def state(rig: Rig, tenants: Sequence[str]) -> dict[str, list[str]]:
    """Every row of the tenants, as text. The outbox in its order: its ids are drawn from a sequence of all tenants.

    Audit events are compared as the stream would keep them, each once: a dead letter's has no place among the others', and a
    refusal that is not stored is told at every delivery.
    """
    found = {}
    connection = await asyncpg.connect(rig.database.dsn("postgres"))
    try:
        for table in TABLES.values():
            row, order = ("to_jsonb(t) - 'id'", "t.id") if table.name == "outbox" else ("to_jsonb(t)", "1")
            rows = await connection.fetch(
                f"SELECT ({row})::text FROM {table.name} AS t WHERE tenant_id = ANY($1) ORDER BY tenant_id, {order}",
                list(tenants),
            )
            found[table.name] = [each[0] for each in rows if '"stream": "audit"' not in each[0]]
            found[f"audit of {table.name}"] = sorted({each[0] for each in rows} - {*found[table.name]})
    finally:
        await connection.close()
    return found


def _sequence(message: Msg) -> int:
    return delivery(message.reply).stream_sequence
