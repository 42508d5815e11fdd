"""DOMAIN rule 4: credit notes over all lines sum to the invoice to the last minor unit, in any partition."""

from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from domain.entities import Allocation, CreditNote, Invoice, InvoiceLine
from tests.domain.hospital import draft, invoice, line, open_account, pay, payment
from tests.domain.invariants import check_all
from tests.domain.world import World

# (net of the line in minor units, whether it is taxed, in how many credits it is taken back)
LINES = st.lists(st.tuples(st.integers(1, 500), st.booleans(), st.integers(1, 5)), min_size=1, max_size=4)


def issued(world: World, lines: list[dict[str, Any]]) -> UUID:
    (invoice_id,) = draft(world, open_account(world), lines)
    world.do("invoice.issue", {"invoice_id": invoice_id})
    return invoice_id


def taxed(net: int) -> dict[str, Any]:
    return line(net, tax_category="standard")


def credit(world: World, invoice_id: UUID, *lines: tuple[int, int]) -> dict[str, Any]:
    items = [{"line_number": number, "net_minor": net} for number, net in lines]
    return world.do("credit_note.issue", {"invoice_id": invoice_id, "reason": "wrong", "lines": items})


@given(LINES, st.randoms(use_true_random=False), st.integers(0, 100))
def test_rule_4_any_partition_into_credit_notes_sums_to_the_invoice(
    wanted: list[tuple[int, bool, int]], random: Any, paid_percent: int
) -> None:
    world = World()
    invoice_id = issued(world, [taxed(net) if is_taxed else line(net) for net, is_taxed, _ in wanted])
    total = invoice(world, invoice_id).total_minor
    if paid := total * paid_percent // 100:
        pay(world, invoice(world, invoice_id).account_id, paid, (invoice_id, paid))
    parts = [
        (number, part)
        for number, (net, _, pieces) in enumerate(wanted, start=1)
        for part in _pieces(random, net, pieces)
    ]
    random.shuffle(parts)
    for number, net in parts:
        credit(world, invoice_id, (number, net))
    after: Invoice = invoice(world, invoice_id)
    notes = world.all(CreditNote)
    assert sum(note.net_minor for note in notes) == after.net_minor
    assert sum(note.tax_minor for note in notes) == after.tax_minor
    assert (after.credited_minor, after.paid_minor, after.open_minor, after.status) == (total, 0, 0, "settled")
    assert all(row.credited_tax_minor == row.tax_minor for row in world.all(InvoiceLine))
    check_all(world)


def _pieces(random: Any, net: int, pieces: int) -> list[int]:
    cuts = sorted(random.sample(range(1, net), min(pieces - 1, net - 1)))
    edges = [0, *cuts, net]
    return [edges[index + 1] - edges[index] for index in range(len(edges) - 1)]


@given(LINES)
def test_rule_4_a_note_without_lines_takes_what_is_left(wanted: list[tuple[int, bool, int]]) -> None:
    world = World()
    invoice_id = issued(world, [taxed(net) if is_taxed else line(net) for net, is_taxed, _ in wanted])
    first = credit(world, invoice_id, (1, 1))
    total = invoice(world, invoice_id).total_minor
    rest = {"invoice_id": invoice_id, "reason": "all"}
    if first["total_minor"] < total:
        assert world.do("credit_note.issue", rest)["total_minor"] == total - first["total_minor"]
    assert world.refused("credit_note.issue", rest).code == "credit_exceeds_invoice"
    check_all(world)


def test_rule_4_the_last_credit_of_a_line_takes_the_residue_of_its_tax() -> None:
    world = World()
    invoice_id = issued(world, [taxed(30)])  # tax 1.5 → 2
    taxes = [credit(world, invoice_id, (1, 10))["tax_minor"] for _ in range(3)]  # 0.67 each: 1, 1 and nothing left
    assert taxes == [1, 1, 0]


def test_rule_4_credits_that_round_up_never_take_back_more_tax_than_the_line_has() -> None:
    world = World()
    invoice_id = issued(world, [taxed(30)])  # tax 2; 8 of 30 is 0.53 of it, rounded to 1
    assert [credit(world, invoice_id, (1, net))["tax_minor"] for net in (8, 8, 8, 6)] == [1, 1, 0, 0]
    check_all(world)


def test_rule_4_none_may_exceed_what_is_left_of_its_line() -> None:
    world = World()
    invoice_id = issued(world, [line(100), line(900)])
    credit(world, invoice_id, (1, 60))
    item = {"line_number": 1, "net_minor": 41}
    problem = world.refused("credit_note.issue", {"invoice_id": invoice_id, "reason": "x", "lines": [item]})
    assert problem.code == "credit_exceeds_invoice" and problem.details == {"line_number": 1, "left_minor": 40}
    credit(world, invoice_id, (1, 40))
    check_all(world)


def test_rule_4_what_was_written_off_cannot_be_credited_too() -> None:
    world = World()
    invoice_id = issued(world, [line(100)])
    world.do("invoice.write_off", {"invoice_id": invoice_id, "amount_minor": 30, "reason": "poor"})
    item = {"line_number": 1, "net_minor": 71}
    body = {"invoice_id": invoice_id, "reason": "x", "lines": [item]}
    assert world.refused("credit_note.issue", body).code == "credit_exceeds_invoice"
    assert credit(world, invoice_id, (1, 70))["total_minor"] == 70
    assert invoice(world, invoice_id).status == "settled"
    check_all(world)


def test_rule_5_what_was_paid_of_a_credited_part_is_credit_of_its_payments_again_the_latest_first() -> None:
    world = World()
    invoice_id = issued(world, [line(100)])
    account_id = invoice(world, invoice_id).account_id
    early, late = (pay(world, account_id, amount, (invoice_id, amount)) for amount in (50, 30))
    result = credit(world, invoice_id, (1, 60))
    assert result["released_minor"] == 40  # 20 were open, 40 were paid
    assert (payment(world, late).unapplied_minor, payment(world, early).unapplied_minor) == (30, 10)
    assert [row.amount_minor for row in world.all(Allocation)] == [50, 30, -30, -10]
    names = [name for name, _ in world.events()][-4:]
    assert names == ["credit_note.issued", "payment.unallocated", "payment.unallocated", "invoice.settled"]
    check_all(world)


def test_credit_of_nothing_open_on_a_settled_invoice_does_not_announce_it_settled_again() -> None:
    world = World()
    invoice_id = issued(world, [line(100)])
    pay(world, invoice(world, invoice_id).account_id, 100, (invoice_id, 100))
    credit(world, invoice_id, (1, 10))
    assert [name for name, _ in world.events()].count("invoice.settled") == 1
    check_all(world)
