"""DOMAIN rules 1 and 2: integers of minor units, and shares that sum to the whole."""

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.entities import Payment
from domain.money import INT64_MAX, extend, proportion, round_half_up, share_out
from schemas.base import EXPONENTS, MAX_AMOUNT_MINOR, Money
from tests.domain.hospital import draft, line, money, open_account, pay
from tests.domain.invariants import check_all
from tests.domain.world import World

AMOUNTS = st.integers(-(10**20), 10**20)
WEIGHTS = st.lists(st.integers(0, 10_000), min_size=1, max_size=20).filter(lambda weights: sum(weights) > 0)


# --- rule 1 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("currency", "digits"), [("JPY", 0), ("AED", 2), ("AFN", 2), ("JOD", 3), ("KWD", 3)])
def test_rule_1_exponents_differ_by_currency(currency: str, digits: int) -> None:
    assert EXPONENTS[currency] == digits


def test_rule_1_currency_codes_are_three_capitals_and_listed_once() -> None:
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in EXPONENTS)
    assert len(EXPONENTS) == 154
    assert not {"XAU", "XTS", "XXX", "XDR"} & EXPONENTS.keys()


@pytest.mark.parametrize(
    "amount", ["1.0", "1e3", '"1"', "true", "null", "0", "-1", str(MAX_AMOUNT_MINOR + 1), "9" * 4000]
)
def test_rule_1_an_amount_is_a_whole_number_in_bounds(amount: str) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate_json(f'{{"amount_minor": {amount}, "currency": "AED"}}')


@pytest.mark.parametrize("amount", [1, MAX_AMOUNT_MINOR])
def test_rule_1_the_bounds_themselves_are_amounts(amount: int) -> None:
    assert Money.model_validate_json(f'{{"amount_minor": {amount}, "currency": "AED"}}').amount_minor == amount


@pytest.mark.parametrize("currency", ["aed", "AE", "AEDD", "XXX", "", "AED ", "٣٣٣"])
def test_rule_1_a_currency_is_an_active_iso_4217_code(currency: str) -> None:
    with pytest.raises(ValidationError):
        Money(amount_minor=1, currency=currency)


def test_rule_1_one_command_of_the_largest_amounts_stays_within_int64() -> None:
    assert MAX_AMOUNT_MINOR * 1_000 < INT64_MAX


def test_rule_1_a_payment_that_rounding_lifts_beyond_the_bound_is_refused() -> None:
    world = World()
    account_id = open_account(world)
    body = {"account_id": account_id, "amount": money(MAX_AMOUNT_MINOR), "method": "cash", "cash_rounding_minor": 1}
    assert world.refused("payment.record", body).code == "amount_out_of_range"
    payment_id = pay(world, account_id, MAX_AMOUNT_MINOR)
    assert world.one(Payment, payment_id).unapplied_minor == MAX_AMOUNT_MINOR
    check_all(world)


@pytest.mark.parametrize("quantity", ["999999999.999", "1.001"])
def test_rule_1_a_total_beyond_the_bound_is_refused(quantity: str) -> None:
    world = World()
    account_id = open_account(world)
    lines = [line(MAX_AMOUNT_MINOR, quantity)]
    assert world.refused("invoice.create", {"account_id": account_id, "lines": lines}).code == "amount_out_of_range"
    charge = {
        "account_id": account_id,
        "code_system": "urn:x",
        "code": "A",
        "quantity": quantity,
        "unit_price": money(MAX_AMOUNT_MINOR),
    }
    assert world.refused("charge.capture", charge).code == "amount_out_of_range"


def test_rule_1_an_invoice_of_exactly_the_bound_can_be_issued() -> None:
    world = World()
    (invoice_id,) = draft(world, open_account(world), [line(MAX_AMOUNT_MINOR)])
    assert world.do("invoice.issue", {"invoice_id": invoice_id})["total_minor"] == MAX_AMOUNT_MINOR
    check_all(world)


@given(st.integers(0, 10**12 - 1), st.integers(0, MAX_AMOUNT_MINOR))
def test_rule_1_quantity_times_price_is_exact_before_it_is_rounded(thousandths: int, price: int) -> None:
    exact = Fraction(thousandths, 1000) * price
    assert extend(Decimal(thousandths) / 1000, price) == int(exact + Fraction(1, 2))


@pytest.mark.parametrize(("value", "rounded"), [("0.5", 1), ("1.5", 2), ("2.5", 3), ("2.4999", 2), ("-0.5", -1)])
def test_rule_1_halves_round_away_from_zero_not_to_even(value: str, rounded: int) -> None:
    assert round_half_up(Decimal(value)) == rounded


# --- rule 2 -----------------------------------------------------------------------------------------------------------


@given(AMOUNTS, WEIGHTS)
def test_rule_2_shares_sum_to_the_total_whatever_its_sign(total: int, weights: list[int]) -> None:
    assert sum(share_out(total, weights)) == total


@given(AMOUNTS, WEIGHTS)
def test_rule_2_each_share_is_within_one_unit_of_the_exact_one(total: int, weights: list[int]) -> None:
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert all(abs(part - fair) < 1 for part, fair in zip(share_out(total, weights), exact, strict=True))


@given(AMOUNTS, WEIGHTS)
def test_rule_2_no_share_takes_a_unit_from_one_with_a_larger_remainder(total: int, weights: list[int]) -> None:
    """The definition of the method: who was rounded up had at least the remainder of anybody who was not."""
    magnitude = abs(total)
    whole = sum(weights)
    parts = [abs(part) for part in share_out(total, weights)]
    floors = [magnitude * weight // whole for weight in weights]
    remainders = [magnitude * weight % whole for weight in weights]
    up = [(remainders[i], -i) for i in range(len(weights)) if parts[i] > floors[i]]
    down = [(remainders[i], -i) for i in range(len(weights)) if parts[i] == floors[i]]
    assert not up or not down or min(up) > max(down)


@given(AMOUNTS, WEIGHTS)
def test_rule_2_a_larger_weight_never_gets_less_and_zero_gets_nothing(total: int, weights: list[int]) -> None:
    pairs = sorted(zip(weights, (abs(part) for part in share_out(total, weights)), strict=True))
    assert all(one[1] <= other[1] for one, other in pairwise(pairs) if one[0] < other[0])
    assert all(part == 0 for weight, part in pairs if weight == 0)


@given(AMOUNTS, WEIGHTS)
def test_rule_2_a_negative_total_is_the_mirror_of_the_positive(total: int, weights: list[int]) -> None:
    assert share_out(-total, weights) == [-part for part in share_out(total, weights)]


def test_rule_2_known_shares() -> None:
    assert share_out(100, [1, 1, 1]) == [34, 33, 33]
    assert share_out(-100, [1, 1, 1]) == [-34, -33, -33]
    assert share_out(1, [3333, 3334, 3333]) == [0, 1, 0]
    assert share_out(0, [1, 2]) == [0, 0]


@pytest.mark.parametrize("weights", [[], [0], [0, 0], [3, -1]])
def test_rule_2_shares_need_weights(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        share_out(100, weights)


@given(st.integers(1, 10**6), st.lists(st.integers(1, 9_999), min_size=1, max_size=5, unique=True))
def test_rule_2_the_documents_of_an_invoice_share_every_line_exactly(price: int, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 10_000]
    parties = [
        {"party_id": f"p{index}", "kind": "relative", "share_basis_points": high - low}
        for index, (low, high) in enumerate(pairwise(edges))
    ]
    world = World()
    result = world.do(
        "invoice.create", {"account_id": open_account(world, parties), "lines": [line(price), line(price * 3)]}
    )
    assert sum(document["net_minor"] for document in result["documents"]) == price * 4


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_proportion_rounds_half_up(part: int, whole: int, of: int) -> None:
    expected = int(Fraction(of * part, whole) + Fraction(1, 2)) if whole else 0
    assert proportion(part, whole, of) == expected
