"""Knows the promises but none of the code that keeps them: plain SQL, a scan of the streams, and the history of what was sent.

It finds by effects that can be counted without asking the inbox, and asks the inbox too.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import nats
import orjson
from nats.aio.client import Client

from tools.faults.history import History, Sent
from tools.stack.mesh import Mesh

_TABLE_OF = {
    "account.open": "account",
    "payment.record": "payment",
    "payment.refund": "refund",
    "invoice.create": "invoice",
    "credit_note.issue": "credit_note",
}
# What a command leaves on a row that was there before it.
_STATE_OF = {
    "payment.reverse": "payment WHERE status = 'reversed' AND",
    "invoice.issue": "invoice WHERE number IS NOT NULL AND",
    "invoice.write_off": "invoice WHERE written_off_minor > 0 AND",
    "invoice.void": "invoice WHERE status = 'void' AND",
}
_NUMBERED = ("invoice", "credit_note")
_NEXT_MESSAGE_SECONDS = 10


class Broken(Exception):
    """A promise that does not hold, with the first evidence."""


class Finding(NamedTuple):
    """A promise that held, and over how much."""

    promise: str
    over: str


async def check(mesh: Mesh, history: History) -> list[Finding]:
    """Raises Broken with the first promise that does not hold."""
    by_tenant: dict[str, list[Sent]] = {}
    for sent in history.sent:
        by_tenant.setdefault(sent.tenant, []).append(sent)
    events = transfers = overtaking = 0
    _what_clients_saw(history)
    async with _open(mesh) as (connection, client):
        for tenant, commands in by_tenant.items():
            sound = [sent for sent in commands if not sent.malformed]
            early = await _too_early(connection, tenant, sound)
            overtaking += len(early)
            await _effects(connection, tenant, sound, early)
            await _answers(connection, tenant, sound, history)
            transfers += await _ledger(connection, tenant)
            await _balances(connection, tenant)
            events += await _events(connection, client, tenant)
        letters = await _dead_letters(client, history.sent)
    stored = f"{len(history.sent):,} commands, {history.repeated:,} sent twice, {overtaking:,} refused as too early"
    answered = f"{len(history.answers):,} commands answered, {history.witnessed:,} looked up at once"
    reused = f"{len(history.reused):,} sent, {len(history.reuse_answers):,} answers heard"
    return [
        Finding("every command that was stored has exactly one effect", stored),
        Finding("whoever heard `applied` heard the truth, after the commit", answered),
        Finding("a payment over HTTP is made once, however often it is sent", f"{history.over_http:,} payments"),
        Finding("another body under a command id has no effect", reused),
        Finding("the ledger is whole, and its balances are its sums", f"{transfers:,} entries"),
        Finding("each event left once, in commit order", f"{events:,} events"),
        Finding("what could not be read is a dead letter, and nothing else is", f"{letters:,} dead letters"),
    ]


@asynccontextmanager
async def _open(mesh: Mesh) -> AsyncIterator[tuple[Any, Client]]:
    client = await nats.connect(**mesh.nats.client_options("admin"))
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    try:
        yield connection, client
    finally:
        await connection.close()
        await client.close()


def _same(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise Broken(f"{what}: {_difference(found, expected)}")


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, Counter):
        return f"too many {list((found - expected).items())[:3]}, missing {list((expected - found).items())[:3]}"
    if isinstance(found, dict) and isinstance(expected, dict):
        found, expected = set(found.items()), set(expected.items())
    if isinstance(found, set):
        return f"too many {list(found - expected)[:3]}, missing {list(expected - found)[:3]}"
    if isinstance(found, list) and isinstance(expected, list):
        at = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), len(expected))
        return f"at {at} of {len(expected)}: {found[at : at + 3]} for {expected[at : at + 3]}"
    return f"{found!r} for {expected!r}"


def _nothing(rows: Sequence[Any], what: str) -> None:
    if rows:
        raise Broken(f"{what}: {len(rows)}, first {dict(rows[0])}")


async def _too_early(connection: Any, tenant: str, commands: Sequence[Sent]) -> set[UUID]:
    """Those that were refused because what they follow was not there yet: they may have no effect."""
    rows = await connection.fetch(
        "SELECT command_id FROM inbox WHERE tenant_id = $1 AND error::json ->> 'code' = 'payment_not_found'", tenant
    )
    return {row[0] for row in rows} & {sent.command_id for sent in commands if sent.follows}


async def _effects(connection: Any, tenant: str, commands: Sequence[Sent], early: set[UUID]) -> None:
    """Each command has one outcome and one effect, and nothing else has any."""
    rows = await connection.fetch("SELECT command_id, status, error FROM inbox WHERE tenant_id = $1", tenant)
    _same({row["command_id"] for row in rows}, {sent.command_id for sent in commands}, f"{tenant}: outcomes")
    codes = {sent.command_id: sent.refused for sent in commands if sent.refused}
    refused = {row["command_id"]: orjson.loads(row["error"])["code"] for row in rows if row["status"] != "applied"}
    _same({each: code for each, code in refused.items() if each not in early}, codes, f"{tenant}: refused")
    paid = await connection.fetch("SELECT reference FROM payment WHERE tenant_id = $1", tenant)
    expected = Counter(sent.reference for sent in commands if sent.reference)
    _same(Counter(row[0] for row in paid), expected, f"{tenant}: payments by reference")
    applied = Counter(sent.name for sent in commands if sent.command_id not in early and not sent.refused)
    for name, rest in ({name: f"{table} WHERE" for name, table in _TABLE_OF.items()} | _STATE_OF).items():
        count = await connection.fetchval(f"SELECT count(*) FROM {rest} tenant_id = $1", tenant)  # noqa: S608  ours
        _same(count, applied[name], f"{tenant}: {rest.partition(' ')[0]} rows that {name} has left")
    for table in _NUMBERED:
        numbered = f"SELECT number FROM {table} WHERE tenant_id = $1 AND number IS NOT NULL"  # noqa: S608  ours
        numbers = sorted(int(row[0].rpartition("-")[2]) for row in await connection.fetch(numbered, tenant))
        _same(numbers, list(range(1, len(numbers) + 1)), f"{tenant}: {table} numbers")


async def _answers(connection: Any, tenant: str, commands: Sequence[Sent], history: History) -> None:
    """Nobody was told anything but the stored outcome, or that it is a duplicate of it."""
    rows = await connection.fetch("SELECT command_id, status FROM inbox WHERE tenant_id = $1", tenant)
    stored = {row["command_id"]: row["status"] for row in rows}
    for sent in commands:
        for status in history.answers.get(sent.command_id, ()):
            if status not in (stored[sent.command_id], "duplicate"):
                raise Broken(f"{tenant}: {sent.name} {sent.command_id} was answered {status}")


def _what_clients_saw(history: History) -> None:
    """No surprise on the way, and whoever used a command id for something else was told so."""
    if history.surprises:
        raise Broken(f"{len(history.surprises)} times, first: {history.surprises[0]}")
    for command_id, status, code in history.reuse_answers:
        if (status, code) != ("rejected", "idempotency_key_reused"):
            raise Broken(f"another body under {command_id} was answered {status} {code}")


async def _ledger(connection: Any, tenant: str) -> int:
    """Gapless, every document posted with its amount and once, running balances that are the sums. The entries' number."""
    broken = await connection.fetch(
        """
        WITH posted AS (SELECT document_id AS id, kind, sum(amount_minor) AS amount
                        FROM ledger_transfer WHERE tenant_id = $1 GROUP BY 1, 2),
        due AS (SELECT id, 'payment' AS kind, amount_minor FROM payment WHERE tenant_id = $1
                UNION ALL SELECT id, 'payment_reversal', amount_minor FROM payment WHERE tenant_id = $1 AND status = 'reversed'
                UNION ALL SELECT id, 'refund', amount_minor FROM refund WHERE tenant_id = $1
                UNION ALL SELECT id, 'invoice', total_minor FROM invoice WHERE tenant_id = $1 AND number IS NOT NULL
                UNION ALL SELECT id, 'invoice_void', total_minor FROM invoice WHERE tenant_id = $1 AND status = 'void'
                UNION ALL SELECT id, 'write_off', written_off_minor FROM invoice WHERE tenant_id = $1 AND written_off_minor > 0
                UNION ALL SELECT id, 'credit_note', net_minor + tax_minor FROM credit_note WHERE tenant_id = $1)
        SELECT * FROM due FULL JOIN posted USING (id, kind) WHERE amount_minor IS DISTINCT FROM amount
        """,
        tenant,
    )
    _nothing(broken, f"{tenant}: documents and what was posted for them differ")
    sequences = [row[0] for row in await connection.fetch(
        "SELECT sequence FROM ledger_transfer WHERE tenant_id = $1 ORDER BY sequence", tenant)]  # fmt: skip
    _same(sequences, list(range(1, len(sequences) + 1)), f"{tenant}: ledger sequences")
    wrong = await connection.fetch(
        """
        WITH moved AS (
            SELECT debit_account_id AS id, amount_minor AS debit, 0 AS credit FROM ledger_transfer WHERE tenant_id = $1
            UNION ALL SELECT credit_account_id, 0, amount_minor FROM ledger_transfer WHERE tenant_id = $1),
        sums AS (SELECT id, sum(debit) AS debits, sum(credit) AS credits FROM moved GROUP BY id)
        SELECT * FROM sums FULL JOIN (SELECT id, debits_minor, credits_minor FROM ledger_account WHERE tenant_id = $1) AS kept
        USING (id) WHERE coalesce(debits, 0) <> debits_minor OR coalesce(credits, 0) <> credits_minor OR debits_minor IS NULL
        """,
        tenant,
    )
    _nothing(wrong, f"{tenant}: balances that are not the sums of their entries")
    return len(sequences)


async def _balances(connection: Any, tenant: str) -> None:
    """Receivables are what is open on invoices; unapplied credit is what payments have left (DOMAIN rule 15)."""
    kept = await connection.fetchrow(
        """
        SELECT coalesce(sum(debits_minor - credits_minor) FILTER (WHERE code = '1100'), 0) AS receivable,
               coalesce(sum(credits_minor - debits_minor) FILTER (WHERE code = '2100'), 0) AS unapplied
        FROM ledger_account WHERE tenant_id = $1
        """,
        tenant,
    )
    owed = await connection.fetchval(
        """
        SELECT coalesce(sum(total_minor - paid_minor - credited_minor - written_off_minor), 0) FROM invoice
        WHERE tenant_id = $1 AND status IN ('issued', 'settled')
        """,
        tenant,
    )
    left = await connection.fetchval(
        """
        SELECT (SELECT coalesce(sum(amount_minor), 0) FROM payment WHERE tenant_id = $1 AND status = 'recorded')
             - (SELECT coalesce(sum(amount_minor), 0) FROM refund WHERE tenant_id = $1)
             - (SELECT coalesce(sum(amount_minor), 0) FROM allocation WHERE tenant_id = $1)
        """,
        tenant,
    )
    _same((kept["receivable"], kept["unapplied"]), (owed, left), f"{tenant}: receivable and unapplied credit")


async def _headers(client: Client, stream: str, subject: str) -> list[dict[str, str]]:
    """Of every message of a subject, in stream order."""
    jetstream = client.jetstream()
    counts = (await jetstream.stream_info(stream, subjects_filter=subject)).state.subjects or {}
    subscription = await jetstream.subscribe(subject, stream=stream, ordered_consumer=True)
    try:
        return [
            dict((await subscription.next_msg(timeout=_NEXT_MESSAGE_SECONDS)).headers or {})
            for _ in range(sum(counts.values()))
        ]
    finally:
        await subscription.unsubscribe()


async def _events(connection: Any, client: Client, tenant: str) -> int:
    """The stream has each event once, in commit order, and one for every command and ledger row. Their number."""
    events = await _headers(client, "BILLING_EVENTS", f"billing.v1.evt.{tenant}.>")
    sequences = [int(event["ce-sequence"]) for event in events]
    given = await connection.fetchval("SELECT event_sequence FROM tenant_book WHERE tenant_id = $1", tenant)
    _same(sequences, list(range(1, given + 1)), f"{tenant}: events in the stream")
    _same(len({event["ce-id"] for event in events}), len(events), f"{tenant}: different event ids")
    posted = await connection.fetch(
        "SELECT DISTINCT event_sequence, command_id::text FROM ledger_transfer WHERE tenant_id = $1", tenant
    )
    told = {(int(event["ce-sequence"]), event["Billing-Command-Id"]) for event in events}
    _same({tuple(row) for row in posted} - told, set(), f"{tenant}: ledger entries without their event")
    applied = await connection.fetch(
        "SELECT command_id::text FROM inbox WHERE tenant_id = $1 AND status = 'applied' ORDER BY sequence", tenant
    )
    order = list(dict.fromkeys(event["Billing-Command-Id"] for event in events))
    _same(order, [row[0] for row in applied], f"{tenant}: order of events")
    return len(events)


async def _dead_letters(client: Client, commands: Sequence[Sent]) -> int:
    letters = await _headers(client, "BILLING_DLQ", "billing.v1.dlq.>")
    found = {letter["Billing-Dlq-Message-Id"] for letter in letters}
    _same(found, {sent.message_id for sent in commands if sent.malformed}, "dead letters")
    return len(found)
