"""DOMAIN rule 3: tax per line, half up, by country profile, category, recipient and service date."""

from datetime import date
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import tax
from domain.entities import InvoiceLine, LedgerAccount
from domain.tax import Rate, rate_basis_points, tax_minor
from schemas.account import PartyKind
from schemas.pricelist import TaxCategory
from tests.domain.hospital import capture, draft, line, open_account, party
from tests.domain.world import DUBAI, KABUL, World

TODAY = date(2026, 11, 2)


def lines_of(world: World, invoice_id: UUID) -> list[tuple[int, int, int]]:
    rows = sorted(row for row in world.all(InvoiceLine) if row.invoice_id == invoice_id)
    return [(row.net_minor, row.tax_rate_basis_points, row.tax_minor) for row in rows]


def standard(unit_price: int, **more: Any) -> dict[str, Any]:
    return line(unit_price, tax_category="standard", **more)


@given(st.integers(0, 10**15), st.integers(0, 10_000))
def test_rule_3_tax_is_rounded_half_up(net: int, basis_points: int) -> None:
    assert tax_minor(net, basis_points) == int(Fraction(net * basis_points, 10_000) + Fraction(1, 2))


@pytest.mark.parametrize(("net", "expected"), [(9, 0), (10, 1), (29, 1), (30, 2), (50, 3), (125_000, 6_250)])
def test_rule_3_five_percent_to_the_nearest_fils(net: int, expected: int) -> None:
    assert tax_minor(net, 500) == expected


def test_rule_3_each_line_is_rounded_not_the_sum() -> None:
    world = World()
    (invoice_id,) = draft(world, open_account(world), [standard(10), standard(10), standard(10)])
    assert lines_of(world, invoice_id) == [(10, 500, 1)] * 3


RATE_TABLE: list[tuple[TaxCategory, PartyKind, date, int]] = [
    ("standard", "patient", TODAY, 500),
    ("standard", "hospital", TODAY, 500),
    ("standard", "patient", date(2018, 1, 1), 500),
    ("standard", "patient", date(2017, 12, 31), 0),
    ("zero", "hospital", TODAY, 0),
    ("exempt", "hospital", TODAY, 0),
    ("health_service", "patient", TODAY, 0),
    ("health_service", "relative", TODAY, 0),
    ("health_service", "employer", TODAY, 0),
    ("health_service", "insurer", TODAY, 0),
    ("health_service", "sponsor", TODAY, 0),
    ("health_service", "hospital", TODAY, 500),
]


@pytest.mark.parametrize(("category", "recipient", "service_date", "expected"), RATE_TABLE)
def test_rule_3_rates_in_the_emirates(
    category: TaxCategory, recipient: PartyKind, service_date: date, expected: int
) -> None:
    assert rate_basis_points(DUBAI, category, recipient, service_date) == expected


@pytest.mark.parametrize("country", ["AFG", "XYZ"])
def test_rule_3_a_profile_without_rates_charges_nothing_unless_the_tenant_says_so(country: str) -> None:
    tenant = KABUL.model_copy(update={"country_profile": country})
    assert rate_basis_points(tenant, "standard", "hospital", TODAY) == 0
    tenant = tenant.model_copy(update={"tax_override_basis_points": 200})
    assert rate_basis_points(tenant, "standard", "hospital", TODAY) == 200
    assert rate_basis_points(tenant, "exempt", "hospital", TODAY) == 0
    assert rate_basis_points(tenant, "health_service", "patient", TODAY) == 0


@pytest.mark.parametrize(("day", "expected"), [(1, 0), (9, 0), (10, 500), (19, 500), (20, 1_000), (30, 1_000)])
def test_rule_3_a_rate_is_in_effect_from_its_date_until_the_next(
    monkeypatch: pytest.MonkeyPatch, day: int, expected: int
) -> None:
    rates = (Rate(date(2026, 6, 20), 1_000), Rate(date(2026, 6, 10), 500))
    for listed in (rates, rates[::-1]):
        monkeypatch.setitem(tax.RATES, "ARE", listed)
        assert rate_basis_points(DUBAI, "standard", "patient", date(2026, 6, day)) == expected


def test_rule_3_the_service_date_decides_not_the_invoice_date() -> None:
    world = World()
    account_id = open_account(world)
    charges = [
        capture(world, account_id, 1_000, tax_category="standard", service_date=day)
        for day in (date(2017, 12, 31), date(2018, 1, 1))
    ]
    created = world.do("invoice.create", {"account_id": account_id, "charge_ids": charges})
    (document,) = created["documents"]
    assert lines_of(world, UUID(document["invoice_id"])) == [(1_000, 0, 0), (1_000, 500, 50)]


def test_rule_3_the_recipient_of_each_document_decides() -> None:
    world = World()
    account_id = open_account(world, [party("me", 5_000), party("referrer", 5_000, "hospital")])
    mine, theirs = draft(world, account_id, [line(1_001)])
    assert lines_of(world, mine) == [(501, 0, 0)]
    assert lines_of(world, theirs) == [(500, 500, 25)]


def test_rule_3_tax_goes_to_tax_payable_and_net_to_its_revenue_group() -> None:
    world = World()
    account_id = open_account(world)
    (invoice_id,) = draft(world, account_id, [standard(1_000, revenue_code="4100"), standard(500)])
    result = world.do("invoice.issue", {"invoice_id": invoice_id})
    assert (result["net_minor"], result["tax_minor"], result["total_minor"]) == (1_500, 75, 1_575)
    assert trial_balance(world) == {"1100": 1_575, "2200": -75, "4000": -500, "4100": -1_000}


def trial_balance(world: World) -> dict[str, int]:
    totals: dict[str, int] = {}
    for row in world.all(LedgerAccount):
        totals[row.code] = totals.get(row.code, 0) + row.debits_minor - row.credits_minor
    return totals
