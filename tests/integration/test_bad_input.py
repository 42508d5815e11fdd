"""Bad input: every kind ends in a named refusal or a dead letter with its body, and costs its neighbours nothing."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from nats.aio.msg import Msg
from nats.js.errors import APIError, NoStreamResponseError

from schemas import headers
from schemas.codes import Code
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import Rig, Sent, publish_raw, rigged
from tools.stack import NatsServer

ACCOUNT = UUID("0b9d1c1e-6d0a-4f7a-9f5e-2b8f0c1d2e3f")
UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


@pytest.fixture
async def billed(rig: Rig, tenant: str) -> str:
    """A tenant with the open account ACCOUNT."""
    rig.add_tenant(tenant)
    await rig.account(tenant, ACCOUNT)
    return tenant


def pay(amount: str = "100", **texts: str) -> bytes:
    """A payment as JSON text, so that a case can say things that no JSON library would."""
    fields = {
        "account_id": f'"{ACCOUNT}"',
        "amount": f'{{"amount_minor": {amount}, "currency": "AED"}}',
        "method": '"bank"',
    } | texts
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}").encode()


class Bad(NamedTuple):
    """`field` is where the problem is said to be; `reply` whether the publisher can be told."""

    name: str
    body: bytes
    code: Code = Code.MALFORMED_COMMAND
    verb: str = "payment.record"
    message_id: str | None = None
    more: dict[str, str] = {}  # noqa: RUF012
    reply: bool = True
    field: str = ""


BAD = [
    Bad("not JSON", b'{"account_id": '),
    Bad("empty", b""),
    Bad("not UTF-8", b'{"reference": "\xff\xfe"}'),
    Bad("a list", b"[1, 2]"),
    Bad("null", b"null"),
    Bad("nested 300 deep", pay(reference="[" * 300 + "]" * 300)),
    Bad("nested 100,000 deep", b"[" * 100_000),
    Bad("NaN", pay("NaN")),
    Bad("infinite", pay("1e999")),
    Bad("lone surrogate", pay(reference='"\\ud800"')),
    Bad(
        "NUL in a note", b'{"payment_id": "%s", "reason": "a\\u0000b"}' % str(ACCOUNT).encode(), verb="payment.reverse"
    ),
    Bad(
        "escape in a name",
        b'{"patient": "Patient/1", "currency": "AED", "guarantor": "a\\u001bb"}',
        verb="account.open",
    ),
    Bad("wrong type", pay(method="7"), field="method"),
    Bad("text for a number", pay('"100"'), field="amount.amount_minor"),
    Bad("a float", pay("100.0"), field="amount.amount_minor"),
    Bad("a fraction", pay("0.1"), field="amount.amount_minor"),
    Bad("zero", pay("0"), field="amount.amount_minor"),
    Bad("negative", pay("-1"), field="amount.amount_minor"),
    Bad("above the largest amount", pay(str(10**15 + 1)), field="amount.amount_minor"),
    Bad("int64's largest", pay(str(2**63 - 1)), field="amount.amount_minor"),
    Bad("beyond int64", pay(str(2**63)), field="amount.amount_minor"),
    Bad("int64's smallest", pay(str(-(2**63))), field="amount.amount_minor"),
    Bad("beyond uint64", pay(str(2**70)), field="amount.amount_minor"),
    Bad("a boolean amount", pay("true"), field="amount.amount_minor"),
    Bad("unknown currency", pay(amount="0").replace(b'"AED"', b'"XXX"'), field="amount.currency"),
    Bad("unknown field", pay(favourite_colour='"red"'), field="favourite_colour"),
    Bad("missing field", b'{"method": "bank"}', field="account_id"),
    Bad("tenant of another", pay(tenant_id='"somebody-else"'), code=Code.TENANT_MISMATCH),
    Bad("tenant that is none", pay(tenant_id='"a b"'), field="tenant_id"),
    Bad("unknown verb", pay(), code=Code.UNKNOWN_COMMAND, verb="payment.steal"),
    Bad("verb in capitals", pay(), code=Code.UNKNOWN_COMMAND, verb="payment.Record"),
    Bad("no message id", pay(), code=Code.MESSAGE_ID_MISSING, message_id="", more={headers.MESSAGE_ID: ""}),
    Bad("message id no UUID", pay(), code=Code.MESSAGE_ID_MISSING, message_id="order-{random}"),
    Bad("message id in capitals", pay(), code=Code.MESSAGE_ID_MISSING, message_id="{RANDOM}"),
    Bad("empty attempt", pay(), code=Code.MESSAGE_ID_MISSING, message_id="{random}:"),
    Bad("long attempt", pay(), code=Code.MESSAGE_ID_MISSING, message_id="{random}:" + "9" * 37),
    Bad("reply to a stream", pay(), more={headers.REPLY_TO: "billing.v1.evt.x.payment.recorded"}, reply=False),
    Bad("reply to the API", pay(), more={headers.REPLY_TO: "$JS.API.STREAM.DELETE.BILLING_EVENTS"}, reply=False),
    Bad("reply to a wildcard", pay(), more={headers.REPLY_TO: "_INBOX.>"}, reply=False),
    Bad("reply to half an inbox", pay(), more={headers.REPLY_TO: "_INBOX."}, reply=False),
    Bad("reply to two words", pay(), more={headers.REPLY_TO: "_INBOX.a b"}, reply=False),
    Bad("actor of two words", pay(), more={headers.ACTOR: "a b"}),
    Bad("actor not ASCII", pay(), more={headers.ACTOR: "مدیر"}),
    Bad("actor too long", pay(), more={headers.ACTOR: "a" * 129}),
    Bad("correlation id with a tab", pay(), more={headers.CORRELATION_ID: "a\tb"}),
]


async def send_bad(rig: Rig, tenant: str, bad: Bad) -> Sent:
    random = str(uuid4())
    message_id = bad.message_id.format(random=random, RANDOM=random.upper()) if bad.message_id else None
    return await rig.send(tenant, bad.verb, bad.body, message_id=message_id, more=bad.more)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
async def test_bad_input_is_named_and_kept_and_its_neighbours_are_applied(rig: Rig, billed: str, bad: Bad) -> None:
    before = await rig.send(billed, "payment.record", pay("1"))
    sent = await send_bad(rig, billed, bad)
    after = await rig.send(billed, "payment.record", pay("2"))

    await rig.apply("payments" if bad.verb.startswith("payment") else "accounts", 1 if "account" in bad.verb else 3)
    if "account" in bad.verb:
        await rig.apply("payments", 2)

    assert [(await rig.outcome(each)).status for each in (before, after)] == ["applied", "applied"]
    assert await rig.rows("SELECT amount_minor FROM payment WHERE tenant_id = $1 ORDER BY 1", billed) == [(1,), (2,)]
    if bad.reply:
        outcome = await rig.outcome(sent)
        assert outcome.status == "rejected" and outcome.error is not None
        assert outcome.error.code == bad.code and not outcome.error.retryable
        named = [each["field"] for each in outcome.error.details.get("fields", ())]
        assert bad.field in named if bad.field else True
    (letter,) = await rig.dead_letters(billed)
    check_letter(letter, sent, bad)
    assert await rig.unfinished("payments") == 0


def check_letter(letter: Msg, sent: Sent, bad: Bad) -> None:
    """The body to the byte, why, and where it came from; nothing in it instructs the server."""
    assert letter.data == bad.body
    fields = letter.headers or {}
    assert fields[headers.DLQ_CODE] == bad.code
    assert fields[headers.DLQ_REASON]
    assert fields[headers.DLQ_SUBJECT] == f"billing.v1.cmd.{sent.tenant}.{bad.verb}"
    assert fields[headers.DLQ_SEQUENCE] == str(sent.sequence)
    assert fields[headers.DLQ_STREAM] == "BILLING_COMMANDS"
    for name, value in bad.more.items():
        if value and "\t" not in value:
            assert fields[name] == value
    if bad.message_id is None:
        assert UUID_TEXT.fullmatch(fields[headers.DLQ_MESSAGE_ID])


async def test_a_whole_batch_of_bad_input_leaves_every_good_command_applied(rig: Rig, billed: str) -> None:
    bad = [each for each in BAD if "account" not in each.verb]
    good = []
    for each in bad:
        await send_bad(rig, billed, each)
        good.append(await rig.send(billed, "payment.record", pay("5")))
    await rig.apply("payments", 2 * len(bad))
    assert {(await rig.outcome(sent)).status for sent in good} == {"applied"}
    letters = await rig.dead_letters(billed)
    assert sorted(letter.data for letter in letters) == sorted(each.body for each in bad)
    assert await rig.unfinished("payments") == 0


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0 408 Request Timeout\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0 100 \xff\xfe\xfd\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (b"garbage \xff\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0\r\nNats-Msg-Id\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0\r\nNats-Msg-Id: \xff\xfe\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (b"NATS/1.0\r\nFoo(Bar): 1\r\n\xc3\xbc: 2\r\nNats-Msg-Id: x\r\n\r\n", Code.MESSAGE_ID_MISSING),
        (
            b"NATS/1.0\r\nBilling-Actor: \x01\x7f\r\nNats-Msg-Id: %s\r\n\r\n" % str(ACCOUNT).encode(),
            Code.MALFORMED_COMMAND,
        ),
    ],
    ids=str,
)
async def test_forged_header_blocks_neither_stop_the_reader_nor_get_lost(
    rig: Rig, billed: str, nats_server: NatsServer, block: bytes, code: Code
) -> None:
    ack = await publish_raw(nats_server, "admin", f"billing.v1.cmd.{billed}.payment.record".encode(), block, pay("9"))
    good = await rig.send(billed, "payment.record", pay("1"))
    assert ack["seq"] == good.sequence - 1

    await rig.apply("payments", 2)

    assert (await rig.outcome(good)).status == "applied"
    (letter,) = await rig.dead_letters(billed)
    assert letter.data == pay("9") and letter.headers
    assert letter.headers[headers.DLQ_CODE] == code
    assert await rig.unfinished("payments") == 0


@pytest.mark.parametrize("verb", [b"\xff\xfe", b"\x01", "پرداخت".encode(), b"record*", b"x" * 900], ids=repr)
async def test_a_verb_of_any_bytes_is_an_unknown_command(
    rig: Rig, billed: str, nats_server: NatsServer, verb: bytes
) -> None:
    block = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % str(uuid4()).encode()
    subject = f"billing.v1.cmd.{billed}.payment.".encode() + verb
    assert "seq" in await publish_raw(nats_server, "admin", subject, block, pay())
    good = await rig.send(billed, "payment.record", pay("1"))
    await rig.apply("payments", 2)
    assert (await rig.outcome(good)).status == "applied"
    (letter,) = await rig.dead_letters(billed)
    assert letter.data == pay() and letter.headers
    assert letter.headers[headers.DLQ_CODE] == Code.UNKNOWN_COMMAND
    assert await rig.unfinished("payments") == 0


@pytest.mark.parametrize("tenant_token", [b"a" * 65, "کابل".encode(), b"\xff", b"a%b", b"a!"], ids=repr)
async def test_a_subject_that_names_no_tenant_is_dead_lettered_under_none(
    rig: Rig, nats_server: NatsServer, tenant_token: bytes
) -> None:
    body = pay(reference=f'"{uuid4()}"')
    subject = b"billing.v1.cmd." + tenant_token + b".payment.record"
    block = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % str(uuid4()).encode()
    assert "seq" in await publish_raw(nats_server, "admin", subject, block, body)
    await rig.apply("payments", 1)
    letters = [letter for letter in await rig.dead_letters("_") if letter.data == body]
    assert len(letters) == 1 and letters[0].headers
    assert letters[0].headers[headers.DLQ_CODE] == Code.UNKNOWN_COMMAND
    assert await rig.unfinished("payments") == 0


@pytest.mark.parametrize(
    "name", ["Nats-Rollup", "Nats-TTL", "Nats-Expected-Last-Sequence", "Nats-Expected-Stream", "Nats-Schedule-Target"]
)
async def test_headers_that_instruct_the_server_are_refused_by_it_or_never_passed_on(
    rig: Rig, billed: str, name: str
) -> None:
    """A publisher must not shorten, replace or redirect what the stream or the dead letter stream keeps."""
    value = {"Nats-Rollup": "sub", "Nats-TTL": "1s", "Nats-Expected-Last-Sequence": "999999"}.get(name, "AUDIT")
    try:
        sent = await rig.send(billed, "payment.steal", pay(), more={name: value})
    except APIError as error:
        assert error.description
        return
    await rig.apply("payments", 1)
    (letter,) = await rig.dead_letters(billed)
    assert letter.data == sent.body and letter.headers
    assert name not in letter.headers or letter.headers[name] == "BILLING_DLQ"  # ours: nats-py's expectation


@pytest.mark.parametrize("traceparent", ["bogus", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\x7f"])
async def test_a_bogus_traceparent_is_ignored(rig: Rig, billed: str, traceparent: str) -> None:
    sent = await rig.send(billed, "payment.record", pay(), more={headers.TRACEPARENT: traceparent})
    await rig.apply("payments", 1)
    assert (await rig.outcome(sent)).status == "applied"


async def test_a_second_message_id_header_does_not_give_a_command_two_effects(
    rig: Rig, billed: str, nats_server: NatsServer
) -> None:
    ids = [str(uuid4()).encode() for _ in range(2)]
    block = b"NATS/1.0\r\nNats-Msg-Id: %s\r\nNats-Msg-Id: %s\r\n\r\n" % (ids[0], ids[1])
    subject = f"billing.v1.cmd.{billed}.payment.record".encode()
    await publish_raw(nats_server, "admin", subject, block, pay())
    await rig.apply("payments", 1)
    assert len(await rig.payments(billed)) == 1


async def test_an_unknown_aggregate_is_refused_at_once(rig: Rig, tenant: str) -> None:
    with pytest.raises(NoStreamResponseError):
        await rig.send(tenant, "coffee.brew", b"{}")
    with pytest.raises(NoStreamResponseError):
        await rig.send(tenant, "", b"{}", subject=f"billing.v1.cmd.{tenant}.payment.record.now")


async def test_the_largest_body_that_the_stream_takes_can_be_dead_lettered(
    rig: Rig, billed: str, nats_server: NatsServer
) -> None:
    """Its dead letter carries more headers than it did, and must not outgrow what the server takes."""
    limit = (await rig.publisher.jetstream().stream_info("BILLING_COMMANDS")).config.max_msg_size or -1
    subject = f"billing.v1.cmd.{billed}.payment.record".encode()
    block = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % str(uuid4()).encode()
    largest = b'"%s"' % (b"x" * (limit - len(block) - 2))

    too_large = await publish_raw(nats_server, "admin", subject, block, largest + b" ")
    assert "maximum" in too_large["error"]["description"]
    assert "seq" in await publish_raw(nats_server, "admin", subject, block, largest)
    good = await rig.send(billed, "payment.record", pay())
    await rig.apply("payments", 2)

    assert (await rig.outcome(good)).status == "applied"
    (letter,) = await rig.dead_letters(billed)
    assert letter.data == largest
    assert await rig.unfinished("payments") == 0


@pytest.mark.parametrize(
    "name",
    ["نور\u200cمحمد", "مريم\u200f (1)", "e\u0301", "👩🏽\u200d⚕️", "ځ ښ ۍ", "\ufeffx", "x" * 200, "\u2028"],
    ids=lambda name: name.encode("unicode_escape").decode()[:24],
)
async def test_text_is_kept_as_it_was_sent(rig: Rig, billed: str, name: str) -> None:
    sent = await rig.send(billed, "account.open", {"patient": "Patient/2", "currency": "AFN", "guarantor": name})
    await rig.apply("accounts", 1)
    assert (await rig.outcome(sent)).status == "applied"
    assert (name,) in await rig.rows("SELECT guarantor FROM account WHERE tenant_id = $1", billed)


async def test_the_largest_amount_is_taken(rig: Rig, billed: str) -> None:
    sent = await rig.send(billed, "payment.record", pay(str(10**15)))
    await rig.apply("payments", 1)
    assert (await rig.outcome(sent)).status == "applied"
    assert await rig.rows("SELECT amount_minor FROM payment WHERE tenant_id = $1", billed) == [(10**15,)]


async def test_metrics_do_not_grow_with_made_up_names(rig: Rig, billed: str) -> None:
    from prometheus_client import generate_latest

    for _ in range(3):
        await rig.send(billed, f"payment.made-up-{uuid4()}", b"{}")
    await rig.apply("payments", 3)
    exposed: Any = generate_latest().decode()
    assert "made-up" not in exposed
    assert 'billing_dead_letters_total{code="unknown_command",group="payments"}' in exposed


async def test_a_card_number_is_not_kept(rig: Rig, billed: str) -> None:
    body = b'{"account_id": "%s", "amount": {"amount_minor": 1, "currency": "AED"}, "source": "4242424242424242"}'
    sent = await rig.send(billed, "payment.charge", body % str(ACCOUNT).encode())
    await rig.apply("payments", 1)
    outcome = await rig.outcome(sent)
    assert outcome.error is not None and "42424242" not in outcome.model_dump_json()
    (letter,) = await rig.dead_letters(billed)
    assert b"************4242" in letter.data and b"42424242" not in letter.data
    assert all("42424242" not in value for value in (letter.headers or {}).values())
