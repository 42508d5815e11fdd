"""DOMAIN rules 6, 7 and 10: allocations, refunds and reversals are facts of their own; refused ones leave nothing."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.entities import Account, Allocation, LedgerAccount, Payment, Refund, Transfer
from tests.domain.hospital import allocations, invoice, invoiced, money, open_account, pay, payment
from tests.domain.invariants import check_all
from tests.domain.world import NOON, World

# --- rule 6 -----------------------------------------------------------------------------------------------------------

MOVES = st.lists(
    st.tuples(st.sampled_from(["allocate", "unallocate"]), st.integers(0, 1), st.integers(0, 1), st.integers(1, 60)),
    max_size=15,
)


@given(MOVES)
def test_rule_6_payments_and_invoices_are_many_to_many_through_immutable_rows(moves: list[Any]) -> None:
    world = World()
    account_id = open_account(world)
    invoices = [invoiced(world, account_id, 100) for _ in range(2)]
    payments = [pay(world, account_id, 100) for _ in range(2)]
    net = {(row, column): 0 for row in range(2) for column in range(2)}
    for kind, of, to, amount in moves:
        rows = world.all(Allocation)
        if kind == "allocate":
            body = {"payment_id": payments[of], "allocations": allocations((invoices[to], amount))}
            on_payment, on_invoice = net[of, 0] + net[of, 1], net[0, to] + net[1, to]
            possible, sign = max(on_payment, on_invoice) + amount <= 100, 1
        else:
            body = {"payment_id": payments[of], "invoice_id": invoices[to], "amount_minor": amount, "reason": "x"}
            possible, sign = net[of, to] >= amount, -1
        (verdict,) = world.run([world.command(f"payment.{kind}", body)])
        assert verdict.status == ("applied" if possible else "rejected")
        net[of, to] += sign * amount if possible else 0
        assert world.all(Allocation)[: len(rows)] == rows
        assert len(world.all(Allocation)) == len(rows) + possible
        check_all(world)
    for column, invoice_id in enumerate(invoices):
        assert invoice(world, invoice_id).paid_minor == net[0, column] + net[1, column]


def test_rule_6_un_allocating_is_a_new_row_and_without_an_amount_takes_all_back() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    payment_id = pay(world, account_id, 90, (invoice_id, 90))
    body = {"payment_id": payment_id, "invoice_id": invoice_id, "reason": "other invoice"}
    world.do("payment.unallocate", {**body, "amount_minor": 30})
    assert world.do("payment.unallocate", body)["unapplied_minor"] == 90
    assert [row.amount_minor for row in world.all(Allocation)] == [90, -30, -60]
    assert world.refused("payment.unallocate", body).details == {"allocated_minor": 0}
    check_all(world)


def test_rule_6_one_payment_settles_several_invoices_of_several_parties() -> None:
    world = World()
    account_id = open_account(world)
    first, second = invoiced(world, account_id, 100), invoiced(world, account_id, 50)
    pay(world, account_id, 160, (first, 100), (second, 50))
    names = [name for name, _ in world.events()]
    assert names[-3:] == ["payment.recorded", "invoice.settled", "invoice.settled"]
    check_all(world)


# --- rule 7 -----------------------------------------------------------------------------------------------------------


def refund(payment_id: UUID, amount: int, **more: Any) -> dict[str, Any]:
    return {"payment_id": payment_id, "amount_minor": amount, "reason": "asked", **more}


def test_rule_7_a_refund_cannot_be_refunded() -> None:
    world = World()
    payment_id = pay(world, open_account(world), 100)
    refund_id = UUID(world.do("payment.refund", refund(payment_id, 40))["refund_id"])
    before = world.business_state()
    assert world.refused("payment.refund", refund(refund_id, 1)).code == "refund_not_refundable"
    assert world.business_state() == before
    check_all(world)


def test_rule_7_a_retry_of_an_accepted_refund_moves_nothing() -> None:
    world = World()
    account_id = open_account(world)
    payment_id = pay(world, account_id, 100)
    accepted = world.command("payment.refund", refund(payment_id, 100))
    world.run([accepted])
    before = world.state()
    assert [verdict.status for verdict in world.run([accepted, accepted])] == ["duplicate", "duplicate"]
    assert world.state() == before
    assert payment(world, payment_id).unapplied_minor == 0


def test_rule_7_refunds_never_exceed_the_unapplied_credit_of_their_payment() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 60)
    payment_id = pay(world, account_id, 100, (invoice_id, 60))
    pay(world, account_id, 1_000)
    assert world.refused("payment.refund", refund(payment_id, 41)).details == {"unapplied_minor": 40}
    world.do("payment.refund", refund(payment_id, 40))
    assert world.refused("payment.refund", refund(payment_id, 1)).code == "refund_exceeds_credit"
    check_all(world)


def test_rule_7_a_refund_in_the_batch_of_its_payment_sees_it() -> None:
    world = World()
    account_id = open_account(world)
    record = {"account_id": account_id, "amount": money(100), "method": "bank", "payment_id": account_id}
    recorded = world.command("payment.record", record)
    refunds = [world.command("payment.refund", refund(account_id, 60)) for _ in range(2)]
    assert [verdict.status for verdict in world.run([recorded, *refunds])] == ["applied", "applied", "rejected"]
    check_all(world)


def test_a_refund_is_paid_from_where_it_was_asked_to_be() -> None:
    world = World()
    payment_id = pay(world, open_account(world), 100)
    world.do("payment.refund", refund(payment_id, 30, method="mobile_money"))
    world.do("payment.refund", refund(payment_id, 20))
    assert net_by_code(world) == {"1000": 80, "1020": -30, "2100": -50}
    assert {row.method for row in world.all(Refund)} == {"mobile_money", "cash"}


def net_by_code(world: World) -> dict[str, int]:
    totals: dict[str, int] = {}
    for row in world.all(LedgerAccount):
        totals[row.code] = totals.get(row.code, 0) + row.debits_minor - row.credits_minor
    return {code: amount for code, amount in totals.items() if amount}


# --- rule 10 ----------------------------------------------------------------------------------------------------------


@given(
    amount=st.integers(200, 1_000),
    rounding=st.integers(-100, 100),
    parts=st.lists(st.integers(1, 60), max_size=3),
    taken_back=st.booleans(),
)
def test_rule_10_a_reversal_mirrors_what_the_payment_still_does(
    amount: int, rounding: int, parts: list[int], taken_back: bool
) -> None:
    world = World()
    account_id = open_account(world)
    invoices = [invoiced(world, account_id, 60) for _ in parts]
    before = net_by_code(world)
    allocated = list(zip(invoices, parts, strict=True))
    payment_id = pay(world, account_id, amount, *allocated, cash_rounding_minor=rounding)
    if taken_back and invoices:
        world.do("payment.unallocate", {"payment_id": payment_id, "invoice_id": invoices[0], "reason": "x"})
    world.do("payment.reverse", {"payment_id": payment_id, "reason": "counterfeit"})
    assert net_by_code(world) == before
    assert all(invoice(world, invoice_id).status == "issued" for invoice_id in invoices)
    assert payment(world, payment_id).status == "reversed" and payment(world, payment_id).unapplied_minor == 0
    check_all(world)


def test_rule_10_a_reversal_posts_in_the_current_period_and_links_to_the_original() -> None:
    world = World()
    account_id = open_account(world)
    october = date(2026, 10, 5)
    payment_id = pay(world, account_id, 100, method="cheque", received_on=october)
    world.do("period.close", {"period": "2026-10"})
    world.do("payment.reverse", {"payment_id": payment_id, "reason": "bounced"})
    original, mirror = sorted(world.all(Transfer))
    assert (original.effective_on, mirror.effective_on) == (october, NOON.date())
    assert mirror.recorded_at.date() == NOON.date()
    assert mirror.reverses_document_id == original.document_id == payment_id
    assert (mirror.debit_account_id, mirror.credit_account_id) == (
        original.credit_account_id,
        original.debit_account_id,
    )
    check_all(world)


def test_rule_10_a_reversal_is_refused_where_its_period_is_closed_wherever_the_payment_was() -> None:
    world = World()
    payment_id = pay(world, open_account(world), 100, received_on=date(2026, 10, 5))
    world.do("period.close", {"period": "2026-11"})
    body = {"payment_id": payment_id, "reason": "bounced"}
    assert world.refused("payment.reverse", body).details == {"period": "2026-11"}
    later = NOON + timedelta(days=30)
    assert world.do("payment.reverse", body, at=later)["status"] == "reversed"


@pytest.mark.parametrize("document", ["void", "credit"])
def test_rule_10_what_takes_revenue_back_is_dated_today_and_linked_to_the_invoice(document: str) -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100, invoice_date=date(2026, 10, 5))
    world.do("period.close", {"period": "2026-10"})
    name = "invoice.void" if document == "void" else "credit_note.issue"
    world.do(name, {"invoice_id": invoice_id, "reason": "wrong"})
    original, mirror = sorted(world.all(Transfer))
    assert (original.effective_on, mirror.effective_on) == (date(2026, 10, 5), NOON.date())
    assert mirror.reverses_document_id == invoice_id
    check_all(world)


def test_a_reversal_opens_a_closed_account_again() -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 100)
    payment_id = pay(world, account_id, 100, (invoice_id, 100), method="cheque")
    world.do("account.close", {"account_id": account_id})
    world.do("payment.reverse", {"payment_id": payment_id, "reason": "bounced"})
    assert world.one(Account, account_id).status == "open"
    names = [name for name, _ in world.events()]
    assert names[-3:] == ["payment.reversed", "invoice.reopened", "account.updated"]
    check_all(world)


def test_a_reversal_settles_the_same_whatever_order_its_allocations_are_loaded_in() -> None:
    states = []
    for seed in range(8):
        world = World(seed=seed)
        account_id = open_account(world)
        invoices = [invoiced(world, account_id, 10 + index) for index in range(4)]
        payment_id = pay(world, account_id, 100, *((key, 10 + index) for index, key in enumerate(invoices)))
        world.do("payment.reverse", {"payment_id": payment_id, "reason": "bounced"})
        states.append(world.state())
    assert all(state == states[0] for state in states)


# --- cash rounding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("taken", "rounding", "books"), [(10_025, 12, {"5900": 12}), (10_050, -13, {"5900": -13})])
def test_cash_rounding_settles_in_full_and_the_till_agrees(taken: int, rounding: int, books: dict[str, int]) -> None:
    world = World()
    account_id = open_account(world)
    invoice_id = invoiced(world, account_id, 10_037)
    pay(world, account_id, taken, (invoice_id, 10_037), cash_rounding_minor=rounding)
    assert invoice(world, invoice_id).status == "settled"
    assert net_by_code(world) == {"1000": taken, "4000": -10_037, **books}
    check_all(world)


@pytest.mark.parametrize(
    ("method", "code"),
    [("cash", "1000"), ("bank", "1010"), ("mobile_money", "1020"), ("cheque", "1040"), ("insurer_remittance", "1010")],
)
def test_money_lies_where_its_method_says(method: str, code: str) -> None:
    world = World()
    pay(world, open_account(world), 100, method=method)
    assert net_by_code(world) == {code: 100, "2100": -100}
    assert world.all(Payment)[0].method == method
