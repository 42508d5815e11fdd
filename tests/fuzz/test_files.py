"""Cursors, replay files, dead letters and FHIR bundles: what cannot be read is said to be so."""

import base64
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.postgres.reads import paging
from adapters.postgres.reads.paging import Keyset
from adapters.postgres.tables import ledger_transfer, payment
from schemas import headers
from tests.fuzz.mangling import NASTY_TEXTS, cut, examples, json_bytes, mangled
from tools.fhir_import.bundles import read_bundle
from tools.fhir_import.mapping import plan_import
from tools.replay import archive
from tools.replay.errors import ReplayError
from tools.replay.messages import replayed, why_not
from tools.replay.stored import Stored, original

ID = "0b9d1c1e-6d0a-4f7a-9f5e-2b8f0c1d2e3f"
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
BY_TIME = Keyset.by_time(payment.c.recorded_at, payment.c.id)
BY_SEQUENCE = Keyset.by_sequence(ledger_transfer.c.sequence)
instants = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@examples(100)
@given(instants, st.uuids(), st.integers(0, 2**63 - 1))
def test_a_cursor_is_the_key_it_was_made_of(moment: datetime, row: UUID, sequence: int) -> None:
    assert paging.decode(paging.encode((moment, row)), BY_TIME) == (moment, row)
    assert paging.decode(paging.encode((sequence,)), BY_SEQUENCE) == (sequence,)


@examples(400)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(NASTY_TEXTS), max_size=3).map(lambda each: paging.encode(tuple(each))),
        st.binary(max_size=100).map(lambda data: base64.urlsafe_b64encode(data).decode()),
        cut(paging.encode((NOW, UUID(ID))).encode()).map(lambda data: data.decode("latin-1")),
    )
)
def test_any_cursor_is_a_key_or_none(cursor: str) -> None:
    for keyset in (BY_TIME, BY_SEQUENCE):
        found = paging.decode(cursor, keyset)
        assert found is None or paging.decode(paging.encode(found), keyset) == found


# --- replay -----------------------------------------------------------------------------------------------------------

HEADERS = {headers.MESSAGE_ID: ID, headers.ACTOR: "till"}
HEADER = {"format": archive.FORMAT, "stream": "BILLING_COMMANDS", "region": "r", "environment": "e", "exported_at": "x"}
LINE = {
    "sequence": 17,
    "subject": "billing.v1.cmd.clinic.payment.record",
    "recorded_at": "2026-11-20T10:00:00.000000+00:00",
    "headers": HEADERS,
    "data": "{}",
}


def exported(lines: list[bytes]) -> bytes:
    """A file that is whole: its last line says so, and truly."""
    text = b"".join(lines)
    digest = sha256(text).hexdigest()
    end = orjson.dumps({"end": True, "count": len(lines) - 1, "sha256": digest}) + b"\n"
    return zstandard.compress(text + end)


@settings(examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_any_file_is_an_export_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "export"
    lines = [data.draw(mangled(HEADER)) if not data.draw(st.integers(0, 5)) else HEADER]
    lines += [data.draw(mangled(LINE)) for _ in range(data.draw(st.integers(0, 2)))]
    whole = exported([orjson.dumps(line) + b"\n" for line in lines])
    path.write_bytes(data.draw(st.one_of(st.just(whole), st.just(whole), cut(whole), st.binary(max_size=50))))
    try:
        found = archive.inspect(path)
        messages = list(archive.messages(found))
    except ReplayError:
        return
    assert len(messages) == found.count
    for each in messages:
        assert each.recorded_at.tzinfo is not None and each.size >= 0
        if why_not(each) is None:
            replayed(each, "run-1", "_INBOX.a.b")


@examples(200)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                headers.DLQ_MESSAGE_ID,
                headers.DLQ_STREAM,
                headers.DLQ_SEQUENCE,
                headers.DLQ_RECORDED_AT,
                headers.DLQ_SUBJECT,
                headers.REPLAY_STREAM,
                headers.REPLAY_SEQUENCE,
                headers.REPLAY_RECORDED_AT,
                "Nats-Msg-Size",
            ]
        ),
        st.one_of(
            st.sampled_from(NASTY_TEXTS),
            st.text(max_size=20),
            st.sampled_from(["BILLING_COMMANDS", "BILLING_REPLAY", "17", "2026-11-20T10:00:00+00:00", ID]),
        ),
    )
)
def test_any_dead_letter_is_the_command_it_was_or_a_value_error(told: dict[str, str]) -> None:
    letter = Stored(1, "BILLING_DLQ", 1, "billing.v1.dlq.payments.clinic", told, b"{}", NOW)
    assert letter.size >= 0
    try:
        found = original(letter)
    except ValueError:
        return
    why_not(found)


@pytest.mark.parametrize("stated", ["9" * 5_000, "٣", "-1", "", "1e3", "12"])
def test_a_size_that_a_publisher_states_stops_nobody(stated: str) -> None:
    message = Stored(1, "BILLING_COMMANDS", 1, "x", {"Nats-Msg-Size": stated}, b"{}", NOW)
    assert message.size == (12 if stated == "12" else 2)


# --- FHIR -------------------------------------------------------------------------------------------------------------

BUNDLES: list[Any] = [
    orjson.loads(path.read_bytes())
    for path in sorted((Path(__file__).parents[2] / "tools" / "demo" / "bundles").glob("*.json"))
]


def test_there_are_bundles_to_mangle() -> None:
    planned = plan_import(read_bundle(orjson.dumps(BUNDLES[0]), "x"), "clinic")
    assert planned.steps


@examples(60)
@given(st.data())
def test_any_bundle_is_a_plan_with_remarks(data: st.DataObject) -> None:
    content = data.draw(json_bytes(*BUNDLES))
    planned = plan_import(read_bundle(content, "x"), "clinic")
    assert all(remark.source for remark in planned.unmapped)


@examples(40)
@given(st.data())
def test_any_resource_is_mapped_or_remarked_on(data: st.DataObject) -> None:
    """One resource mangled alone, so that its own fields are what changes."""
    bundle = orjson.loads(orjson.dumps(data.draw(st.sampled_from(BUNDLES))))
    at = data.draw(st.integers(0, len(bundle["entry"]) - 1))
    bundle["entry"][at]["resource"] = data.draw(mangled(bundle["entry"][at]["resource"]))
    plan_import(read_bundle(orjson.dumps(bundle), "x"), "clinic")


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"a":' * 100_000, b'{"resourceType":"Bundle","entry":' + b"[" * 50_000]
)
def test_a_bundle_nested_without_end_is_refused(text: bytes) -> None:
    loaded = read_bundle(text, "x")
    assert not loaded.resources and loaded.remarks
