"""DOMAIN rules 12 and 15 on the ledger: balances at a date, and a chain that shows every edit."""

from collections import defaultdict
from datetime import date, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.chart import RECEIVABLE
from domain.entities import Allocation, Invoice, LedgerAccount, Transfer
from domain.ledger import GENESIS, transfer_hash
from tests.domain.hospital import invoiced, money, open_account, pay
from tests.domain.invariants import chain_is_sound, check_all
from tests.domain.world import NOON, World, uid

DAY_ZERO = NOON.date() - timedelta(days=30)

# --- rule 12 ----------------------------------------------------------------------------------------------------------


def balances_at(world: World, day: date) -> dict[UUID, int]:
    """Net debit per ledger account of the postings effective on or before a day."""
    found: dict[UUID, int] = defaultdict(int)
    for row in world.all(Transfer):
        if row.effective_on <= day:
            found[row.debit_account_id] += row.amount_minor
            found[row.credit_account_id] -= row.amount_minor
    return {key: amount for key, amount in found.items() if amount}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 100)), min_size=1, max_size=5))
def test_rule_12_the_balance_at_a_date_is_the_sum_of_postings_effective_by_then(steps: list[Any]) -> None:
    """`steps`: (day of invoice, day of payment, part of the invoice that is paid)."""
    world = World()
    account_id = open_account(world)
    for invoice_day, payment_day, paid in steps:
        invoice_id = invoiced(world, account_id, 100, invoice_date=DAY_ZERO + timedelta(days=invoice_day))
        pay(world, account_id, 100, (invoice_id, paid), received_on=DAY_ZERO + timedelta(days=payment_day))
    code_of = {row.id: row.code for row in world.all(LedgerAccount)}
    for offset in range(-1, 32):
        day = DAY_ZERO + timedelta(days=offset)
        found = balances_at(world, day)
        assert sum(found.values()) == 0
        owed = sum(row.total_minor for row in world.all(Invoice) if row.invoice_date <= day)
        owed -= sum(row.amount_minor for row in world.all(Allocation) if row.effective_on <= day)
        assert sum(amount for key, amount in found.items() if code_of[key] == RECEIVABLE) == owed


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 100)), max_size=5))
def test_rule_12_the_running_balance_is_the_balance_now(steps: list[tuple[int, int]]) -> None:
    world = World()
    account_id = open_account(world)
    for offset, amount in steps:
        pay(world, account_id, amount, received_on=DAY_ZERO + timedelta(days=offset))
    running = {row.id: row.debits_minor - row.credits_minor for row in world.all(LedgerAccount)}
    assert balances_at(world, NOON.date()) == running


def test_rule_12_effective_and_recorded_dates_are_both_kept() -> None:
    world = World()
    pay(world, open_account(world), 100, received_on=date(2026, 10, 1))
    (row,) = world.all(Transfer)
    assert (row.effective_on, row.recorded_at.date()) == (date(2026, 10, 1), NOON.date())


# --- the chain --------------------------------------------------------------------------------------------------------


def busy_world() -> World:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    payment_id = pay(world, account_id, 130, (invoice_id, 100))
    world.do("payment.reverse", {"payment_id": payment_id, "reason": "bounced"})
    body = {"debit_code": "1000", "credit_code": "4900", "amount": money(5), "reason": "count"}
    world.do("ledger.adjust", body)
    check_all(world)
    return world


EDITS: dict[str, Any] = {
    "sequence": 99,
    "id": uid(99),
    "debit_account_id": uid(99),
    "credit_account_id": uid(99),
    "amount_minor": 99,
    "currency": "AFN",
    "kind": "paymen",
    "document_id": uid(99),
    "reverses_document_id": uid(99),
    "effective_on": date(2026, 1, 1),
    "recorded_at": NOON + timedelta(microseconds=1),
    "command_id": uid(99),
    "event_sequence": 99,
    "hash_version": 2,
    "hash": b"\x00" * 32,
}


def test_every_field_of_a_ledger_row_has_an_edit_below() -> None:
    assert EDITS.keys() == set(Transfer._fields)


@pytest.mark.parametrize("field", EDITS)
@pytest.mark.parametrize("sequence", range(1, 7))
def test_rule_15_any_edit_of_any_field_breaks_the_chain(field: str, sequence: int) -> None:
    world = busy_world()
    row = world.one(Transfer, sequence)
    world.tables[Transfer][sequence] = row._replace(**{field: EDITS[field]})
    assert world.tables[Transfer][sequence] != row
    assert not chain_is_sound(world)


@pytest.mark.parametrize("sequence", range(1, 7))
def test_rule_15_a_missing_row_breaks_the_chain_even_if_it_is_the_last(sequence: int) -> None:
    world = busy_world()
    assert len(world.all(Transfer)) == 6
    del world.tables[Transfer][sequence]
    assert not chain_is_sound(world)


def test_rule_15_rows_in_another_order_break_the_chain() -> None:
    world = busy_world()
    first, second = world.one(Transfer, 1), world.one(Transfer, 2)
    world.tables[Transfer] |= {1: second._replace(sequence=1), 2: first._replace(sequence=2)}
    assert not chain_is_sound(world)


def test_rule_15_a_chain_is_its_tenants_own() -> None:
    world = busy_world()
    world.tenant = world.tenant.model_copy(update={"tenant_id": "other"})
    assert not chain_is_sound(world)


def test_the_canonical_form_of_version_1_is_what_the_documents_say() -> None:
    """Spelled out again: a verifier in another language has nothing but this form to go by."""
    row = Transfer(
        sequence=7,
        id=uid(1),
        debit_account_id=uid(2),
        credit_account_id=uid(3),
        amount_minor=125_000,
        currency="AED",
        kind="payment",
        document_id=uid(4),
        reverses_document_id=None,
        effective_on=date(2026, 11, 1),
        recorded_at=NOON.replace(microsecond=999_999),
        command_id=uid(5),
        event_sequence=9,
        hash_version=1,
        hash=b"",
    )
    micros = 1_793_620_800_999_999
    canonical = f"1|dubai|7|{uid(1)}|{uid(2)}|{uid(3)}|125000|AED|payment|{uid(4)}||2026-11-01|{micros}|{uid(5)}|9"
    assert transfer_hash(GENESIS, "dubai", row) == sha256(bytes(32) + canonical.encode()).digest()


# --- adjustments ------------------------------------------------------------------------------------------------------


def test_an_adjustment_may_use_an_account_defined_in_the_same_batch() -> None:
    world = World()
    define = world.command("ledger.define_account", {"code": "5300", "name": "Breakage", "kind": "expense"})
    body = {"debit_code": "5300", "credit_code": "1000", "amount": money(5), "reason": "till was short"}
    adjust = world.command("ledger.adjust", body)
    assert [verdict.status for verdict in world.run([adjust, define])] == ["rejected", "applied"]
    assert world.do("ledger.adjust", body)["effective_on"] == "2026-11-02"
    check_all(world)
