"""Who gets a statement of an account, and whose the credit is that nobody was named for."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.chart import RECEIVABLE, UNAPPLIED_CREDIT
from domain.statement_parties import SubLedger, balances, payer, recipients
from schemas.account import Party

ACCOUNT = UUID(int=1)
PATIENT = Party(party_id="me", kind="patient", share_basis_points=4_000)
INSURER = Party(party_id="daman", kind="insurer", share_basis_points=6_000)


def row(code: str, party_id: str | None, opening: int, closing: int, moved: bool = False) -> SubLedger:
    return SubLedger(ACCOUNT, code, party_id, opening, closing, moved)


def test_the_payer_is_the_patient_among_those_who_were_billed() -> None:
    assert payer([INSURER, PATIENT], {"zed": "patient", "abe": "insurer"}) == "zed"
    assert payer([INSURER, PATIENT], {"zed": "employer", "abe": "insurer"}) == "abe"


def test_an_account_that_was_never_billed_falls_back_on_its_parties_of_now() -> None:
    assert payer([INSURER, PATIENT], {}) == "me"
    assert payer([INSURER], {}) == "daman"


def test_credit_belongs_to_who_paid_it_and_else_to_the_payer() -> None:
    found = balances(
        [
            row(RECEIVABLE, "me", 100, 250, moved=True),
            row(RECEIVABLE, "daman", 40, 40),
            row(UNAPPLIED_CREDIT, None, -30, -80),
            row(UNAPPLIED_CREDIT, "daman", 0, -5, moved=True),
        ],
        "me",
    )
    me, daman = found["me"], found["daman"]
    assert (me.opening_minor, me.closing_minor, me.unapplied_credit_minor, me.moved) == (70, 170, 80, True)
    assert (daman.opening_minor, daman.closing_minor, daman.unapplied_credit_minor, daman.moved) == (40, 35, 5, True)


@pytest.mark.parametrize(
    ("closing", "moved", "expected"),
    [(0, False, []), (0, True, ["me"]), (7, False, ["me"]), (-7, False, ["me"])],
    ids=["nothing", "activity", "balance", "credit"],
)
def test_activity_or_a_balance_makes_a_statement(closing: int, moved: bool, expected: list[str]) -> None:
    found = balances([row(RECEIVABLE, "me", closing, closing, moved)], "me")
    assert list(recipients(found, "me", named=False)) == expected


def test_an_account_asked_for_by_name_gets_a_statement_of_nothing() -> None:
    assert list(recipients({}, "me", named=True)) == ["me"]
    assert list(recipients({}, "me", named=False)) == []


@given(
    st.lists(
        st.builds(
            row,
            st.sampled_from([RECEIVABLE, UNAPPLIED_CREDIT]),
            st.sampled_from([None, "me", "daman", "wife"]),
            st.integers(-1_000, 1_000),
            st.integers(-1_000, 1_000),
            st.booleans(),
        )
    )
)
def test_no_minor_unit_is_lost_between_the_parties(rows: list[SubLedger]) -> None:
    found = balances(rows, "me")
    assert sum(each.closing_minor for each in found.values()) == sum(each.closing_minor for each in rows)
    assert sum(each.opening_minor for each in found.values()) == sum(each.opening_minor for each in rows)
    credit = -sum(each.closing_minor for each in rows if each.code == UNAPPLIED_CREDIT)
    assert sum(each.unapplied_credit_minor for each in found.values()) == credit
    chosen = recipients(found, "me", named=False)
    assert all(found[party_id].closing_minor == 0 for party_id in found if party_id not in chosen)
