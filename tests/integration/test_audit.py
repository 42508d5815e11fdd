"""Audit events over real servers: one for each outcome in the audit stream, under redelivery too, and nothing of any body."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio

from adapters.nats.batch_publish import Publisher
from adapters.postgres.database import Database as Pool
from domain.admission import admission
from handlers.audit import AuditTrail, NotAudited, QueryAudit, dead_letter
from handlers.inbound import Malformed, decode
from handlers.queries import Queries
from schemas import headers
from schemas.audit import AuditRecord
from schemas.codes import Code
from schemas.subjects import query_subject
from schemas.tenant import TenantProfile
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import REGION, Rig, again, rigged, stream_messages
from tests.integration.relay_support import relaying, until
from tools.stack import NatsServer

CANARY = "CANARY"


@pytest_asyncio.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as running:
        yield running


async def told(rig: Rig, database: Database, nats_server: NatsServer, tenant: str) -> list[AuditRecord]:
    """The tenant's audit events, relayed; none has two of one id, and none holds a canary."""

    async def empty() -> bool:
        return not await rig.rows("SELECT 1 FROM outbox WHERE tenant_id = $1 LIMIT 1", tenant)

    async with relaying(database, nats_server):
        await until(empty)
    messages = await stream_messages(rig.publisher, "AUDIT", f"audit.v1.billing.{tenant}.>")
    assert len({(message.headers or {})[headers.CE_ID] for message in messages}) == len(messages)
    for message in messages:
        assert CANARY.encode() not in message.data + message.subject.encode()
        assert CANARY not in str(message.headers)
    return [AuditRecord.model_validate_json(message.data) for message in messages]


def outcomes(records: list[AuditRecord]) -> list[tuple[str, str | None]]:
    return [(record.status, record.code) for record in records]


async def test_each_outcome_is_told_once_however_often_it_is_delivered(
    rig: Rig, database: Database, nats_server: NatsServer, tenant: str
) -> None:
    rig.add_tenant(tenant)
    account = await rig.account(tenant)
    body = rig.payment(account, reference=f"{CANARY}-1")
    paid = await rig.send(tenant, "payment.record", body, more={headers.ACTOR: "cashier-12"})
    refused = await rig.send(tenant, "payment.record", body | {"amount": {"amount_minor": 7, "currency": "AFN"}})
    reused = await rig.send(
        tenant,
        "payment.record",
        body | {"method": "cash"},
        command_id=paid.command_id,
        message_id=f"{paid.command_id}:2",
    )
    sent_again = await rig.send(
        tenant, "payment.record", body, command_id=paid.command_id, message_id=f"{paid.command_id}:3"
    )
    malformed = await rig.send(tenant, "payment.record", {"account_id": CANARY, CANARY: CANARY})
    nobody = await rig.send(tenant, f"payment.{CANARY}", body)
    messages = await rig.apply("payments", 6)
    for _ in range(2):  # what a crash between commit and acknowledgement leads to
        await rig.handle("payments", [again(message) for message in messages])
    found = await told(rig, database, nats_server, tenant)
    by_sequence = {
        sent.sequence: [(each.status, each.code) for each in found if each.stream_sequence == sent.sequence]
        for sent in (paid, refused, reused, sent_again, malformed, nobody)
    }
    assert by_sequence == {
        paid.sequence: [("applied", None)],
        refused.sequence: [("rejected", Code.CURRENCY_MISMATCH)],
        reused.sequence: [("rejected", Code.IDEMPOTENCY_KEY_REUSED)],
        sent_again.sequence: [("duplicate", None)],
        malformed.sequence: [("dead_lettered", Code.MALFORMED_COMMAND)],
        nobody.sequence: [("dead_lettered", Code.UNKNOWN_COMMAND)],
    }
    (of_payment,) = [each for each in found if each.stream_sequence == paid.sequence]
    assert (of_payment.actor, of_payment.named) == ("cashier-12", {"account_id": account})
    assert len(of_payment.touched["payment"]) == 1
    (unknown,) = [each for each in found if each.stream_sequence == nobody.sequence]
    assert unknown.subject == f"billing.v1.cmd.{tenant}.command.unknown"


@pytest.mark.parametrize(
    ("profile", "code", "opted"),
    [
        ({"entitled": False}, Code.TENANT_NOT_ENTITLED, False),
        ({"region": "eu-west-1"}, Code.RESIDENCY_VIOLATION, False),
        ({"region": "eu-west-1", "cross_region_opt_in": True}, None, True),
    ],
)
async def test_residency_and_entitlement_are_told_of_commands_and_queries(
    rig: Rig,
    database: Database,
    nats_server: NatsServer,
    tenant: str,
    profile: dict[str, Any],
    code: Code | None,
    opted: bool,
) -> None:
    rig.add_tenant(tenant, **profile)
    await rig.send(tenant, "account.open", {"patient": f"Patient/{CANARY}", "currency": "AED"})
    await rig.apply("accounts", 1)

    async def admitted(tenant_id: str) -> TenantProfile | Code:
        found = await rig.neighbours.profile(tenant_id)
        refusal = admission(found, REGION)
        return refusal.code if refusal else found  # type: ignore[return-value]

    queries = Queries(rig.pool, None, admitted, audit=QueryAudit(rig.trail, REGION, None))
    asked = {headers.ACTOR: "auditor-1"}
    answer = orjson.loads(await queries.answer(query_subject(tenant, "account.list"), b"{}", asked))
    assert (answer["error"] or {}).get("code") == code
    of_command, of_query = await told(rig, database, nats_server, tenant)
    assert (of_command.status, of_command.code) == ("rejected" if code else "applied", code)
    assert (of_query.status, of_query.code) == ("rejected" if code else "allowed", code)
    assert of_command.opted_in == of_query.opted_in == opted
    assert (of_query.actor, of_query.subject) == ("auditor-1", f"billing.v1.qry.{tenant}.account.list")


async def test_an_ordinary_query_and_a_malformed_one_leave_nothing(
    rig: Rig, database: Database, nats_server: NatsServer, tenant: str
) -> None:
    rig.add_tenant(tenant)

    async def admitted(tenant_id: str) -> TenantProfile | Code:
        return await rig.neighbours.profile(tenant_id)  # type: ignore[return-value]

    queries = Queries(rig.pool, None, admitted, audit=QueryAudit(rig.trail, REGION, None))
    for body in (b"{}", b"{", b'{"tenant_id": "somebody-else"}'):
        await queries.answer(query_subject(tenant, "account.list"), body)
    assert outcomes(await told(rig, database, nats_server, tenant)) == [("rejected", Code.TENANT_MISMATCH)]


async def test_while_postgresql_is_away_the_stream_takes_them_and_without_both_nobody_is_answered(
    rig: Rig, database: Database, nats_server: NatsServer, tenant: str
) -> None:
    rig.add_tenant(tenant)
    away = Pool("postgresql://billing_app:x@127.0.0.1:1/none", application_name="test-away", pool_size=1)
    sent = await rig.send(tenant, "payment.record", b"not JSON")
    (message,) = await rig.pull("payments", 1)
    letter = decode(message)
    assert isinstance(letter, Malformed)
    rows = [dead_letter(letter, letter.problem.code)]
    try:
        async with Publisher(rig.connection) as publisher:
            trail = AuditTrail(away, publisher)
            await trail.keep(tenant, rows)
            await rig.trail.keep(tenant, rows)  # PostgreSQL is back and the message comes again
            nowhere = [row._replace(subject=f"billing.v1.nothing.{uuid4().hex}") for row in rows]
            with pytest.raises(NotAudited):
                await trail.keep(tenant, nowhere)
    finally:
        await away.close()
    found = await told(rig, database, nats_server, tenant)
    assert [(each.status, each.code, each.stream_sequence) for each in found] == [
        ("dead_lettered", Code.MALFORMED_COMMAND, sent.sequence)
    ]
