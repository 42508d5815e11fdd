"""Charges through a payment gateway: what gateways tell, in any order and as often as they like, and what the books say."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.entities import Account, Invoice, LedgerAccount, Payment, Refund, Transfer
from domain.gateway_entities import GatewayRefund, Hold
from schemas.codes import Code
from schemas.gateway import looks_like_card_number, without_card_numbers
from schemas.hold import ChargePayment
from tests.domain.hospital import (
    allocations,
    charge_card,
    invoiced,
    money,
    open_account,
    pay,
    settle,
    through_gateway,
)
from tests.domain.invariants import check_all
from tests.domain.world import World

HELD = 100
LATER = datetime(2026, 11, 30, 12, tzinfo=UTC)  # holds have run out by then


def hold(world: World, payment_id: UUID) -> Hold:
    return world.one(Hold, payment_id)


def balance(world: World, code: str) -> int:
    """Net debit over all sub-ledgers."""
    rows = [row for row in world.all(LedgerAccount) if row.code == code]
    return sum(row.debits_minor - row.credits_minor for row in rows)


def asked(world: World) -> list[dict[str, Any]]:
    return [orjson.loads(row.body) for row in world.jobs]


# --- one hold, told about in every way ----------------------------------------------------------------------------------

Step = Callable[[World, UUID], Any]


def told(state: str, amount: int = 0, **more: Any) -> Step:
    return lambda world, payment_id: settle(world, payment_id, state, amount, **more)


def capture(world: World, payment_id: UUID) -> None:
    world.do("payment.capture", {"payment_id": payment_id})


def capture_part(world: World, payment_id: UUID) -> None:
    world.do("payment.capture", {"payment_id": payment_id, "amount_minor": 60})


def cancel(world: World, payment_id: UUID) -> None:
    world.do("payment.cancel", {"payment_id": payment_id, "reason": "changed their mind"})


def expire(world: World, payment_id: UUID) -> None:
    world.now = LATER
    world.do("payment.expire", {"payment_id": payment_id})


AUTHORISED, CAPTURED = told("authorised", HELD), told("captured", HELD)
UNKNOWN, ABSENT, CANCELLED, DECLINED = told("unknown"), told("absent"), told("cancelled"), told("declined")
PENDING, EXPIRED = told("pending", reference="gw_1"), told("expired")
USD = told("captured", HELD, currency="USD")


class Case(NamedTuple):
    """`steps` after a charge of 100; then the hold's state and fault, what is in 1030, and requests made of the gateway."""

    name: str
    steps: tuple[Step, ...]
    status: str
    fault: str | None = None
    clearing: int = 0
    requests: int = 1


MANUAL = [
    Case("authorised", (AUTHORISED,), "authorised"),
    Case("authorised twice", (AUTHORISED, AUTHORISED), "authorised"),
    Case("captured when asked", (AUTHORISED, capture, CAPTURED), "captured", None, 100, 2),
    Case("captured, told again", (AUTHORISED, capture, CAPTURED, CAPTURED, AUTHORISED, UNKNOWN), "captured", None, 100, 2),
    Case("captured at the gateway itself", (AUTHORISED, CAPTURED), "captured", None, 100),
    Case("captured before authorised is told", (CAPTURED, AUTHORISED), "captured", None, 100),
    Case("captured in part, as asked", (AUTHORISED, capture_part, told("captured", 60)), "captured", None, 60, 2),
    Case("captured, not as asked", (AUTHORISED, capture_part, CAPTURED), "mismatch", "amount_mismatch", 100, 2),
    Case("captured more than held", (AUTHORISED, capture, told("captured", 101)), "mismatch", "amount_mismatch", 101, 2),
    Case("captured in another currency", (AUTHORISED, capture, USD), "mismatch", "currency_mismatch", 0, 2),
    Case("captured more, later", (AUTHORISED, CAPTURED, told("captured", 110)), "mismatch", "amount_mismatch", 100),
    Case("authorised for less", (told("authorised", 99),), "mismatch", "amount_mismatch"),
    Case("authorised in another currency", (told("authorised", HELD, currency="USD"),), "mismatch", "currency_mismatch"),
    Case("authorised for less, then captured so", (told("authorised", 99), told("captured", 99)), "captured", None, 99),
    Case("a mismatch is cancelled", (told("authorised", 99), cancel, CANCELLED), "cancelled", None, 0, 2),
    Case("declined", (DECLINED,), "declined"),
    Case("declined, then let go of", (DECLINED, AUTHORISED), "declined", None, 0, 2),
    Case("declined, yet captured", (DECLINED, CAPTURED), "captured", "captured_late", 100),
    Case("unknown", (UNKNOWN,), "unknown"),
    Case("unknown, found authorised", (UNKNOWN, AUTHORISED), "authorised"),
    Case("unknown, never heard of: once more", (UNKNOWN, ABSENT), "pending", None, 0, 2),
    Case("unknown, at it", (UNKNOWN, PENDING), "pending"),
    Case("unknown comes late", (AUTHORISED, UNKNOWN), "authorised"),
    Case("capture unknown, not done: once more", (AUTHORISED, capture, UNKNOWN, AUTHORISED), "capturing", None, 0, 3),
    Case("capture unknown, done", (AUTHORISED, capture, UNKNOWN, CAPTURED), "captured", None, 100, 2),
    Case("capture refused", (AUTHORISED, capture, told("authorised", HELD, refusal="no")), "authorised", "capture_refused", 0, 2),
    Case("capture of what is gone", (AUTHORISED, capture, ABSENT), "mismatch", "absent", 0, 2),
    Case("cancelled", (AUTHORISED, cancel, CANCELLED), "cancelled", None, 0, 2),
    Case("cancelled twice", (AUTHORISED, cancel, cancel, CANCELLED, CANCELLED), "cancelled", None, 0, 2),
    Case("cancelled before it was sent", (cancel, ABSENT), "cancelled"),
    Case("cancelled while on its way, then held", (cancel, AUTHORISED, CANCELLED), "cancelled", None, 0, 2),
    Case("cancelled while on its way, then taken", (cancel, CAPTURED), "captured", "captured_late", 100),
    Case("cancelled while on its way, declined", (cancel, DECLINED), "cancelled"),
    Case("cancelled while unknown", (UNKNOWN, cancel, ABSENT), "cancelled", None, 0, 2),
    Case("cancel unknown, still held: once more", (AUTHORISED, cancel, UNKNOWN, AUTHORISED), "cancelling", None, 0, 3),
    Case("cancel refused", (AUTHORISED, cancel, told("authorised", HELD, refusal="no")), "authorised", "cancel_refused", 0, 2),
    Case("cancelled, yet captured", (AUTHORISED, cancel, CANCELLED, CAPTURED), "captured", "captured_late", 100, 2),
    Case("cancelled, yet held: let go of", (AUTHORISED, cancel, CANCELLED, AUTHORISED), "cancelled", None, 0, 3),
    Case("expired here", (AUTHORISED, expire, EXPIRED), "expired", None, 0, 2),
    Case("expired here, cancelled there", (AUTHORISED, expire, CANCELLED), "expired", None, 0, 2),
    Case("expired here, never sent", (expire, ABSENT), "expired"),
    Case("expired, yet captured", (AUTHORISED, expire, EXPIRED, CAPTURED), "captured", "captured_late", 100, 2),
    Case("expired at the gateway", (AUTHORISED, EXPIRED), "expired"),
    Case("cancelled at the gateway", (AUTHORISED, CANCELLED), "cancelled"),
]  # fmt: skip

AUTOMATIC = [
    Case("captured", (CAPTURED,), "captured", None, 100),
    Case("authorised first: asked to capture", (AUTHORISED,), "capturing", None, 0, 2),
    Case("captured less", (told("captured", 99),), "mismatch", "amount_mismatch", 99),
    Case("captured more", (told("captured", 101),), "mismatch", "amount_mismatch", 101),
    Case("captured in another currency", (USD,), "mismatch", "currency_mismatch"),
    Case("unknown, found captured", (UNKNOWN, CAPTURED, CAPTURED), "captured", None, 100),
    Case("waits for the payer", (PENDING, CAPTURED), "captured", None, 100),
    Case("waits for the payer, cancelled", (PENDING, cancel, CANCELLED), "cancelled", None, 0, 2),
    Case("refunded at the gateway", (told("refunded", HELD, refunded_minor=HELD),), "captured", None, 0),
    Case("refunded in part, told twice", (CAPTURED, *[told("refunded", HELD, refunded_minor=30)] * 2), "captured", None, 70),
    Case("a fee, told later and again", (CAPTURED, *[told("captured", HELD, fee_minor=3)] * 2), "captured", None, 97),
    Case("a fee, put right", (told("captured", HELD, fee_minor=5), told("captured", HELD, fee_minor=3)), "captured", None, 97),
]  # fmt: skip


@pytest.mark.parametrize("case", MANUAL, ids=lambda case: case.name)
def test_a_hold(case: Case) -> None:
    _check(case, "manual")


@pytest.mark.parametrize("case", AUTOMATIC, ids=lambda case: case.name)
def test_a_hold_captured_at_once(case: Case) -> None:
    _check(case, "automatic")


def _check(case: Case, mode: str) -> None:
    world = World()
    payment_id = charge_card(world, open_account(world), HELD, capture=mode)
    for step in case.steps:
        step(world, payment_id)
    found = hold(world, payment_id)
    assert (found.status, found.fault) == (case.status, case.fault)
    assert balance(world, "1030") == case.clearing
    assert len(world.jobs) == case.requests
    assert found.revision == asked(world)[-1]["revision"]
    check_all(world)


def test_late_money_is_unapplied_credit_whatever_the_charge_was_meant_for() -> None:
    world = World()
    account_id = open_account(world)
    bill = invoiced(world, account_id, HELD)
    payment_id = charge_card(world, account_id, HELD, (bill, HELD))
    cancel(world, payment_id)
    settle(world, payment_id, "cancelled")
    pay(world, account_id, HELD, (bill, HELD))
    world.do("account.close", {"account_id": account_id})
    settle(world, payment_id, "captured", HELD)
    assert world.one(Payment, payment_id).unapplied_minor == HELD
    assert world.one(Account, account_id).status == "open"
    check_all(world)


def test_an_invoice_paid_by_somebody_else_meanwhile_leaves_credit() -> None:
    world = World()
    account_id = open_account(world)
    first, second = invoiced(world, account_id, 60), invoiced(world, account_id, 60)
    payment_id = charge_card(world, account_id, 100, (first, 60), (second, 40), capture="automatic")
    pay(world, account_id, 50, (first, 50))
    settle(world, payment_id, "captured", 100)
    paid = world.one(Payment, payment_id)
    assert (paid.allocated_minor, paid.unapplied_minor) == (50, 50)
    assert world.one(Invoice, first).status == "settled" and world.one(Invoice, second).open_minor == 20
    check_all(world)


def test_what_a_closed_month_cannot_take_goes_to_the_next_open_one() -> None:
    world = World()
    payment_id = charge_card(world, open_account(world), HELD, capture="automatic")
    world.do("period.close", {"period": "2026-11"})
    settle(world, payment_id, "captured", HELD)
    assert {str(row.effective_on) for row in world.all(Transfer)} == {"2026-12-01"}
    check_all(world)


# --- refunds ------------------------------------------------------------------------------------------------------------


def refund(world: World, payment_id: UUID, amount: int) -> UUID:
    body = {"payment_id": payment_id, "amount_minor": amount, "reason": "asked"}
    return UUID(world.do("payment.refund", body)["refund_id"])


def refund_told(world: World, refund_id: UUID, *states: str) -> None:
    for state in states:
        world.do("payment.settle_refund", {"refund_id": refund_id, "state": state})


@pytest.mark.parametrize(
    ("states", "status", "clearing", "unapplied", "requests"),
    [
        ((), "pending", 100, 60, 2),
        (("refunded",), "done", 60, 60, 2),
        (("refunded", "refunded", "unknown", "declined"), "done", 60, 60, 2),
        (("pending", "refunded"), "done", 60, 60, 2),
        (("declined",), "failed", 100, 100, 2),
        (("declined", "refunded"), "done", 60, 60, 2),
        (("unknown",), "unknown", 100, 60, 2),
        (("unknown", "absent"), "pending", 100, 60, 3),
        (("unknown", "refunded"), "done", 60, 60, 2),
    ],
)
def test_a_refund_through_the_gateway(
    states: tuple[str, ...], status: str, clearing: int, unapplied: int, requests: int
) -> None:
    """The credit is reserved at once, posted when it was done, and free again where it was refused."""
    world = World()
    payment_id = through_gateway(world, open_account(world), 100)
    refund_id = refund(world, payment_id, 40)
    refund_told(world, refund_id, *states)
    assert world.one(GatewayRefund, refund_id).status == status
    assert balance(world, "1030") == clearing
    assert world.one(Payment, payment_id).unapplied_minor == unapplied
    assert len(world.jobs) == requests
    check_all(world)


def test_reserved_credit_cannot_be_used_twice_and_a_refund_cannot_be_refunded() -> None:
    world = World()
    account_id = open_account(world)
    payment_id = through_gateway(world, account_id, 100)
    refund_id = refund(world, payment_id, 70)
    body = {"payment_id": payment_id, "amount_minor": 31, "reason": "asked"}
    assert world.refused("payment.refund", body).code == Code.REFUND_EXCEEDS_CREDIT
    bill = invoiced(world, account_id, 100)
    parts = {"payment_id": payment_id, "allocations": allocations((bill, 31))}
    assert world.refused("payment.allocate", parts).code == Code.ALLOCATION_EXCEEDS_PAYMENT
    again = {"payment_id": refund_id, "amount_minor": 1, "reason": "asked"}
    assert world.refused("payment.refund", again).code == Code.REFUND_NOT_REFUNDABLE
    check_all(world)


def test_a_refund_made_after_it_had_failed_is_flagged_where_its_credit_was_used() -> None:
    world = World()
    account_id = open_account(world)
    payment_id = through_gateway(world, account_id, 100)
    refund_id = refund(world, payment_id, 100)
    refund_told(world, refund_id, "declined")
    bill = invoiced(world, account_id, 100)
    world.do("payment.allocate", {"payment_id": payment_id, "allocations": allocations((bill, 100))})
    refund_told(world, refund_id, "refunded", "refunded")
    assert (hold(world, payment_id).status, hold(world, payment_id).fault) == ("mismatch", "refund_mismatch")
    assert not world.all(Refund)
    check_all(world)


def test_cash_may_be_given_back_for_a_card_and_is_not_what_the_gateway_gives_back() -> None:
    world = World()
    payment_id = through_gateway(world, open_account(world), 100)
    world.do("payment.refund", {"payment_id": payment_id, "amount_minor": 40, "method": "cash", "reason": "asked"})
    assert (balance(world, "1030"), balance(world, "1000")) == (100, -40)
    assert len(world.jobs) == 1
    settle(world, payment_id, "refunded", 100, refunded_minor=30)
    assert (balance(world, "1030"), world.one(Payment, payment_id).refunded_minor) == (70, 70)


def test_a_refund_made_at_the_gateway_waits_for_its_credit() -> None:
    world = World()
    account_id = open_account(world)
    bill = invoiced(world, account_id, 100)
    payment_id = through_gateway(world, account_id, 100, (bill, 100))
    for _ in range(2):
        settle(world, payment_id, "refunded", 100, refunded_minor=30)
        assert (hold(world, payment_id).fault, balance(world, "1030")) == ("refund_mismatch", 100)
    world.do("payment.unallocate", {"payment_id": payment_id, "invoice_id": bill, "amount_minor": 30, "reason": "back"})
    settle(world, payment_id, "refunded", 100, refunded_minor=30)
    assert (hold(world, payment_id).status, hold(world, payment_id).fault) == ("captured", None)
    assert balance(world, "1030") == 70
    check_all(world)


# --- disputes, payouts ----------------------------------------------------------------------------------------------------


def dispute(world: World, payment_id: UUID, stage: str, **more: Any) -> None:
    world.do("payment.dispute", {"payment_id": payment_id, "stage": stage, **more})


@pytest.mark.parametrize(
    ("stages", "final", "clearing"),
    [
        (("opened",), "opened", 100),
        (("opened", "won", "opened"), "won", 100),
        (("opened", "lost", "lost", "opened", "won"), "lost", 0),
        (("lost",), "lost", 0),
        (("won", "lost"), "lost", 0),
    ],
)
def test_a_dispute_in_any_order(stages: tuple[str, ...], final: str, clearing: int) -> None:
    world = World()
    account_id = open_account(world)
    bill = invoiced(world, account_id, 70)
    payment_id = through_gateway(world, account_id, 100, (bill, 70))
    for stage in stages:
        dispute(world, payment_id, stage)
    assert hold(world, payment_id).dispute == final
    assert balance(world, "1030") == clearing
    assert world.one(Invoice, bill).open_minor == (70 if final == "lost" else 0)
    check_all(world)


def test_a_lost_dispute_is_a_reversal_in_the_open_month_linked_to_the_payment_with_its_fee() -> None:
    world = World()
    account_id = open_account(world)
    bill = invoiced(world, account_id, 70)
    payment_id = through_gateway(world, account_id, 100, (bill, 70))
    world.do("period.close", {"period": "2026-11"})
    dispute(world, payment_id, "lost", amount_minor=40, fee_minor=15)
    made = [row for row in world.all(Transfer) if str(row.effective_on) == "2026-12-01"]
    assert {(row.kind, row.amount_minor) for row in made} == {
        ("payment_reversal", 30),
        ("payment_reversal", 10),
        ("gateway_fee", 15),
    }
    assert {row.reverses_document_id for row in made if row.kind == "payment_reversal"} == {payment_id}
    paid = world.one(Payment, payment_id)
    assert (paid.status, paid.charged_back_minor, paid.unapplied_minor, paid.allocated_minor) == ("recorded", 40, 0, 60)
    assert (balance(world, "1030"), balance(world, "5200")) == (45, 15)
    check_all(world)


def test_a_payout_moves_what_is_due_to_the_bank_and_is_booked_once() -> None:
    world = World()
    through_gateway(world, open_account(world), 100)
    body = {"payout_id": "po_1", "adapter": "generic", "amount": money(90), "fee_minor": 10, "paid_on": "2026-11-03"}
    for _ in range(2):
        world.do("payment.settle_payout", body)
    assert (balance(world, "1030"), balance(world, "1010"), balance(world, "5200")) == (0, 90, 10)
    check_all(world)


# --- circuits, card numbers -------------------------------------------------------------------------------------------------


def test_an_open_circuit_refuses_charges_until_its_time_and_nothing_else() -> None:
    world = World()
    account_id = open_account(world)
    held = charge_card(world, account_id, HELD)
    settle(world, held, "authorised", HELD)
    open_until = world.now + timedelta(minutes=1)
    world.do("payment.report_circuit", {"adapter": "generic", "state": "open", "open_until": open_until.isoformat()})
    body = {"account_id": account_id, "amount": money(HELD), "source": "tok"}
    assert world.refused("payment.charge", body).code == Code.CIRCUIT_OPEN
    capture(world, held)
    world.do("payment.charge", body, at=open_until)
    world.do("payment.report_circuit", {"adapter": "generic", "state": "closed"})
    world.do("payment.charge", body)
    check_all(world)


@pytest.mark.parametrize(
    "number", ["4242424242424242", "4242 4242 4242 4242", "4000-0000-0000-0002", "378282246310005"]
)
def test_a_card_number_is_not_taken_and_not_repeated(number: str) -> None:
    assert looks_like_card_number(number)
    body = {"account_id": str(UUID(int=1)), "amount": money(1), "source": number}
    with pytest.raises(ValidationError) as refused:
        ChargePayment.model_validate_json(orjson.dumps(body))
    assert number not in str(refused.value.errors(include_input=False))


def test_what_is_kept_of_a_card_number_are_its_last_four_digits() -> None:
    kept = without_card_numbers(
        b'{"source": "4242 4242 4242 4242", "amount": {"amount_minor": 4242424242424242}, "x": '
    )
    assert kept == b'{"source": "***************4242", "amount": {"amount_minor": 4242424242424242}, "x": '
    token = b'{"source":"tok_4242424242424242"}'
    assert without_card_numbers(token) == token


@pytest.mark.parametrize("token", ["tok_visa", "4242424242424241", "pm_1N3T00LkdIwHu7ix0snN0B15", "424242424242"])
def test_a_token_is_no_card_number(token: str) -> None:
    assert not looks_like_card_number(token)


# --- anything at all ----------------------------------------------------------------------------------------------------------

MOVES: dict[str, dict[str, Any]] = {
    "authorised": {"state": "authorised", "authorised_minor": HELD, "currency": "AED"},
    "captured": {"state": "captured", "captured_minor": HELD, "currency": "AED", "fee_minor": 2},
    "less": {"state": "captured", "captured_minor": 60, "currency": "AED"},
    "foreign": {"state": "captured", "captured_minor": HELD, "currency": "USD"},
    "refunded": {"state": "refunded", "captured_minor": HELD, "refunded_minor": 30, "currency": "AED"},
    "unknown": {"state": "unknown"},
    "absent": {"state": "absent"},
    "pending": {"state": "pending", "reference": "gw_1"},
    "declined": {"state": "declined"},
    "cancelled": {"state": "cancelled"},
    "expired": {"state": "expired"},
}
COMMANDS: dict[str, dict[str, Any]] = {
    "payment.capture": {},
    "payment.cancel": {"reason": "x"},
    "payment.expire": {},
    "payment.refund": {"amount_minor": 20, "reason": "x"},
    "payment.dispute": {"stage": "lost"},
    "payment.reverse": {"reason": "x"},
}
moves = st.lists(
    st.sampled_from([*MOVES, *COMMANDS, "refund refunded", "refund declined", "refund unknown"]), max_size=25
)


@given(moves=moves, mode=st.sampled_from(["manual", "automatic"]), sizes=st.lists(st.integers(1, 6), max_size=25))
@settings(max_examples=60)
def test_the_books_hold_whatever_is_told_in_whatever_order(moves: list[str], mode: str, sizes: list[int]) -> None:
    """And batches change nothing: the same in one go, one by one, and cut anyhow."""
    worlds = [World(seed=seed) for seed in range(2)]
    for world in worlds:
        account_id = open_account(world, account_id=UUID(int=7))
        bill = invoiced(world, account_id, 80, invoice_group_id=UUID(int=8))
        charge_card(world, account_id, HELD, (bill, 80), payment_id=UUID(int=9), capture=mode)
    batches = [[_command(world, move) for move in moves] for world in worlds]
    one_by_one, cut = worlds
    one_by_one.run_partitioned(batches[0], [1] * len(moves))
    cut.run_partitioned(batches[1], sizes)
    assert one_by_one.tables == cut.tables
    check_all(one_by_one)
    check_all(cut)
    told = [MOVES[move] for move in moves if move in ("captured", "less", "refunded")]
    taken = [each["captured_minor"] for each in told]
    paid = one_by_one.tables.get(Payment, {}).get(UUID(int=9))
    assert (paid is not None) == bool(taken)
    assert paid is None or paid.amount_minor == taken[0]


def _command(world: World, move: str) -> Any:
    payment_id = UUID(int=9)
    if move in MOVES:
        return world.command("payment.settle", {"payment_id": payment_id, **MOVES[move]})
    if move.startswith("refund "):
        return world.command("payment.settle_refund", {"refund_id": UUID(int=10), "state": move.split()[1]})
    refund_id = {"refund_id": UUID(int=10)} if move == "payment.refund" else {}
    at = {"at": LATER} if move == "payment.expire" else {}
    return world.command(move, {"payment_id": payment_id, **COMMANDS[move], **refund_id}, **at)
