"""Every outcome leaves one audit event, whoever asks again; and none of them says anything of a patient."""

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from domain import audit
from domain.admission import opted_in
from domain.entities import OutboxRow
from schemas.audit import AuditRecord
from schemas.codes import Code
from schemas.outcome import problem
from schemas.registry import COMMANDS
from tests.domain.bodies import BODIES
from tests.domain.invariants import event_headers
from tests.domain.refusals import TABLE, body_of
from tests.domain.scene import Scene, build_scene
from tests.domain.world import DUBAI, World, uid

OPEN = {"account_id": uid(0xA0), "patient": "Patient/1", "currency": "AED"}
UUID_TEXT = re.compile(r"[0-9a-f-]{36}")
CANARY = "CANARY"
# What a text field may be made of, the freest first: names and notes, references, code systems, codes, object keys.
FORMS = (f"{CANARY} of Ahmad", f"Patient/{CANARY}", f"urn:{CANARY}:x", f"{CANARY}-1", CANARY)


@pytest.fixture(scope="module")
def built() -> Scene:
    return build_scene()


def records(world: World) -> list[AuditRecord]:
    return [AuditRecord.model_validate_json(row.body) for row in world.audits]


def outcomes(world: World) -> list[tuple[str, str | None]]:
    return [(record.status, record.code) for record in records(world)]


def ids(rows: list[OutboxRow]) -> list[str]:
    return [event_headers(row)["ce-id"] for row in rows]


# --- one event per outcome ------------------------------------------------------------------------------------------------


def test_an_applied_command_is_told_with_who_what_and_which() -> None:
    world = World()
    command = world.command("account.open", OPEN, correlation_id="ward-7")._replace(
        actor="cashier-12", traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", stream_sequence=41
    )
    world.run([command])
    (row,) = world.audits
    assert (row.subject, row.stream) == ("audit.v1.billing.dubai.account.open", "audit")
    assert AuditRecord.model_validate_json(row.body) == AuditRecord(
        actor="cashier-12",
        subject="billing.v1.cmd.dubai.account.open",
        command_id=command.command_id,
        correlation_id="ward-7",
        status="applied",
        named={"account_id": uid(0xA0)},
        touched={"account": (str(uid(0xA0)),)},
        payload_sha256=command.payload_hash.hex(),
        recorded_at=command.recorded_at,
        stream_sequence=41,
        traceparent=command.traceparent,
    )
    fields = event_headers(row)
    assert fields["Nats-Msg-Id"] == fields["ce-id"]
    assert fields["ce-type"] == "audit.v1.billing.account.open"
    assert (fields["ce-source"], fields["ce-specversion"]) == ("/billing/dubai", "1.0")
    assert fields["ce-subject"] == fields["Billing-Command-Id"] == str(command.command_id)
    assert fields["ce-time"] == command.recorded_at.isoformat()


@pytest.mark.parametrize(
    ("code", "stored"),
    [
        (Code.RESIDENCY_VIOLATION, True),
        (Code.TENANT_NOT_ENTITLED, True),
        (Code.TENANT_SERVICE_UNAVAILABLE, False),
        (Code.TERMINOLOGY_UNAVAILABLE, False),
    ],
)
def test_a_refusal_is_told_whether_or_not_it_is_stored(code: Code, stored: bool) -> None:
    world = World()
    refused = world.command("account.open", OPEN, refusal=problem(code, None, tenant_region="eu-west-1"))
    world.run([refused])
    assert (len(world.verdicts), bool(world.tables)) == (1, stored)
    assert outcomes(world) == [("rejected", code)]
    assert b"eu-west-1" not in world.audits[0].body


def test_what_waits_or_fails_in_code_has_no_outcome_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    early = world.command("charge.void", {"charge_id": uid(7), "reason": "wrong"}, may_wait=True)
    assert [verdict.status for verdict in world.run([early])] == ["deferred"]
    assert outcomes(world) == []
    world.run([early._replace(may_wait=False)])
    assert outcomes(world) == [("rejected", Code.CHARGE_NOT_FOUND)]


def test_a_delivery_that_comes_again_is_no_event_and_one_that_was_sent_again_is() -> None:
    world = World()
    command = world.command("account.open", OPEN)._replace(stream_sequence=5)
    world.run([command, command])
    world.run([command])
    assert outcomes(world) == [("applied", None)]
    sent_again = command._replace(stream_sequence=9)
    world.run([sent_again])
    assert outcomes(world)[1:] == [("duplicate", None)]
    other_body = command._replace(stream_sequence=10, payload_hash=bytes(32))
    world.run([other_body])
    assert outcomes(world)[2:] == [("rejected", Code.IDEMPOTENCY_KEY_REUSED)]
    assert len(set(ids(world.audits))) == 3


def test_a_refusal_that_is_not_stored_is_told_under_the_same_id_and_its_success_under_another() -> None:
    world = World()
    away = world.command("account.open", OPEN, refusal=problem(Code.TENANT_SERVICE_UNAVAILABLE))
    world.run([away])
    world.run([away])  # a crash between commit and acknowledgement
    world.run([away._replace(refusal=None)])
    first, second, applied = ids(world.audits)
    assert first == second != applied
    assert world.audits[0] == world.audits[1]
    assert outcomes(world)[2] == ("applied", None)


def test_replaying_the_same_stream_gives_the_same_events() -> None:
    def lived() -> list[OutboxRow]:
        return build_scene().world.audits

    assert lived() == lived()


def test_everything_that_was_written_is_named(built: Scene) -> None:
    """Of every applied command: each document that its events are about. (That each command has its event: invariants.py.)"""
    touched = {
        event_headers(row)["ce-subject"]: {key for keys in orjson.loads(row.body)["touched"].values() for key in keys}
        for row in built.world.audits
        if orjson.loads(row.body)["status"] == "applied"
    }
    for event in built.world.outbox:
        fields = event_headers(event)
        # A posting is no document; and what others have named (a payout, a tenant) is text, and stays out.
        if fields["ce-type"] != "billing.v1.ledger.adjusted" and UUID_TEXT.fullmatch(fields["ce-subject"]):
            assert fields["ce-subject"] in touched[fields["Billing-Command-Id"]], fields["ce-type"]


def test_crossing_a_border_is_told() -> None:
    world = World()
    world.run([world.command("account.open", OPEN)._replace(opted_in=True)])
    assert [record.opted_in for record in records(world)] == [True]
    foreigner = DUBAI.model_copy(update={"region": "eu-west-1"})
    assert not opted_in(DUBAI, DUBAI.region)
    assert not opted_in(foreigner, DUBAI.region)  # it did not opt in: it is refused
    assert opted_in(foreigner.model_copy(update={"cross_region_opt_in": True}), DUBAI.region)
    assert not opted_in(problem(Code.TENANT_SERVICE_UNAVAILABLE), DUBAI.region)


# --- nothing of the body --------------------------------------------------------------------------------------------------


def test_no_text_of_any_command_reaches_the_audit(built: Scene) -> None:
    """Every text field of every command, applied or refused, holds a canary as long as its schema lets it."""
    world, planted = built.world.copy(), 0
    bodies = [(name, body) for name, body in BODIES.items()] + [(row.command, body_of(row, built)) for row in TABLE]
    for name, body in bodies:
        given = {key: value for key, value in body.items() if value is not None}
        canaried = with_canaries(name, orjson.loads(orjson.dumps(given, default=str)))
        planted += CANARY.encode() in orjson.dumps(canaried)
        world.run([world.command(name, canaried)])
    assert planted > len(bodies) // 2
    assert len(world.audits) > len(bodies)
    for row in world.audits:
        assert CANARY.encode() not in row.body + row.headers + row.subject.encode()
        assert b"_minor" not in row.body


def with_canaries(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """`body` with each of its texts, and each text it could have, replaced by the first form that the schema accepts."""
    model = COMMANDS[name].payload
    for field in model.model_fields:
        body.setdefault(field, None)
    for holder, key in [*_leaves(body)]:
        before = holder[key]
        for form in FORMS:
            holder[key] = form
            try:
                model.model_validate_json(orjson.dumps(_without_none(body)))
            except ValidationError:
                holder[key] = before
            else:
                break
    return {key: value for key, value in body.items() if value is not None}


def _without_none(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if value is not None}


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if child is None or isinstance(child, str):
            yield value, key
        else:
            yield from _leaves(child)


def test_a_model_can_hold_every_event_and_no_more() -> None:
    row = audit.audit_row(
        tenant_id="_", name=audit.UNKNOWN, record_id=uid(1), recorded_at=World().now, status="dead_lettered"
    )
    assert orjson.loads(row.body).keys() == AuditRecord.model_fields.keys()
