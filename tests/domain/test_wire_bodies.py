"""What a body may hold: bounds, text, closed objects, and that no example of a refusal gets as far as the domain."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.entities import Account, Charge, CreditNote, Refund
from domain.money import INT64_MAX
from schemas.base import MAX_AMOUNT_MINOR
from schemas.registry import COMMANDS, EVENTS
from tests.domain.bodies import BODIES
from tests.domain.hospital import ICD, draft, invoiced, line, money, open_account, pay
from tests.domain.invariants import check_all, check_contracts
from tests.domain.scene import build_scene
from tests.domain.world import DUBAI, World, wire_body

EDGES = [2**31, 2**53 + 1, INT64_MAX, INT64_MAX + 1, -(2**63), 2**64, 10**100]
RIGHT_TO_LEFT = ["علی‌رضا", "د کندهار روغتون", "مريم\u200f (1)", "👩‍⚕️"]
CONTROLS = ["\x00", "a\x00b", "a\x1fb", "a\x7fb", "\r\nNats-Msg-Id: forged", "\x85", "\u202eabc\u202c", "\u2067x"]


def parse(name: str, body: Any) -> Any:
    return COMMANDS[name].payload.model_validate_json(body if isinstance(body, bytes) else wire_body(body))


def refuses(name: str, body: Any) -> None:
    with pytest.raises(ValidationError):
        parse(name, body)


def test_every_command_has_a_smallest_body_here() -> None:
    assert BODIES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_bodies_are_closed_and_typed(name: str) -> None:
    body = BODIES[name]
    parse(name, body)
    parse(name, {**body, "tenant_id": "dubai"})
    refuses(name, {**body, "unknown": 1})
    refuses(name, {**body, "tenant_id": "a.b"})
    refuses(name, [body])
    for junk in (b"", b"null", b"{", b"\xff", b'"x"', b"[" * 10_000):
        refuses(name, junk)


def _leaves(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(body, dict):
        return [leaf for key, value in body.items() for leaf in _leaves(value, (*path, key))]
    if isinstance(body, list):
        return [leaf for index, value in enumerate(body) for leaf in _leaves(value, (*path, index))]
    return [path]


def _with(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = orjson.loads(wire_body(body))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


LEAVES = [(name, path) for name, body in BODIES.items() for path in _leaves(body)]


@pytest.mark.parametrize(("name", "path"), LEAVES, ids=[f"{n}-{'.'.join(map(str, p))}" for n, p in LEAVES])
def test_no_field_takes_a_value_of_another_kind(name: str, path: tuple[Any, ...]) -> None:
    wrong: list[Any] = [1.5, True, {}, [], -1]
    for value in wrong:
        refuses(name, _with(BODIES[name], path, value))


AMOUNT_FIELDS = [(name, path) for name, path in LEAVES if str(path[-1]).endswith("_minor")]


@pytest.mark.parametrize(("name", "path"), AMOUNT_FIELDS, ids=[name for name, _ in AMOUNT_FIELDS])
def test_amounts_beyond_the_bound_never_get_in(name: str, path: tuple[Any, ...]) -> None:
    parse(name, _with(BODIES[name], path, MAX_AMOUNT_MINOR))
    refuses(name, _with(BODIES[name], path, MAX_AMOUNT_MINOR + 1))
    for edge in EDGES:
        raw = wire_body(_with(BODIES[name], path, 987_654_321)).replace(b"987654321", str(edge).encode())
        if not 0 <= edge <= MAX_AMOUNT_MINOR:
            refuses(name, raw)
    for text in (b"1e2", b"1.0", b"NaN", b"Infinity", b"-0.0", b'"5"'):
        refuses(name, wire_body(_with(BODIES[name], path, 987_654_321)).replace(b"987654321", text))


@pytest.mark.parametrize(
    "quantity", [0, -1, 1.5, "0", "0.000", "1.0001", "1e3", "-1", "+1", " 1", "٣", "NaN", 10**9, "", True]
)
def test_a_quantity_is_a_decimal_string_or_a_whole_number(quantity: Any) -> None:
    refuses("charge.capture", {**BODIES["charge.capture"], "quantity": quantity})


@pytest.mark.parametrize("quantity", [1, "1", "1.5", "0.001", "999999999.999", "007"])
def test_a_quantity_keeps_what_was_meant(quantity: Any) -> None:
    body = parse("charge.capture", {**BODIES["charge.capture"], "quantity": quantity})
    assert str(body.quantity) == str(quantity).lstrip("0") or str(body.quantity) == str(quantity)


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", CONTROLS)
def test_control_characters_are_refused_in_every_text(text: str) -> None:
    refuses("account.open", {**BODIES["account.open"], "guarantor": text})
    refuses("invoice.create", {**BODIES["invoice.create"], "lines": [line(1, description=text)]})
    if text != "\r\nNats-Msg-Id: forged":
        refuses("invoice.void", {**BODIES["invoice.void"], "reason": text})


@pytest.mark.parametrize("text", ["", "a" * 201])
def test_names_are_bounded(text: str) -> None:
    refuses("account.open", {**BODIES["account.open"], "guarantor": text})
    parse("account.open", {**BODIES["account.open"], "guarantor": "é" * 200})


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\udfff", rb"\udc00\ud800"])
def test_lone_surrogates_are_not_json(escape: bytes) -> None:
    refuses("account.open", wire_body({**BODIES["account.open"], "guarantor": "@@"}).replace(b"@@", escape))
    refuses("account.open", wire_body({**BODIES["account.open"], "guarantor": "@@"}).replace(b"@@", b"\xed\xa0\x80"))


@pytest.mark.parametrize("text", RIGHT_TO_LEFT)
def test_joiners_and_direction_marks_survive_to_the_row_unchanged(text: str) -> None:
    """ZWNJ is spelling in Dari and Pashto; direction marks are how mixed names are written. Nothing is normalised."""
    world = World()
    account_id = open_account(world, guarantor=text)
    assert world.one(Account, account_id).guarantor == text
    (invoice_id,) = draft(world, account_id, [line(100, description=text)])
    world.do("invoice.issue", {"invoice_id": invoice_id})
    note = world.do("credit_note.issue", {"invoice_id": invoice_id, "reason": text})
    assert world.one(CreditNote, note["credit_note_id"]).reason == text


REFUSED = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


@given(st.text(min_size=1, max_size=200).filter(lambda text: not any(ord(one) in REFUSED for one in text)))
def test_any_other_text_is_stored_as_it_came(text: str) -> None:
    world = World()
    payment_id = pay(world, open_account(world, guarantor=text), 100)
    world.do("payment.refund", {"payment_id": payment_id, "amount_minor": 1, "reason": text})
    assert (world.all(Account)[0].guarantor, world.all(Refund)[0].reason) == (text, text)
    check_all(world)


@pytest.mark.parametrize("text", ["Ａ", "a b", "a|b", "..", "-a", "a\n", "é", "a" * 65, "a\u200c", ""])
def test_codes_and_references_are_plain_ascii(text: str) -> None:
    """Nothing that could hide in a ledger's canonical form, a subject or a header."""
    charge = {"account_id": BODIES["account.close"]["account_id"], "code_system": ICD, "quantity": 1}
    refuses("charge.capture", {**charge, "unit_price": money(1), "code": text})
    refuses("payment.record", {**BODIES["payment.record"], "reference": text})
    if text not in ("..", "-a"):  # which a FHIR id may be (FHIR R4, datatype id)
        refuses("account.open", {**BODIES["account.open"], "patient": f"Patient/{text}"})
    refuses("ledger.define_account", {**BODIES["ledger.define_account"], "code": text})


# --- what goes out ----------------------------------------------------------------------------------------------------


def test_everything_a_busy_hospital_sends_is_what_the_registry_says() -> None:
    check_contracts(build_scene().world)


def test_a_reversal_declares_that_it_may_open_an_account_again() -> None:
    assert "account.updated" in COMMANDS["payment.reverse"].events


def test_every_event_in_the_registry_is_some_commands_and_every_declared_one_is_in_the_registry() -> None:
    assert {event for spec in COMMANDS.values() for event in spec.events} == EVENTS.keys()


def test_results_of_the_largest_amounts_travel() -> None:
    world = World(DUBAI)
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, MAX_AMOUNT_MINOR)
    payment_id = pay(world, account_id, MAX_AMOUNT_MINOR, (invoice_id, MAX_AMOUNT_MINOR))
    world.do("credit_note.issue", {"invoice_id": invoice_id, "reason": "all of it"})
    world.do("payment.refund", {"payment_id": payment_id, "amount_minor": MAX_AMOUNT_MINOR, "reason": "x"})
    charge = {"account_id": account_id, "code_system": ICD, "code": "A", "quantity": 1}
    world.do("charge.capture", {**charge, "unit_price": money(MAX_AMOUNT_MINOR)})
    assert world.all(Charge)[0].net_minor == MAX_AMOUNT_MINOR
    check_all(world)
    check_contracts(world)
