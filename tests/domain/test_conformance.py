"""Every refusal there is: one row of tests/domain/refusals.py per (command, code), and which of several comes first."""

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from domain import engine
from domain.admission import admission
from domain.decision import AWAITABLE
from schemas.base import MAX_AMOUNT_MINOR
from schemas.codes import MEANINGS, Code, Stage
from schemas.outcome import Problem, problem
from tests.domain.bodies import BODIES, NOBODY
from tests.domain.hospital import line, money, party
from tests.domain.invariants import check_all
from tests.domain.refusals import TABLE, Row, body_of
from tests.domain.scene import Scene, build_scene
from tests.domain.world import DUBAI, World

OCTOBER = datetime(2026, 10, 5, 12, tzinfo=UTC)
JANUARY_2025 = datetime(2025, 1, 5, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def built() -> Scene:
    return build_scene()


@pytest.fixture
def scene(built: Scene) -> Scene:
    return built._replace(world=built.world.copy())


def _name(row: Row) -> str:
    return f"{row.command}-{row.code}"


@pytest.mark.parametrize("row", TABLE, ids=_name)
def test_conformance(row: Row, scene: Scene) -> None:
    """The code, its details, its fixed retryability; and that nothing but the inbox and its counter changed. What may succeed
    later is not even there."""
    world, body = placed(row, scene), body_of(row, scene)
    before, inbox = world.business_state(), world.book.command_sequence
    given: dict[str, Any] = {"at": OCTOBER} if row.in_october else {"at": JANUARY_2025} if row.in_2025 else {}
    refusal = world.refused(row.command, {key: value for key, value in body.items() if value is not None}, **given)
    assert refusal.code == row.code
    assert refusal.details.keys() == set(row.details.split())
    assert refusal.retryable == row.code.retryable
    assert refusal.message == row.code.meaning.text
    assert world.business_state() == before
    assert world.book.command_sequence == inbox + (not row.code.retryable)


def placed(row: Row, scene: Scene) -> World:
    """The scene's world, with the tenant's gateway as the row wants it."""
    gateway = scene.world.tenant.gateway
    assert gateway is not None
    changed = None if row.gateway is None else gateway.model_copy(update=dict(row.gateway))
    scene.world.tenant = scene.world.tenant.model_copy(update={"gateway": changed})
    return scene.world


@pytest.mark.parametrize("row", [row for row in TABLE if row.code in AWAITABLE], ids=_name)
def test_what_may_still_arrive_is_waited_for(row: Row, scene: Scene) -> None:
    world = scene.world
    before = world.state()
    body = {key: value for key, value in body_of(row, scene).items() if value is not None}
    (verdict,) = world.run([world.command(row.command, body, may_wait=True)])
    arrived_elsewhere = row.details == "charge_id account_id"  # it is there, on another account: waiting cannot help
    assert verdict.status == ("rejected" if arrived_elsewhere else "deferred")
    assert (world.state() == before) != arrived_elsewhere


def test_the_scene_itself_is_sound_but_for_the_draft_put_into_a_closed_month(scene: Scene) -> None:
    check_all(scene.world)


# --- completeness -----------------------------------------------------------------------------------------------------


def _functions() -> dict[tuple[str, str], ast.FunctionDef]:
    found = {}
    for path in Path(engine.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                found[path.stem, node.name] = node
    return found


def _codes_of(
    name: tuple[str, str], functions: dict[tuple[str, str], ast.FunctionDef], seen: set[tuple[str, str]]
) -> Iterator[str]:
    """The codes in a function and in every function of the domain that it names, directly or not."""
    seen.add(name)
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Code":
            yield node.attr
        if isinstance(node, ast.Name):
            own = (name[0], node.id)
            targets = [own] if own in functions else [key for key in functions if key[1] == node.id]
            for target in targets:
                if target not in seen:
                    yield from _codes_of(target, functions, seen)


def test_the_table_has_a_row_for_every_code_that_a_command_can_give_and_none_besides() -> None:
    functions = _functions()
    possible = set()
    for name, capability in engine.CAPABILITIES.items():
        decide = (capability.decide.__module__.split(".")[-1], capability.decide.__name__)
        possible |= {(name, Code[code]) for code in _codes_of(decide, functions, set())}
    assert possible == {(row.command, row.code) for row in TABLE}


NOT_OF_A_COMMAND = {  # given by the engine for any command (tests/domain/test_engine.py), and by admission (below)
    Code.IDEMPOTENCY_KEY_REUSED,
    Code.COMMAND_FAILED,
    Code.TENANT_NOT_ENTITLED,
    Code.RESIDENCY_VIOLATION,
}


def test_every_code_that_the_domain_names_has_a_row_or_a_test_of_its_own() -> None:
    functions = _functions()
    named = {Code[code] for name in functions for code in _codes_of(name, functions, set())}
    assert named == {row.code for row in TABLE} | NOT_OF_A_COMMAND


def test_every_code_has_a_meaning() -> None:
    assert set(Code) == MEANINGS.keys()


def test_admission_refuses_a_tenant_that_is_not_entitled_or_belongs_elsewhere() -> None:
    def refusal(region: str = DUBAI.region, **changes: Any) -> Problem | None:
        return admission(DUBAI.model_copy(update=changes), region)

    assert refusal() is None
    barred, foreign = refusal(entitled=False), refusal("eu-west-1")
    assert barred is not None and barred.code == Code.TENANT_NOT_ENTITLED
    assert foreign is not None and foreign.code == Code.RESIDENCY_VIOLATION
    assert foreign.details == {"tenant_region": DUBAI.region, "region": "eu-west-1"}
    assert refusal("eu-west-1", cross_region_opt_in=True) is None
    both = refusal("eu-west-1", entitled=False)
    assert both is not None and both.code == Code.TENANT_NOT_ENTITLED
    away = problem(Code.TENANT_SERVICE_UNAVAILABLE)
    assert admission(away, DUBAI.region) is away


# --- precedence -------------------------------------------------------------------------------------------------------

SEVERAL: list[tuple[str, str, Any]] = [
    # (command, the code of the lowest stage, a body with that reason and others of later stages)
    ("account.open", "party_shares_invalid", lambda s: {"account_id": s.busy, "parties": [party("a", 1)]}),
    ("account.update", "duplicate_reference", lambda s: {"parties": [party("a", 5_000)] * 2}),
    ("account.update", "party_shares_invalid", lambda s: {"account_id": s.closed, "parties": [party("a", 1)]}),
    (
        "pricelist.publish",
        "duplicate_reference",
        lambda s: {"prices": [{"code": "A", "unit_price_minor": 1, "revenue_code": "9999"}] * 2},
    ),
    ("charge.capture", "already_exists", lambda s: {"account_id": s.closed, "charge_id": s.charge}),
    ("charge.capture", "ledger_account_unknown", lambda s: {"account_id": s.closed, "revenue_code": "9999"}),
    ("charge.capture", "account_closed", lambda s: {"account_id": s.closed, "unit_price": money(1, "AFN")}),
    (
        "charge.capture",
        "price_not_found",
        lambda s: {"account_id": s.closed, "unit_price": None, "price_list": "none"},
    ),
    ("invoice.create", "duplicate_reference", lambda s: {"lines": None, "charge_ids": [NOBODY, NOBODY]}),
    (
        "invoice.create",
        "charge_not_found",
        lambda s: {"account_id": s.closed, "lines": None, "charge_ids": [s.charge_of_other]},
    ),
    (
        "invoice.create",
        "charge_not_found",
        lambda s: {"account_id": s.busy, "lines": None, "charge_ids": [s.void_charge, s.charge_of_other]},
    ),
    (
        "invoice.create",
        "ledger_account_unknown",
        lambda s: {"account_id": s.closed, "lines": [line(0, revenue_code="9999")]},
    ),
    (
        "invoice.create",
        "period_closed",
        lambda s: {"account_id": s.busy, "lines": [line(0)], "invoice_date": "2026-10-01"},
    ),
    ("invoice.write_off", "invoice_not_open", lambda s: {"invoice_id": s.settled, "amount_minor": 10**9}),
    (
        "credit_note.issue",
        "duplicate_reference",
        lambda s: {"lines": [{"line_number": 1}, {"line_number": 1}]},
    ),
    (
        "credit_note.issue",
        "already_exists",
        lambda s: {"invoice_id": s.void, "credit_note_id": s.note},
    ),
    (
        "credit_note.issue",
        "invoice_line_not_found",
        lambda s: {"invoice_id": s.void, "lines": [{"line_number": 1, "net_minor": 10**9}, {"line_number": 9}]},
    ),
    (
        "credit_note.issue",
        "invoice_not_open",
        lambda s: {"invoice_id": s.void, "lines": [{"line_number": 1, "net_minor": 10**9}]},
    ),
    (
        "payment.record",
        "duplicate_reference",
        lambda s: {"allocations": [{"invoice_id": NOBODY, "amount_minor": 1}] * 2},
    ),
    ("payment.record", "already_exists", lambda s: {"account_id": s.closed, "payment_id": s.credit}),
    ("payment.record", "party_not_found", lambda s: {"account_id": s.closed, "party_id": "stranger"}),
    (
        "payment.record",
        "invoice_not_found",
        lambda s: {
            "account_id": s.closed,
            "allocations": [{"invoice_id": one, "amount_minor": MAX_AMOUNT_MINOR} for one in (s.settled, NOBODY)],
        },
    ),
    (
        "payment.record",
        "invoice_of_other_account",
        lambda s: {
            "account_id": s.busy,
            "amount": money(1, "AFN"),
            "allocations": [{"invoice_id": s.issued_of_other, "amount_minor": 10**9}],
        },
    ),
    (
        "payment.record",
        "period_closed",
        lambda s: {"account_id": s.busy, "amount": money(1, "AFN"), "received_on": "2026-10-01"},
    ),
    (
        "payment.allocate",
        "invoice_not_found",
        lambda s: {"payment_id": s.reversed, "allocations": [{"invoice_id": NOBODY, "amount_minor": 1}]},
    ),
    (
        "payment.allocate",
        "payment_reversed",
        lambda s: {"payment_id": s.reversed, "allocations": [{"invoice_id": s.issued, "amount_minor": 10**9}]},
    ),
    ("payment.unallocate", "invoice_not_found", lambda s: {"payment_id": s.reversed}),
    ("payment.refund", "already_exists", lambda s: {"payment_id": s.refund, "refund_id": s.refund}),
    ("payment.refund", "payment_reversed", lambda s: {"payment_id": s.reversed, "amount_minor": 10**9}),
    (
        "payment.refund",
        "period_closed",
        lambda s: {"payment_id": s.credit, "amount_minor": 10**9, "refunded_on": "2026-10-01"},
    ),
    ("payment.reverse", "payment_refunded", lambda s: {"payment_id": s.refunded, "effective_on": "2026-10-01"}),
    (
        "ledger.adjust",
        "duplicate_reference",
        lambda s: {"debit_code": "9999", "credit_code": "9999", "effective_on": "2026-10-01"},
    ),
    ("ledger.adjust", "ledger_account_unknown", lambda s: {"credit_code": "9999", "effective_on": "2026-10-01"}),
]


@pytest.mark.parametrize(("name", "code", "body"), SEVERAL, ids=[f"{name}-{code}" for name, code, _ in SEVERAL])
def test_of_several_reasons_the_one_of_the_lowest_stage_is_given(name: str, code: str, body: Any, scene: Scene) -> None:
    given = {key: value for key, value in (BODIES[name] | body(scene)).items() if value is not None}
    assert scene.world.refused(name, given).code == code


def test_what_was_known_before_the_transaction_comes_before_anything_found_in_it(scene: Scene) -> None:
    barred = problem(Code.TENANT_NOT_ENTITLED)
    assert scene.world.refused("account.close", BODIES["account.close"], refusal=barred).code == barred.code


def test_stages_are_in_the_documented_order() -> None:
    assert list(Stage) == [Stage.AUTHORISATION, Stage.SHAPE, Stage.EXISTENCE, Stage.STATE, Stage.AMOUNT]
    assert sorted(Stage) == list(Stage)
