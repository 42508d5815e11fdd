"""Dates, periods and fiscal years in both calendars, and prices by service date."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.calendar import business_date, fiscal_year, period_bounds, period_key
from domain.entities import Charge, Invoice, Period, PriceList
from schemas.tenant import FiscalCalendar, TenantProfile
from tests.domain.bodies import NOBODY
from tests.domain.hospital import ICD, draft, invoiced, line, money, open_account, pay
from tests.domain.invariants import check_all
from tests.domain.world import DUBAI, KABUL, NOON, World, command

CALENDARS: list[FiscalCalendar] = ["gregorian", "solar_hijri"]
DAYS = st.dates(date(1900, 1, 1), date(2200, 12, 31))


@given(st.sampled_from(CALENDARS), DAYS)
def test_every_day_lies_in_the_period_it_belongs_to(calendar: FiscalCalendar, day: date) -> None:
    key = period_key(calendar, day)
    starts_on, ends_on = period_bounds(calendar, key)
    assert starts_on <= day <= ends_on and 28 <= (ends_on - starts_on).days + 1 <= 31
    assert period_key(calendar, ends_on + timedelta(days=1)) > key > period_key(calendar, starts_on - timedelta(days=1))
    assert key.startswith(f"{fiscal_year(calendar, day)}-")


@pytest.mark.parametrize(
    ("day", "key"),
    [
        (date(2026, 3, 20), "1404-12"),
        (date(2026, 3, 21), "1405-01"),  # Nawruz: 1 Hamal 1405
        (date(2025, 3, 20), "1403-12"),  # 30 Hut, 1403 being a leap year
        (date(2024, 3, 20), "1403-01"),  # after a common year Nawruz can fall on 20 March
        (date(2026, 11, 2), "1405-08"),
    ],
)
def test_solar_hijri_months(day: date, key: str) -> None:
    assert period_key("solar_hijri", day) == key


def test_the_first_six_months_have_31_days_and_the_last_depends_on_the_leap_year() -> None:
    lengths = []
    for month in range(1, 13):
        starts_on, ends_on = period_bounds("solar_hijri", f"1404-{month:02}")
        lengths.append((ends_on - starts_on).days + 1)
    assert lengths == [31] * 6 + [30] * 5 + [29]
    assert period_bounds("solar_hijri", "1403-12")[1] == date(2025, 3, 20)


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("key", ["0000-01", "9999-12"])
def test_a_month_that_the_calendar_does_not_have_is_refused_by_name(calendar: FiscalCalendar, key: str) -> None:
    world = World(DUBAI.model_copy(update={"fiscal_calendar": calendar}))
    for name in ("period.open", "period.close"):
        assert world.refused(name, {"period": key}).details == {"period": key}


def test_the_business_date_is_that_of_the_tenants_wall_calendar() -> None:
    evening = datetime(2026, 3, 20, 19, 30, tzinfo=UTC)
    assert business_date(DUBAI, evening) == date(2026, 3, 20)
    assert business_date(KABUL, evening) == date(2026, 3, 21)


@pytest.mark.parametrize("day", ["0001-01-01", "0622-03-21", "1899-12-31", "2200-01-01", "9999-12-31"])
def test_a_date_beyond_both_calendars_never_reaches_the_domain(day: str) -> None:
    body = {"account_id": NOBODY, "lines": [line(100)], "invoice_date": day}
    with pytest.raises(ValidationError, match="invoice_date"):
        command("invoice.create", body, command_id=1)


@pytest.mark.parametrize("tenant", [DUBAI, KABUL])
@pytest.mark.parametrize("day", ["1900-01-01", "2199-12-31"])
def test_a_date_at_the_edge_is_like_any_other(tenant: TenantProfile, day: str) -> None:
    world = World(tenant)
    account_id = open_account(world)
    (invoice_id,) = draft(world, account_id, [line(100)], invoice_date=day)
    world.do("invoice.issue", {"invoice_id": invoice_id})
    pay(world, account_id, 100, (invoice_id, 100), received_on=day)
    assert len({row.period for row in world.all(Invoice)}) == 1
    check_all(world)


# --- periods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "key"), [(World(), "2026-11"), (World(KABUL), "1405-08")])
def test_nothing_is_posted_into_a_closed_period_until_it_is_open_again(world: World, key: str) -> None:
    account_id = open_account(world)
    (draft_id,) = draft(world, account_id, [line(100)])
    assert world.refused("period.close", {"period": key}).details == {
        "period": key,
        "drafts": 1,
        "first": str(draft_id),
    }
    world.do("invoice.issue", {"invoice_id": draft_id})
    result = world.do("period.close", {"period": key})
    assert result["starts_on"] <= str(NOON.date()) <= result["ends_on"]
    currency = {"account_id": account_id, "amount": money(100), "method": "cash"}
    assert world.refused("payment.record", currency).code == "period_closed"
    assert world.refused("invoice.create", {"account_id": account_id, "lines": [line(1)]}).code == "period_closed"
    world.do("period.reopen", {"period": key, "reason": "late invoice"})
    world.do("payment.record", currency)
    check_all(world)


def test_a_draft_dated_in_another_month_does_not_hold_a_period_open() -> None:
    world = World()
    draft(world, open_account(world), [line(100)], invoice_date=date(2026, 10, 31))
    world.do("period.close", {"period": "2026-11"})
    assert world.refused("period.close", {"period": "2026-10"}).code == "period_has_drafts"


def test_a_period_closes_in_the_batch_that_issued_its_last_draft_and_refuses_what_comes_behind() -> None:
    world = World()
    account_id = open_account(world)
    (draft_id,) = draft(world, account_id, [line(100)])
    batch = [
        world.command("period.close", {"period": "2026-11"}),
        world.command("invoice.issue", {"invoice_id": draft_id}),
        world.command("period.close", {"period": "2026-11"}),
        world.command("payment.record", {"account_id": account_id, "amount": money(100), "method": "bank"}),
        world.command("period.reopen", {"period": "2026-11", "reason": "late"}),
        world.command("payment.record", {"account_id": account_id, "amount": money(100), "method": "bank"}),
    ]
    verdicts = [verdict.status for verdict in world.run(batch)]
    assert verdicts == ["rejected", "applied", "applied", "rejected", "applied", "applied"]
    check_all(world)


def test_the_refusal_to_close_names_the_same_draft_however_rows_are_loaded() -> None:
    errors = set()
    for seed in range(8):
        world = World(seed=seed)
        account_id = open_account(world)
        for _ in range(4):
            draft(world, account_id, [line(100)])
        (verdict,) = world.run([world.command("period.close", {"period": "2026-11"})])
        errors.add(verdict.error)
    assert len(errors) == 1


def test_a_backdated_document_counts_in_the_period_it_is_dated_in() -> None:
    world = World()
    account_id = open_account(world)
    world.do("period.close", {"period": "2026-10"})
    backdated = {"account_id": account_id, "amount": money(1), "method": "cash", "received_on": "2026-10-31"}
    assert world.refused("payment.record", backdated).details == {"period": "2026-10"}
    payment_id = pay(world, account_id, 100, received_on=date(2026, 11, 1))
    refund = {"payment_id": payment_id, "amount_minor": 1, "reason": "x", "refunded_on": "2026-10-31"}
    assert world.refused("payment.refund", refund).details == {"period": "2026-10"}
    adjust = {"debit_code": "1000", "credit_code": "4900", "amount": money(1), "reason": "x"}
    assert world.refused("ledger.adjust", {**adjust, "effective_on": "2026-10-31"}).details == {"period": "2026-10"}
    world.do("ledger.adjust", adjust)
    invoiced(world, account_id, 100)
    assert [row.status for row in world.all(Period)] == ["closed"]


# --- prices -----------------------------------------------------------------------------------------------------------


def publish(world: World, effective_from: str, price: int) -> int:
    body = {
        "price_list": "main",
        "currency": "AED",
        "effective_from": effective_from,
        "prices": [{"code": "A00", "unit_price_minor": price, "revenue_code": "4200", "tax_category": "standard"}],
    }
    version: int = world.do("pricelist.publish", body)["version"]
    return version


def test_the_price_in_effect_on_the_service_date_applies() -> None:
    world = World()
    account_id = open_account(world)
    assert [publish(world, *one) for one in (("2026-06-01", 200), ("2026-01-01", 100), ("2026-06-01", 250))] == [
        1,
        2,
        3,
    ]
    charge = {"account_id": account_id, "code_system": ICD, "code": "A00", "quantity": "1.5", "price_list": "main"}
    for service_date, net in (("2026-01-01", 150), ("2026-05-31", 150), ("2026-06-01", 375), ("2026-11-02", 375)):
        assert world.do("charge.capture", {**charge, "service_date": service_date})["net_minor"] == net
    early = world.refused("charge.capture", {**charge, "service_date": "2025-12-31"})
    assert early.code == "price_not_found"
    assert {(row.revenue_code, row.tax_category) for row in world.all(Charge)} == {("4200", "standard")}


def test_versions_are_counted_within_a_batch_too() -> None:
    world = World()
    body = {
        "price_list": "main",
        "currency": "AED",
        "effective_from": "2026-01-01",
        "prices": [{"code": "A00", "unit_price_minor": 1}],
    }
    world.run([world.command("pricelist.publish", body) for _ in range(3)])
    world.run([command("pricelist.publish", {**body, "price_list": "other"}, command_id=90)])
    assert sorted((row.price_list, row.version) for row in world.all(PriceList)) == [
        ("main", 1),
        ("main", 2),
        ("main", 3),
        ("other", 1),
    ]
