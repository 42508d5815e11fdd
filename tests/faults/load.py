"""Load, and a checker that knows the promises but none of the code that keeps them: plain SQL and a scan of the stream.

Every command has an effect that can be counted without asking the inbox: a payment carries its command's number as reference.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from adapters.nats.topology import durable_configs
from tools.stack.mesh import Mesh

ACK_WAIT_NANOSECONDS = 5_000_000_000
# Above ack_wait, after which what a killed process held comes again, and the 8 s that a message tried six times waits.
IDLE_SECONDS = 40.0
LINE = {"description": "care", "quantity": 1, "unit_price_minor": 1000}


class Acked(NamedTuple):
    """A command whose PubAck came."""

    tenant: str
    name: str
    command_id: UUID
    reference: str | None


class Load:
    """Publishes commands of several tenants until stopped; `acked` has those the stream has confirmed.

    A publish whose PubAck does not come is tried again with the same message id until it does, as a client should.
    """

    def __init__(self, mesh: Mesh, tenants: Sequence[str], seed: int, per_second: int = 300) -> None:
        self._mesh, self._tenants, self._per_second = mesh, tenants, per_second
        self._random = random.Random(seed)
        self._stopped = asyncio.Event()
        self._accounts: dict[str, list[UUID]] = {tenant: [] for tenant in tenants}
        self.acked: list[Acked] = []
        self.outcomes: Counter[str] = Counter()
        self._client: Client

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Accounts first; then the load, until the block ends."""
        self._client = await nats.connect(
            **self._mesh.nats.client_options("operator"),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            error_cb=_ignore,
        )
        try:
            for tenant in self._tenants:
                self._accounts[tenant] = [uuid4() for _ in range(3)]
                for account in self._accounts[tenant]:
                    body = {"account_id": str(account), "patient": "Patient/1", "currency": "AFN"}
                    await self._publish(tenant, "account.open", body)
            task = asyncio.create_task(self._run())
            try:
                yield self
            finally:
                self._stopped.set()
                async with asyncio.timeout(30):
                    await task
        finally:
            await self._client.close()

    async def _run(self) -> None:
        publishers = [asyncio.create_task(self._publisher(tenant)) for tenant in self._tenants]
        await asyncio.gather(*publishers)

    async def _publisher(self, tenant: str) -> None:
        number = 0
        while not self._stopped.is_set():
            number += 1
            account = self._random.choice(self._accounts[tenant])
            reference = f"{tenant[-3:]}-{number}"
            payment_id = uuid4()
            body = {
                "payment_id": str(payment_id),
                "account_id": str(account),
                "amount": {"amount_minor": self._random.randint(1, 9999), "currency": "AFN"},
                "method": "cash",
                "reference": reference,
            }
            await self._publish(tenant, "payment.record", body, reference)
            if number % 7 == 0:  # a command that depends on the one just sent
                refund = {"payment_id": str(payment_id), "amount_minor": 1, "reason": "asked"}
                await self._publish(tenant, "payment.refund", refund)
            if number % 5 == 0:
                invoice = {"account_id": str(account), "lines": [LINE]}
                await self._publish(tenant, "invoice.create", invoice)
            await asyncio.sleep(len(self._tenants) / self._per_second)  # the rate; nothing is waited for

    async def _publish(self, tenant: str, name: str, body: dict[str, Any], reference: str | None = None) -> None:
        command_id = uuid4()
        jetstream = self._client.jetstream()
        while True:
            try:
                await jetstream.publish(
                    f"billing.v1.cmd.{tenant}.{name}",
                    json.dumps(body).encode(),
                    timeout=2,
                    headers={"Nats-Msg-Id": str(command_id)},
                )
            except (NatsError, JetStreamError, TimeoutError):
                await asyncio.sleep(0.05)  # NATS is away
                continue
            self.acked.append(Acked(tenant, name, command_id, reference))
            return


async def _ignore(_error: Exception) -> None:
    """Servers are being killed: that is the test."""


async def shorten_ack_wait(mesh: Mesh) -> None:
    """So that a test need not sit out the half minute after which a dead process's messages come again."""
    client = await nats.connect(**mesh.nats.client_options("admin"))
    try:
        for (stream, name), config in durable_configs().items():
            request = {"stream_name": stream, "config": config | {"ack_wait": ACK_WAIT_NANOSECONDS}, "action": "update"}
            answer = await client.request(f"$JS.API.CONSUMER.CREATE.{stream}.{name}", json.dumps(request).encode())
            assert json.loads(answer.data)["config"]["ack_wait"] == ACK_WAIT_NANOSECONDS
    finally:
        await client.close()


async def settled(mesh: Mesh, seconds: float = IDLE_SECONDS) -> None:
    """Wait until every durable has acknowledged everything and the outbox is empty."""
    client = await nats.connect(**mesh.nats.client_options("admin"))
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    left: dict[str, int] = {}
    try:
        async with asyncio.timeout(seconds):
            while True:
                left = {"outbox": await connection.fetchval("SELECT count(*) FROM outbox")}
                for group in ("accounts", "charges", "invoices", "payments"):
                    info = await client.jetstream().consumer_info("BILLING_COMMANDS", group)
                    left[group] = (info.num_pending or 0) + (info.num_ack_pending or 0)
                if not any(left.values()):
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"work did not resume: {left}") from None
    finally:
        await connection.close()
        await client.close()


async def check(mesh: Mesh, acked: Iterable[Acked]) -> None:
    """Every promise of DESIGN §2 that a crash could break. Raises AssertionError with the first that does not hold."""
    by_tenant: dict[str, list[Acked]] = {}
    for command in acked:
        by_tenant.setdefault(command.tenant, []).append(command)
    client = await nats.connect(**mesh.nats.client_options("admin"))
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    try:
        dead = (await client.jetstream().stream_info("BILLING_DLQ")).state.messages
        assert dead == 0, f"{dead} dead letters"
        for tenant, commands in by_tenant.items():
            await _check_effects(connection, tenant, commands)
            await _check_ledger(connection, tenant)
            await _check_events(connection, client, tenant)
    finally:
        await connection.close()
        await client.close()


async def _check_effects(
    connection: "asyncpg.Connection[asyncpg.Record]", tenant: str, commands: Sequence[Acked]
) -> None:
    """Each PubAck'ed command has one outcome and one effect, and nothing else has any."""
    rows = await connection.fetch("SELECT command_id, status, error FROM inbox WHERE tenant_id = $1", tenant)
    assert {row["command_id"] for row in rows} == {command.command_id for command in commands}
    refused = [(row["command_id"], row["error"]) for row in rows if row["status"] != "applied"]
    assert not refused, refused[:3]
    references = Counter(
        row[0] for row in await connection.fetch("SELECT reference FROM payment WHERE tenant_id = $1", tenant)
    )
    expected = Counter(command.reference for command in commands if command.reference)
    assert references == expected
    for name, table in (("payment.refund", "refund"), ("invoice.create", "invoice"), ("account.open", "account")):
        found = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant)
        assert found == sum(command.name == name for command in commands), table


async def _check_ledger(connection: "asyncpg.Connection[asyncpg.Record]", tenant: str) -> None:
    """Gapless, one posting per payment and refund with its amount, and running balances that are their sum."""
    broken = await connection.fetch(
        """
        WITH posted AS (SELECT document_id, sum(amount_minor) AS amount, count(*) AS n FROM ledger_transfer
                        WHERE tenant_id = $1 GROUP BY 1),
        due AS (SELECT id, amount_minor FROM payment WHERE tenant_id = $1
                UNION ALL SELECT id, amount_minor FROM refund WHERE tenant_id = $1)
        SELECT * FROM due FULL JOIN posted ON document_id = id WHERE amount_minor IS DISTINCT FROM amount OR n <> 1
        """,
        tenant,
    )
    assert not broken, broken[:3]
    sequences = [row[0] for row in await connection.fetch(
        "SELECT sequence FROM ledger_transfer WHERE tenant_id = $1 ORDER BY sequence", tenant)]  # fmt: skip
    assert sequences == list(range(1, len(sequences) + 1))
    wrong = await connection.fetch(
        """
        SELECT a.id FROM ledger_account AS a CROSS JOIN LATERAL (
            SELECT coalesce(sum(amount_minor) FILTER (WHERE debit_account_id = a.id), 0) AS debits,
                   coalesce(sum(amount_minor) FILTER (WHERE credit_account_id = a.id), 0) AS credits
            FROM ledger_transfer AS t WHERE t.tenant_id = $1) AS posted
        WHERE tenant_id = $1 AND (debits_minor <> debits OR credits_minor <> credits)
        """,
        tenant,
    )
    assert not wrong, wrong[:3]


async def _check_events(connection: "asyncpg.Connection[asyncpg.Record]", client: Client, tenant: str) -> None:
    """The stream has each event once, in commit order, and one for every command and ledger row."""
    jetstream = client.jetstream()
    subject = f"billing.v1.evt.{tenant}.>"
    counts = (await jetstream.stream_info("BILLING_EVENTS", subjects_filter=subject)).state.subjects or {}
    subscription = await jetstream.subscribe(subject, stream="BILLING_EVENTS", ordered_consumer=True)
    events = [(await subscription.next_msg(timeout=10)).headers or {} for _ in range(sum(counts.values()))]
    await subscription.unsubscribe()
    sequences = [int(event["ce-sequence"]) for event in events]
    given = await connection.fetchval("SELECT event_sequence FROM tenant_book WHERE tenant_id = $1", tenant)
    assert sequences == list(range(1, given + 1))
    assert len({event["ce-id"] for event in events}) == len(events)
    ledger = await connection.fetch(
        "SELECT DISTINCT event_sequence, command_id::text FROM ledger_transfer WHERE tenant_id = $1", tenant
    )
    assert {(row[0], row[1]) for row in ledger} <= {
        (sequence, event["Billing-Command-Id"]) for sequence, event in zip(sequences, events, strict=True)
    }
    applied = await connection.fetch(
        "SELECT command_id::text FROM inbox WHERE tenant_id = $1 AND status = 'applied' ORDER BY sequence", tenant
    )
    assert [row[0] for row in applied] == list(dict.fromkeys(event["Billing-Command-Id"] for event in events))
