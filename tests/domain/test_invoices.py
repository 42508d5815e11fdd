"""DOMAIN rules 5, 11 and 14: settlement, legal numbers, and what an invoice's life refuses."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.entities import Account, Charge, CreditNote, DocumentSeries, InvoiceLine
from tests.domain.hospital import capture, draft, invoice, invoiced, line, open_account, party, pay, payment
from tests.domain.invariants import check_all
from tests.domain.world import DUBAI, KABUL, World

# --- rule 5 -----------------------------------------------------------------------------------------------------------

WAYS = st.sampled_from(["pay", "credit", "write_off"])


def settle_part(world: World, invoice_id: UUID, way: str, amount: int) -> None:
    if way == "pay":
        pay(world, invoice(world, invoice_id).account_id, amount, (invoice_id, amount))
    elif way == "credit":
        item = {"line_number": 1, "net_minor": amount}
        world.do("credit_note.issue", {"invoice_id": invoice_id, "reason": "wrong", "lines": [item]})
    else:
        world.do("invoice.write_off", {"invoice_id": invoice_id, "amount_minor": amount, "reason": "poor"})


@given(st.lists(st.tuples(WAYS, st.integers(1, 100)), min_size=1, max_size=6))
def test_rule_5_settled_exactly_when_paid_credited_and_written_off_reach_the_total(
    parts: list[tuple[str, int]],
) -> None:
    world = World()
    invoice_id = invoiced(world, open_account(world), sum(amount for _, amount in parts))
    for way, amount in parts:
        assert invoice(world, invoice_id).status == "issued"
        settle_part(world, invoice_id, way, amount)
    assert invoice(world, invoice_id).status == "settled"
    assert [name for name, _ in world.events()].count("invoice.settled") == 1
    check_all(world)


def test_rule_5_an_excess_is_unapplied_credit() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    payment_id = pay(world, account_id, 130, (invoice_id, 100))
    assert invoice(world, invoice_id).open_minor == 0
    assert payment(world, payment_id).unapplied_minor == 30
    check_all(world)


def test_rule_5_an_invoice_is_open_again_when_its_settlement_is_taken_back() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    payment_id = pay(world, account_id, 100, (invoice_id, 100))
    world.do("payment.unallocate", {"payment_id": payment_id, "invoice_id": invoice_id, "reason": "other invoice"})
    assert invoice(world, invoice_id).status == "issued"
    assert world.events()[-1][0] == "invoice.reopened"
    check_all(world)


# --- rule 11 ----------------------------------------------------------------------------------------------------------


def numbers(world: World) -> list[str]:
    return sorted(row.number for row in world.all(CreditNote)) + sorted(
        data["number"] for name, data in world.events() if name == "invoice.issued"
    )


@given(st.lists(st.sampled_from(["issue", "again", "missing", "void"]), max_size=20))
def test_rule_11_numbers_are_gapless_whatever_is_refused_or_voided_between(steps: list[str]) -> None:
    world = World()
    account_id = open_account(world)
    issued: list[UUID] = []
    for step in steps:
        if step == "issue":
            issued.append(invoiced(world, account_id, 100))
        elif step == "again" and issued:
            world.refused("invoice.issue", {"invoice_id": issued[-1]})
        elif step == "missing":
            world.refused("invoice.issue", {"invoice_id": account_id})
        elif step == "void" and issued and invoice(world, issued[-1]).status == "issued":
            world.do("invoice.void", {"invoice_id": issued[-1], "reason": "wrong"})
    given_numbers = [invoice(world, invoice_id).number for invoice_id in issued]
    assert given_numbers == [f"INV-2026-{index:06}" for index in range(1, len(issued) + 1)]
    check_all(world)


def test_rule_11_a_draft_has_no_number_and_a_void_draft_uses_none_up() -> None:
    world = World()
    account_id = open_account(world)
    dropped, kept = (draft(world, account_id, [line(100)])[0] for _ in range(2))
    world.do("invoice.void", {"invoice_id": dropped, "reason": "wrong"})
    assert world.do("invoice.issue", {"invoice_id": kept})["number"] == "INV-2026-000001"
    assert invoice(world, dropped).number is None


@pytest.mark.parametrize(
    ("tenant", "day", "number"),
    [
        (DUBAI, date(2025, 12, 31), "INV-2025-000001"),
        (DUBAI, date(2026, 1, 1), "INV-2026-000001"),
        (KABUL, date(2026, 3, 20), "INV-1404-000001"),
        (KABUL, date(2026, 3, 21), "INV-1405-000001"),  # 1 Hamal 1405
        (KABUL, date(2025, 3, 20), "INV-1403-000001"),  # 30 Hut of a leap year
        (KABUL, date(2025, 3, 21), "INV-1404-000001"),
    ],
)
def test_rule_11_a_series_starts_anew_each_fiscal_year_of_the_tenants_calendar(
    tenant: Any, day: date, number: str
) -> None:
    world = World(tenant)
    invoiced(world, open_account(world), 100, invoice_date=date(2023, 6, 1))
    invoice_id = invoiced(world, world.all(Account)[0].id, 100, invoice_date=day)
    assert invoice(world, invoice_id).number == number
    check_all(world)


def test_rule_11_series_are_counted_apart_per_kind_and_year() -> None:
    world = World(KABUL)
    account_id = open_account(world)
    for day in (date(2026, 3, 20), date(2026, 3, 21), date(2026, 3, 20)):
        invoice_id = invoiced(world, account_id, 100, invoice_date=day)
        world.do("credit_note.issue", {"invoice_id": invoice_id, "reason": "wrong"})
    found = {(row.series, row.fiscal_year): row.last_number for row in world.all(DocumentSeries)}
    assert found == {("INV", 1404): 2, ("INV", 1405): 1, ("CN", 1405): 3}
    assert numbers(world)[:3] == ["CN-1405-000001", "CN-1405-000002", "CN-1405-000003"]


def test_rule_11_the_day_begins_at_midnight_of_the_tenants_clock() -> None:
    """19:29 UTC is 23:59 in Kabul, where 1405 begins a minute later."""
    for minute, number in ((29, "INV-1404-000001"), (30, "INV-1405-000001")):
        world = World(KABUL, now=datetime(2026, 3, 20, 19, minute, tzinfo=UTC))
        at = world.now
        created = world.do("invoice.create", {"account_id": open_account(world), "lines": [line(100)]}, at=at)
        result = world.do("invoice.issue", {"invoice_id": created["documents"][0]["invoice_id"]}, at=at)
        assert result["number"] == number


def test_rule_11_a_batch_of_issues_numbers_them_in_its_order() -> None:
    world = World()
    account_id = open_account(world)
    drafts = [draft(world, account_id, [line(100)])[0] for _ in range(5)]
    drafts.sort(key=lambda invoice_id: invoice_id.bytes[::-1])
    world.run([world.command("invoice.issue", {"invoice_id": invoice_id}) for invoice_id in drafts])
    assert [invoice(world, invoice_id).number for invoice_id in drafts] == [f"INV-2026-{n:06}" for n in range(1, 6)]


# --- rule 14 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfinished", ["charge", "draft", "receivable", "credit"])
def test_rule_14_an_account_with_anything_left_stays_open(unfinished: str) -> None:
    world = World()
    account_id = open_account(world)
    if unfinished == "charge":
        capture(world, account_id, 100)
    elif unfinished == "draft":
        draft(world, account_id, [line(100)])
    elif unfinished == "receivable":
        invoiced(world, account_id, 100)
    else:
        pay(world, account_id, 100)
    code = "account_has_open_charges" if unfinished in ("charge", "draft") else "account_has_balance"
    assert world.refused("account.close", {"account_id": account_id}).code == code
    assert world.one(Account, account_id).status == "open"


def test_rule_14_an_account_closes_when_everything_is_square() -> None:
    world = World()
    account_id = open_account(world)
    charge_id = capture(world, account_id, 50)
    world.do("charge.void", {"charge_id": charge_id, "reason": "wrong"})
    invoice_id = invoiced(world, account_id, 100)
    payment_id = pay(world, account_id, 130, (invoice_id, 100))
    world.do("payment.refund", {"payment_id": payment_id, "amount_minor": 30, "reason": "excess"})
    assert world.do("account.close", {"account_id": account_id})["status"] == "closed"
    check_all(world)


def test_rule_14_an_account_closes_in_the_batch_that_squared_it() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    money = {"amount_minor": 100, "currency": "AED"}
    part = {"invoice_id": invoice_id, "amount_minor": 100}
    record = {"account_id": account_id, "amount": money, "method": "bank", "allocations": [part]}
    batch = [
        world.command("account.close", {"account_id": account_id}),
        world.command("payment.record", record),
        world.command("account.close", {"account_id": account_id}),
    ]
    assert [verdict.status for verdict in world.run(batch)] == ["rejected", "applied", "applied"]


def test_rule_14_an_invoice_with_payments_is_not_voided_until_they_are_taken_back() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    payment_id = pay(world, account_id, 1, (invoice_id, 1))
    void = {"invoice_id": invoice_id, "reason": "wrong"}
    assert world.refused("invoice.void", void).code == "invoice_has_payments"
    world.do("payment.reverse", {"payment_id": payment_id, "reason": "bounced"})
    result = world.do("invoice.void", void)
    assert (result["status"], result["open_minor"], result["number"]) == ("void", 0, "INV-2026-000001")
    check_all(world)


def test_a_draft_posts_nothing_so_it_can_be_dropped_whatever_periods_are_closed() -> None:
    world = World()
    (draft_id,) = draft(world, open_account(world), [line(100)], invoice_date=date(2026, 10, 31))
    world.do("period.close", {"period": "2026-11"})
    assert world.do("invoice.void", {"invoice_id": draft_id, "reason": "wrong"})["status"] == "void"


# --- void and charges -------------------------------------------------------------------------------------------------


def test_charges_can_be_invoiced_again_once_every_document_of_their_group_is_void() -> None:
    world = World()
    account_id = open_account(world, [party("me", 6_000), party("wife", 4_000, "relative")])
    charge_id = capture(world, account_id, 1_001)
    body = {"account_id": account_id, "charge_ids": [charge_id]}
    documents = [UUID(one["invoice_id"]) for one in world.do("invoice.create", body)["documents"]]
    assert world.refused("invoice.create", body).code == "charge_not_open"
    world.do("invoice.issue", {"invoice_id": documents[0]})
    world.do("invoice.void", {"invoice_id": documents[0], "reason": "wrong"})
    assert world.one(Charge, charge_id).status == "invoiced"
    world.do("invoice.void", {"invoice_id": documents[1], "reason": "wrong"})
    assert world.one(Charge, charge_id) == world.one(Charge, charge_id)._replace(status="open", invoice_group_id=None)
    assert sum(one["net_minor"] for one in world.do("invoice.create", body)["documents"]) == 1_001
    check_all(world)


def test_a_line_whose_share_is_nothing_is_left_out_and_a_party_without_share_gets_no_document() -> None:
    world = World()
    parties = [party("me", 9_999), party("wife", 1, "relative"), party("none", 0, "employer")]
    mine, hers = draft(world, open_account(world, parties), [line(1), line(10_000)])
    counted = {key: [row for row in world.all(InvoiceLine) if row.invoice_id == key] for key in (mine, hers)}
    assert [row.net_minor for row in counted[mine]] == [1, 9_999]
    assert [(row.line_number, row.net_minor) for row in counted[hers]] == [(1, 1)]


def test_shares_changed_later_do_not_touch_invoices_that_exist() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    before = invoice(world, invoice_id)
    world.do("account.update", {"account_id": account_id, "parties": [party("employer", 10_000, "employer")]})
    assert invoice(world, invoice_id) == before
    assert invoice(world, invoiced(world, account_id, 100)).party_id == "employer"
    check_all(world)


def test_due_on_follows_the_tenants_terms_unless_given() -> None:
    world = World(DUBAI.model_copy(update={"payment_terms_days": 14}))
    account_id = open_account(world)
    own = invoice(world, invoiced(world, account_id, 100, invoice_date=date(2026, 10, 20)))
    agreed = invoice(world, invoiced(world, account_id, 100, due_on=date(2027, 1, 1)))
    assert (own.due_on, agreed.due_on) == (date(2026, 11, 3), date(2027, 1, 1))
