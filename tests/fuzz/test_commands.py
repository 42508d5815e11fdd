"""Whatever is published as a command is a command or a dead letter that can be kept, said and audited."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from adapters.nats.topology import COMMANDS_STREAM, REPLAY_STREAM
from handlers.answers import dead_letter_headers, outcome
from handlers.inbound import Inbound, Malformed, decode, payload_hash
from handlers.queries import decode as decode_query
from schemas import headers
from schemas.codes import Code
from schemas.outcome import Problem
from schemas.registry import COMMANDS, QUERIES
from schemas.subjects import Address, parse
from schemas.wire_headers import encode_headers
from tests.domain.bodies import BODIES
from tests.domain.world import wire_body
from tests.fuzz.mangling import NASTY_TEXTS, examples, json_bytes, message

ID = "0b9d1c1e-6d0a-4f7a-9f5e-2b8f0c1d2e3f"
VALID = {name: orjson.loads(wire_body(body)) for name, body in BODIES.items()}
REPLAYED = {
    headers.REPLAY_ID: "run-1",
    headers.REPLAY_STREAM: COMMANDS_STREAM,
    headers.REPLAY_SEQUENCE: "3",
    headers.REPLAY_RECORDED_AT: "2025-11-20T10:00:00.000000+00:00",
}
HEADERS = {
    headers.MESSAGE_ID: ID,
    headers.REPLY_TO: "_INBOX.a.b",
    headers.ACTOR: "till-7",
    headers.CORRELATION_ID: "c-1",
    headers.TRACEPARENT: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    **REPLAYED,
}
header_values = st.one_of(
    st.sampled_from(NASTY_TEXTS), st.text(max_size=40), st.sampled_from(sorted(HEADERS.values())), st.just(f"{ID}:9")
)


@st.composite
def some_headers(draw: st.DrawFn) -> dict[str, str] | None:
    found = dict(HEADERS)
    for name in draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=3)):
        if draw(st.booleans()):
            found[name] = draw(header_values)
        else:
            found.pop(name, None)
    found |= draw(st.dictionaries(st.text(max_size=12), header_values, max_size=2))
    return draw(st.sampled_from((found, found, found, None, {})))


subjects = st.one_of(
    st.sampled_from(sorted(VALID)).map(lambda name: f"billing.v1.cmd.clinic.{name}"),
    st.sampled_from(sorted(VALID)).map(lambda name: f"billing.v1.replay.payments.clinic.{name}"),
    st.text(max_size=40),
    st.tuples(st.text(max_size=8), st.text(max_size=8)).map(lambda parts: f"billing.v1.cmd.{parts[0]}.{parts[1]}.x"),
)


@examples(300)
@given(subjects, json_bytes(*VALID.values()), some_headers(), st.sampled_from((COMMANDS_STREAM, REPLAY_STREAM)))
def test_any_message_is_a_command_or_a_dead_letter(
    subject: str, data: bytes, fields: dict[str, str] | None, stream: str
) -> None:
    sent = message(subject, data, fields, stream=stream)
    found = decode(sent)
    if isinstance(found, Inbound):
        assert COMMANDS[found.name].payload is type(found.body)
        assert parse(subject) == (found.tenant_id, found.name)
        return
    assert not found.problem.retryable
    orjson.dumps(found.problem.model_dump(mode="json"))
    kept = dead_letter_headers(sent, found.delivery, "payments", found.problem)
    encode_headers(kept)
    assert kept[headers.DLQ_CODE] == found.problem.code and len(kept[headers.DLQ_REASON].encode()) < 16_384


@examples(200)
@given(st.data())
def test_a_sound_command_survives_the_wire_and_its_hash_is_its_meaning(data: st.DataObject) -> None:
    """The hash is made of what one JSON parser reads, the command of what another does: they must not differ."""
    name = data.draw(st.sampled_from(sorted(VALID)))
    text = data.draw(json_bytes(VALID[name]))
    found = decode(message(f"billing.v1.cmd.clinic.{name}", text, {headers.MESSAGE_ID: ID}))
    if isinstance(found, Malformed):
        return
    canonical = orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
    again = decode(message(f"billing.v1.cmd.clinic.{name}", canonical, {headers.MESSAGE_ID: ID}))
    assert isinstance(again, Inbound)
    assert (again.body, again.payload_hash) == (found.body, found.payload_hash)
    assert COMMANDS[name].payload.model_validate_json(found.body.model_dump_json(exclude_unset=True)) == found.body
    assert payload_hash(name, text) == found.payload_hash


QUERY = {
    "account_id": ID,
    "cursor": "WyJhIl0",
    "limit": 10,
    "at_least": "0/16B3748",
    "tenant_id": "clinic",
    "period": "2026-10",
    "as_of": "2026-11-01",
}


@examples(300)
@given(st.sampled_from(sorted(QUERIES)), json_bytes(QUERY, {}, {"account_id": ID}, {"limit": 1}))
def test_any_query_is_a_query_or_a_refusal(name: str, text: bytes) -> None:
    found = decode_query(Address("clinic", name), text)
    if isinstance(found, Problem):
        assert found.code in (Code.MALFORMED_COMMAND, Code.TENANT_MISMATCH)
        orjson.dumps(found.model_dump(mode="json"))
    else:
        assert found.tenant_id in (None, "clinic")


@examples(200)
@given(st.text(max_size=80) | st.sampled_from(NASTY_TEXTS))
def test_a_message_id_is_a_command_id_only_in_its_own_spelling(text: str) -> None:
    for given_id in (text, f"{ID}:{text}", f"{ID}{text}"):
        found = headers.command_id(given_id)
        assert found is None or given_id.split(":")[0] == str(found)


@examples(200)
@given(
    st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=4),
    st.sampled_from(["rejected", "applied"]),
)
def test_an_outcome_is_json_whatever_it_carries(details: dict[str, str], status: str) -> None:
    from domain.engine import Verdict

    error = orjson.dumps({"code": "x", "details": details}).decode()
    said = orjson.loads(outcome(None, Verdict(status, error=error), None))  # type: ignore[arg-type]
    assert said["error"]["details"] == details
