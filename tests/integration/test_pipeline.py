"""The pipeline over real servers: one effect per command, one answer, and failures that stay with their message."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import event

from domain import engine
from domain.decision import Capability
from handlers import pipeline
from schemas import headers
from schemas.codes import Code
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import Rig, again, rigged
from tools.stack import NatsServer


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


@pytest.fixture
async def billed(rig: Rig, tenant: str) -> str:
    rig.add_tenant(tenant)
    return tenant


async def test_a_large_share_is_several_transactions_in_stream_order(
    rig: Rig, billed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "TRANSACTION_COMMANDS", 2)
    account = await rig.account(billed)
    sent = [await rig.send(billed, "payment.record", rig.payment(account, 100 + number)) for number in range(5)]
    await rig.apply("payments", 5)

    outcomes = [await rig.outcome(each) for each in sent]
    assert [outcome.status for outcome in outcomes] == ["applied"] * 5
    assert len({outcome.position for outcome in outcomes}) == 3  # one per commit
    posted = await rig.rows("SELECT amount_minor FROM ledger_transfer WHERE tenant_id = $1 ORDER BY sequence", billed)
    assert [row["amount_minor"] for row in posted] == [100, 101, 102, 103, 104]


# --- the inbox ------------------------------------------------------------------------------------------------------------


async def test_a_duplicate_gets_the_stored_outcome_and_no_second_effect(rig: Rig, billed: str) -> None:
    account = await rig.account(billed)
    first = await rig.send(billed, "payment.record", rig.payment(account))
    (message,) = await rig.apply("payments", 1)
    retry = await rig.send(
        billed, "payment.record", first.body, command_id=first.command_id, message_id=f"{first.command_id}:2"
    )
    await rig.apply("payments", 1)
    await rig.handle("payments", [again(message), again(message, 3)])

    applied, duplicate = await rig.outcome(first), await rig.outcome(retry)
    assert (applied.status, duplicate.status) == ("applied", "duplicate")
    assert duplicate.result == applied.result and duplicate.command_id == first.command_id
    assert [(await rig.outcome(first, number)).status for number in (2, 3)] == ["duplicate", "duplicate"]
    assert len(await rig.payments(billed)) == 1


async def test_a_duplicate_within_one_batch_has_one_effect(rig: Rig, billed: str) -> None:
    account = await rig.account(billed)
    first = await rig.send(billed, "payment.record", rig.payment(account))
    retries = [
        await rig.send(billed, "payment.record", first.body, command_id=first.command_id, message_id=message_id)
        for message_id in (f"{first.command_id}:a", f"{first.command_id}:b")
    ]
    await rig.apply("payments", 3)
    assert (await rig.outcome(first)).status == "applied"
    assert [(await rig.outcome(retry)).status for retry in retries] == ["duplicate", "duplicate"]
    assert len(await rig.payments(billed)) == 1


async def test_the_same_id_with_another_body_is_refused_and_the_stored_outcome_stays(rig: Rig, billed: str) -> None:
    account = await rig.account(billed)
    first = await rig.send(billed, "payment.record", rig.payment(account, 100))
    await rig.apply("payments", 1)
    other = await rig.send(
        billed, "payment.record", rig.payment(account, 101), command_id=first.command_id,
        message_id=f"{first.command_id}:2",
    )  # fmt: skip
    # The same fields in another order and spacing are the same body.
    spaced = first.body.replace(b":", b" : ").replace(b"urn : ", b"urn:")
    same = await rig.send(
        billed, "payment.record", spaced, command_id=first.command_id, message_id=f"{first.command_id}:3"
    )
    await rig.apply("payments", 2)
    refused = await rig.outcome(other)
    assert refused.status == "rejected" and refused.error is not None
    assert refused.error.code == Code.IDEMPOTENCY_KEY_REUSED and not refused.error.retryable
    assert (await rig.outcome(same)).status == "duplicate"
    assert await rig.rows("SELECT amount_minor FROM payment WHERE tenant_id = $1", billed) == [(100,)]


async def test_another_command_with_the_same_id_is_refused(rig: Rig, billed: str) -> None:
    account = await rig.account(billed)
    closing = {"account_id": account}
    first = await rig.send(billed, "account.close", closing)
    other = await rig.send(
        billed, "account.update", closing, command_id=first.command_id, message_id=f"{first.command_id}:2"
    )
    await rig.apply("accounts", 2)
    assert (await rig.outcome(first)).status == "applied"
    refused = (await rig.outcome(other)).error
    assert refused is not None and refused.code == Code.IDEMPOTENCY_KEY_REUSED


async def test_one_id_of_two_tenants_is_two_commands(rig: Rig, billed: str) -> None:
    other = f"{billed}-b"
    rig.add_tenant(other)
    account = await rig.account(billed)
    await rig.account(other, account)
    first = await rig.send(billed, "payment.record", rig.payment(account))
    second = await rig.send(
        other, "payment.record", first.body, command_id=first.command_id, message_id=f"{first.command_id}:2"
    )
    await rig.apply("payments", 2)
    assert [(await rig.outcome(each)).status for each in (first, second)] == ["applied", "applied"]
    assert [len(await rig.payments(each)) for each in (billed, other)] == [1, 1]


async def test_a_refused_command_stays_refused_under_its_id(rig: Rig, billed: str) -> None:
    account = await rig.account(billed)
    await rig.send(billed, "account.close", {"account_id": account})
    await rig.apply("accounts", 1)
    refused = await rig.send(billed, "payment.record", rig.payment(account))
    await rig.apply("payments", 1)
    await rig.send(billed, "account.update", {"account_id": account, "reopen": True})
    await rig.apply("accounts", 1)
    retry = await rig.send(
        billed, "payment.record", refused.body, command_id=refused.command_id, message_id=f"{refused.command_id}:2"
    )
    fresh = await rig.send(billed, "payment.record", refused.body)
    await rig.apply("payments", 2)
    first, second = await rig.outcome(refused), await rig.outcome(retry)
    assert first.status == "rejected" and first.error is not None and first.error.code == Code.ACCOUNT_CLOSED
    assert second.status == "duplicate" and second.error == first.error
    assert (await rig.outcome(fresh)).status == "applied"
    assert len(await rig.payments(billed)) == 1


# --- references that are not there yet ------------------------------------------------------------------------------------


async def finish(rig: Rig, *groups: str) -> None:
    """Redelivered messages are handled until none is left."""
    async with asyncio.timeout(30):
        while left := {group: await rig.unfinished(group) for group in groups}:
            waiting = [group for group, count in left.items() if count]
            if not waiting:
                return
            await rig.apply(waiting[0], 1)


async def test_an_issue_that_overtakes_its_create_is_retried_and_applied(rig: Rig, billed: str) -> None:
    account = await rig.account(billed)
    group_id = uuid4()
    line = {"description": "bed", "quantity": 1, "unit_price_minor": 5000}
    charge_id = uuid4()
    body = {"account_id": account, "charge_ids": [charge_id], "invoice_group_id": group_id}
    create = await rig.send(billed, "invoice.create", body)
    charge = {
        "charge_id": charge_id, "account_id": account, "code_system": "http://loinc.org", "code": "1-8", "quantity": 1,
        "unit_price": {"amount_minor": 5000, "currency": "AED"},
    }  # fmt: skip
    await rig.apply("invoices", 1)
    assert await rig.silent(create)
    assert (
        await rig.rows("SELECT 1 FROM inbox WHERE tenant_id = $1 AND command_id = $2", billed, create.command_id) == []
    )
    captured = await rig.send(billed, "charge.capture", charge)
    await rig.apply("charges", 1)
    await finish(rig, "invoices")
    assert (await rig.outcome(captured)).status == "applied"
    created = await rig.outcome(create)
    assert created.status == "applied" and created.result is not None
    assert created.result["documents"][0]["net_minor"] == line["unit_price_minor"]


async def test_a_reference_that_never_comes_is_refused_after_the_last_try(
    rig: Rig, billed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.answers.RETRY_FIRST_SECONDS", 0.02)
    nobody = uuid4()
    sent = await rig.send(billed, "invoice.issue", {"invoice_id": nobody})
    for _ in range(4):
        await rig.apply("invoices", 1)
        assert await rig.silent(sent)
        assert await rig.unfinished("invoices") == 1
    await rig.apply("invoices", 1)
    error = (await rig.outcome(sent)).error
    assert error is not None and error.code == Code.INVOICE_NOT_FOUND and error.details == {"invoice_id": str(nobody)}
    assert await rig.unfinished("invoices") == 0
    assert await rig.dead_letters(billed) == []


async def test_retries_for_other_reasons_do_not_use_up_the_wait_for_a_reference(
    rig: Rig, billed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage the messages of a chain come back in any order: `create` need not be in front of `issue`."""
    monkeypatch.setattr("handlers.answers.RETRY_FIRST_SECONDS", 0.02)
    account = await rig.account(billed)
    payment_id = uuid4()
    record = await rig.send(billed, "payment.record", rig.payment(account, payment_id=payment_id))
    refund = await rig.send(billed, "payment.refund", {"payment_id": payment_id, "amount_minor": 10, "reason": "asked"})
    first, second = await rig.pull("payments", 2)
    await rig.handle("payments", [again(second, 9)])
    assert await rig.silent(refund)
    await rig.handle("payments", [again(first, 9)])
    await rig.handle("payments", [again(second, 10)])
    assert [(await rig.outcome(each)).status for each in (record, refund)] == ["applied", "applied"]


# --- failures that one message causes -------------------------------------------------------------------------------------


async def owner_does(rig: Rig, *statements: str) -> None:
    connection = await asyncpg.connect(rig.database.dsn("billing_owner"))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def poison(rig: Rig) -> AsyncIterator[str]:
    """A payment reference that the database chokes on, and nobody before it."""
    await owner_does(
        rig,
        """CREATE FUNCTION choke() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.reference LIKE 'poison%' THEN RAISE data_exception; END IF; RETURN NEW; END $$""",
        "CREATE TRIGGER choke BEFORE INSERT ON payment FOR EACH ROW EXECUTE FUNCTION choke()",
    )
    yield "poison"
    await owner_does(rig, "DROP TRIGGER choke ON payment", "DROP FUNCTION choke")


@pytest.mark.parametrize("culprits", [{0}, {6}, {12}, {3, 4}, {0, 5, 12}, set(range(13))], ids=str)
async def test_what_only_postgresql_refuses_is_isolated_and_dead_lettered(
    rig: Rig, billed: str, poison: str, culprits: set[int]
) -> None:
    other = f"{billed}-b"
    rig.add_tenant(other)
    account = await rig.account(billed)
    await rig.account(other, account)
    sent = [
        await rig.send(
            billed,
            "payment.record",
            rig.payment(
                account, 100 + number, reference=f"{poison}-{number}" if number in culprits else f"ok-{number}"
            ),
        )
        for number in range(13)
    ]
    neighbour = await rig.send(other, "payment.record", rig.payment(account))
    await rig.apply("payments", 14)

    outcomes = [await rig.outcome(each) for each in sent]
    for number, outcome in enumerate(outcomes):
        assert outcome.status == ("rejected" if number in culprits else "applied")
        if number in culprits:
            assert outcome.error is not None and outcome.error.code == Code.COMMAND_FAILED
            assert poison not in outcome.model_dump_json()
    assert (await rig.outcome(neighbour)).status == "applied"
    letters = await rig.dead_letters(billed)
    assert {letter.data for letter in letters} == {sent[number].body for number in culprits}
    assert len(letters) == len(culprits)
    assert {(letter.headers or {})[headers.DLQ_CODE] for letter in letters} <= {Code.COMMAND_FAILED.value}
    # Stream order is kept: the inbox counts in it, and so does the ledger.
    order = await rig.rows(
        "SELECT stream_sequence FROM inbox WHERE tenant_id = $1 AND name = 'payment.record' ORDER BY sequence", billed
    )
    assert [row[0] for row in order] == [each.sequence for number, each in enumerate(sent) if number not in culprits]
    assert await rig.unfinished("payments") == 0


def breaks(_snapshot: Any, command: Any) -> NoReturn:
    raise ZeroDivisionError(f"a bug, which may quote a name: {command.body.reference}")


async def test_a_decide_that_raises_costs_only_its_own_command(
    rig: Rig, billed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.CAPABILITIES["payment.record"]

    def decide(snapshot: Any, command: Any) -> Any:
        return breaks(snapshot, command) if command.body.reference == "broken" else real.decide(snapshot, command)

    monkeypatch.setitem(engine.CAPABILITIES, "payment.record", Capability(real.needs, decide))
    account = await rig.account(billed)
    sent = [
        await rig.send(billed, "payment.record", rig.payment(account, reference="broken" if number == 2 else "fine"))
        for number in range(5)
    ]
    await rig.apply("payments", 5)
    outcomes = [await rig.outcome(each) for each in sent]
    assert [outcome.status for outcome in outcomes] == ["applied", "applied", "rejected", "applied", "applied"]
    error = outcomes[2].error
    assert error is not None and error.code == Code.COMMAND_FAILED and error.details == {"failure": "ZeroDivisionError"}
    (letter,) = await rig.dead_letters(billed)
    assert letter.data == sent[2].body
    assert "quote" not in str(letter.headers)
    assert (
        await rig.rows("SELECT 1 FROM inbox WHERE tenant_id = $1 AND command_id = $2", billed, sent[2].command_id) == []
    )


async def test_a_needs_that_raises_costs_only_its_own_command(
    rig: Rig, billed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.CAPABILITIES["payment.record"]

    def needs(command: Any) -> Any:
        return breaks(None, command) if command.body.reference == "broken" else real.needs(command)

    monkeypatch.setitem(engine.CAPABILITIES, "payment.record", Capability(needs, real.decide))
    account = await rig.account(billed)
    sent = [
        await rig.send(billed, "payment.record", rig.payment(account, reference="broken" if number == 1 else "fine"))
        for number in range(4)
    ]
    await rig.apply("payments", 4)
    assert [(await rig.outcome(each)).status for each in sent] == ["applied", "rejected", "applied", "applied"]
    assert [letter.data for letter in await rig.dead_letters(billed)] == [sent[1].body]


# --- the dead letter stream is away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["full", "absent"])
async def test_without_a_dead_letter_stream_the_message_is_kept(
    rig: Rig, billed: str, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr("handlers.answers.RETRY_MAX_SECONDS", 0.1)
    jetstream = rig.publisher.jetstream()
    declared = (await jetstream.stream_info("BILLING_DLQ")).config
    if trouble == "absent":
        await jetstream.delete_stream("BILLING_DLQ")
    else:
        await jetstream.update_stream(declared, max_bytes=1)
    try:
        bad = await rig.send(billed, "payment.record", b"not JSON")
        good = await rig.send(billed, "account.open", {"patient": "Patient/1", "currency": "AED"})
        await rig.apply("payments", 1)
        await rig.apply("accounts", 1)
        assert (await rig.outcome(good)).status == "applied"
        assert await rig.silent(bad)
        assert await rig.unfinished("payments") == 1
    finally:
        if trouble == "absent":
            await jetstream.add_stream(declared)
        else:
            await jetstream.update_stream(declared, max_bytes=-1)
    await rig.apply("payments", 1)  # the redelivery
    assert (await rig.outcome(bad)).status == "rejected"
    assert [letter.data for letter in await rig.dead_letters(billed)] == [b"not JSON"]
    assert await rig.unfinished("payments") == 0


# --- round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [True, False])
async def test_the_number_of_statements_does_not_depend_on_the_batch_size(rig: Rig, billed: str, reply: bool) -> None:
    counted: list[str] = []

    def connected(adapted: Any, _record: Any) -> None:
        adapted.driver_connection.add_query_logger(lambda record: counted.append(record.query))

    event.listen(rig.pool._engine.sync_engine, "connect", connected)
    account = await rig.account(billed)
    await rig.send(billed, "payment.record", rig.payment(account))
    await rig.apply("payments", 1)  # asyncpg asks for the types of a connection's first statements
    found = {}
    for size in (1, 2, 50, 300):
        more = {} if reply else {headers.REPLY_TO: ""}
        for _ in range(size):
            await rig.send(billed, "payment.record", rig.payment(account), more=more)
        messages = await rig.pull("payments", size)
        counted.clear()
        await rig.handle("payments", messages)
        found[size] = len(counted)
    # begin and lock, load, save, commit; and the commit's position when somebody waits for an answer
    assert set(found.values()) == {5 if reply else 4}, counted
    assert len(await rig.payments(billed)) == 354
