"""The engine apart from billing: inbox, order, isolation of failures, numbering, and that the registry tells the truth."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain import engine
from domain.decision import Accepted, Capability, Command, Decision, Event, LedgerKey, Posting
from domain.entities import Account, Book, Charge, ChartEntry, InboxEntry
from domain.ids import derived_id, ledger_account_id
from domain.lookups import ACCOUNT, ALL, BOOK, CHARGES_OF_GROUP, INBOX, PRIMARY
from domain.snapshot import Needs, NotLoaded, Snapshot
from schemas.account import AccountResult
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.registry import COMMANDS
from tests.domain.bodies import smallest_body
from tests.domain.hospital import capture, money, open_account
from tests.domain.invariants import check_all, event_headers
from tests.domain.world import JOINS, NOON, World, command, outcome, uid

OPEN = {"patient": "Patient/1", "currency": "AED"}


def record(account_id: UUID, amount: int = 100, **more: Any) -> dict[str, Any]:
    return {"account_id": account_id, "amount": money(amount), "method": "cash", **more}


def statuses(verdicts: list[engine.Verdict]) -> list[str]:
    return [verdict.status for verdict in verdicts]


# --- the inbox --------------------------------------------------------------------------------------------------------


def test_a_duplicate_inside_a_batch_answers_with_the_first_outcome() -> None:
    world = World()
    first = world.command("account.open", OPEN)
    verdicts = world.run([first, first, first])
    assert statuses(verdicts) == ["applied", "duplicate", "duplicate"]
    assert verdicts[0].result == verdicts[1].result == verdicts[2].result
    assert len(world.all(Account)) == len(world.all(InboxEntry)) == len(world.outbox) == 1


def test_a_duplicate_in_a_later_batch_changes_nothing_even_if_the_state_moved_on() -> None:
    world = World()
    account_id = open_account(world)
    close = world.command("account.close", {"account_id": account_id})
    world.run([close])
    world.do("account.update", {"account_id": account_id, "reopen": True})
    before = world.state()
    (again,) = world.run([close])
    assert again.status == "duplicate" and again.result is not None and '"closed"' in again.result
    assert world.state() == before


def test_the_duplicate_of_a_refusal_is_the_refusal_even_if_it_would_be_accepted_now() -> None:
    world = World()
    account_id = uid(77)
    early = world.command("payment.record", record(account_id))
    (refused,) = world.run([early])
    world.do("account.open", {**OPEN, "account_id": account_id})
    (again,) = world.run([early])
    assert (refused.status, again.status) == ("rejected", "duplicate")
    assert again.error == refused.error and again.result is None


def test_an_id_used_with_another_body_is_refused_and_the_stored_outcome_stays() -> None:
    world = World()
    first = world.command("account.open", OPEN)
    other = command("account.open", {**OPEN, "locale": "ar"}, command_id=first.command_id)
    other_name = command("account.close", {"account_id": uid(5)}, command_id=first.command_id)
    verdicts = world.run([first, other, other_name, first])
    assert statuses(verdicts) == ["applied", "rejected", "rejected", "duplicate"]
    assert verdicts[1].code == verdicts[2].code == Code.IDEMPOTENCY_KEY_REUSED
    assert len(world.all(InboxEntry)) == 1 and world.book.command_sequence == 1


def test_the_order_of_fields_in_a_body_does_not_make_it_another_one() -> None:
    world = World()
    first = world.command("account.open", OPEN)
    turned = command("account.open", dict(reversed(OPEN.items())), command_id=first.command_id)
    assert statuses(world.run([first, turned])) == ["applied", "duplicate"]


# --- refusals that are not final --------------------------------------------------------------------------------------


def test_rule_13_a_retryable_refusal_is_not_stored_and_the_same_id_may_succeed_later() -> None:
    world = World()
    open_account(world)
    before = world.tables_and_events()
    away = world.command("account.open", OPEN, refusal=problem(Code.TENANT_SERVICE_UNAVAILABLE))
    (refused,) = world.run([away])
    assert refused.status == "rejected" and refused.error is not None
    assert Problem.model_validate_json(refused.error).retryable
    assert world.tables_and_events() == before
    assert statuses(world.run([away._replace(refusal=None)])) == ["applied"]


def test_rule_13_a_final_refusal_stays_for_that_id() -> None:
    world = World()
    barred = world.command("account.open", OPEN, refusal=problem(Code.TENANT_NOT_ENTITLED))
    assert statuses(world.run([barred])) == ["rejected"]
    (again,) = world.run([barred._replace(refusal=None)])
    assert again.status == "duplicate" and again.error is not None and "tenant_not_entitled" in again.error
    assert not world.all(Account)


def test_a_tenants_first_command_may_be_one_that_leaves_nothing_behind() -> None:
    world = World()
    world.run([world.command("account.open", OPEN, refusal=problem(Code.TENANT_SERVICE_UNAVAILABLE))])
    assert world.tables_and_events() == ({}, [])


def test_a_reference_that_is_not_there_yet_is_deferred_and_leaves_nothing_behind() -> None:
    world = World()
    early = world.command("payment.record", record(uid(77)), may_wait=True)
    (deferred,) = world.run([early])
    assert (deferred.status, deferred.code) == ("deferred", Code.ACCOUNT_NOT_FOUND)
    assert world.state() == ({}, [])
    world.do("account.open", {**OPEN, "account_id": uid(77)})
    assert statuses(world.run([early])) == ["applied"]


def test_a_deferred_command_does_not_hold_up_its_neighbours_and_is_final_once_it_may_not_wait() -> None:
    world = World()
    early = world.command("payment.record", record(uid(77)), may_wait=True)
    verdicts = world.run([early, world.command("account.open", OPEN), early._replace(may_wait=False), early])
    assert statuses(verdicts) == ["deferred", "applied", "rejected", "duplicate"]
    check_all(world)


@pytest.mark.parametrize("may_wait", [True, False])
def test_a_draft_may_be_about_to_be_issued_but_a_void_invoice_stays_void(may_wait: bool) -> None:
    world = World()
    account_id = open_account(world)
    line = {"description": "care", "quantity": 1, "unit_price_minor": 100}
    created = world.do("invoice.create", {"account_id": account_id, "lines": [line]})
    invoice_id = created["documents"][0]["invoice_id"]
    body = record(account_id, allocations=[{"invoice_id": invoice_id, "amount_minor": 100}])
    (on_draft,) = world.run([world.command("payment.record", body, may_wait=may_wait)])
    assert on_draft.status == ("deferred" if may_wait else "rejected")
    world.do("invoice.void", {"invoice_id": invoice_id, "reason": "wrong"})
    (on_void,) = world.run([world.command("payment.record", body, may_wait=may_wait)])
    assert (on_draft.code, on_void.code, on_void.status) == (Code.INVOICE_NOT_OPEN, Code.INVOICE_NOT_OPEN, "rejected")


# --- a bug in one capability ------------------------------------------------------------------------------------------


def _broken(decide: Any) -> Capability:
    return Capability(lambda command: [], decide)


def _raises(snapshot: Snapshot, command: Command[Any]) -> Decision:
    raise RuntimeError("a bug")


def _reads_what_it_did_not_ask_for(snapshot: Snapshot, command: Command[Any]) -> Decision:
    snapshot.get(Account, uid(99))
    raise AssertionError("unreachable")


def _posting_of(amount: int, debit: str, credit: str) -> Any:
    def decide(snapshot: Snapshot, command: Command[Any]) -> Decision:
        account = _account(command)
        posting = Posting(LedgerKey(debit, "AED"), LedgerKey(credit, "AED"), amount, "test", account.id, command.today)
        return Accepted(_result(account), (_event(command),), (account,), (posting,))

    return decide


def _event_that_cannot_travel(snapshot: Snapshot, command: Command[Any]) -> Decision:
    account = _account(command)
    return Accepted(_result(account), (_event(command), _event(command, "Patient\r\nforged: yes")), (account,))


def _account(command: Command[Any]) -> Account:
    return Account(uid(500), "Patient/1", None, "AED", "en", "open", (), command.recorded_at)


def _result(account: Account) -> AccountResult:
    return AccountResult(account_id=account.id, status="open")


def _event(command: Command[Any], subject_id: str = "x") -> Event:
    return Event("account.opened", subject_id, _result(_account(command)))


BUGS = {
    "raises": _raises,
    "not loaded": _reads_what_it_did_not_ask_for,
    "zero posting": _posting_of(0, "1000", "4000"),
    "negative posting": _posting_of(-1, "1000", "4000"),
    "posting on one account": _posting_of(1, "1000", "1000"),
    "event cannot be encoded": _event_that_cannot_travel,
}


@pytest.fixture(params=BUGS)
def broken_close(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(engine.CAPABILITIES, "account.close", _broken(BUGS[request.param]))
    yield


@pytest.mark.usefixtures("broken_close")
def test_a_decide_that_fails_leaves_its_neighbours_and_the_snapshot_untouched() -> None:
    with_bug, without = World(), World()
    opened = [command("account.open", {**OPEN, "account_id": uid(90 + n)}, command_id=n) for n in (1, 3)]
    broken = command("account.close", {"account_id": uid(91)}, command_id=2)
    verdicts = with_bug.run([opened[0], broken, opened[1]])
    without.run(opened)
    assert statuses(verdicts) == ["applied", "failed", "applied"]
    assert verdicts[1].failure is not None and verdicts[1].code == Code.COMMAND_FAILED
    assert with_bug.state() == without.state()
    check_all(with_bug)


@pytest.mark.usefixtures("broken_close")
def test_a_tenants_first_command_that_fails_leaves_no_rows() -> None:
    world = World()
    broken = world.command("account.close", {"account_id": uid(91)})
    assert statuses(world.run([broken])) == ["failed"]
    assert world.state() == ({}, [])
    open_account(world)
    check_all(world)


# --- numbering, ids, seeding ------------------------------------------------------------------------------------------


def test_event_and_command_sequences_are_gapless_over_applied_refused_and_duplicate_commands() -> None:
    world = World()
    for batch in range(3):
        opened = world.command("account.open", {**OPEN, "account_id": uid(100 + batch)})
        missing = world.command("account.close", {"account_id": uid(9)})
        world.run([opened, missing, opened, world.command("payment.record", record(uid(100 + batch)))])
    assert [int(event_headers(row)["ce-sequence"]) for row in world.outbox] == [1, 2, 3, 4, 5, 6]
    assert sorted(row.sequence for row in world.all(InboxEntry)) == list(range(1, 10))
    check_all(world)


def test_an_event_carries_its_command_correlation_and_time() -> None:
    world = World()
    opened = world.command("account.open", OPEN, correlation_id="kong-1")
    world.run([opened])
    fields = event_headers(world.outbox[0])
    assert fields["Billing-Command-Id"] == str(opened.command_id)
    assert fields["Billing-Correlation-Id"] == "kong-1"
    assert fields["ce-time"] == opened.recorded_at.isoformat()
    assert fields["ce-type"] == "billing.v1.account.opened"
    assert fields["Nats-Msg-Id"] == fields["ce-id"]
    assert world.outbox[0].subject == "billing.v1.evt.dubai.account.opened"


def test_the_same_stream_gives_the_same_rows() -> None:
    worlds = [World(seed=seed) for seed in (1, 2)]
    for world in worlds:
        account_id = open_account(world)
        world.do("payment.record", record(account_id))
    assert worlds[0].state() == worlds[1].state()


def test_derived_ids_depend_on_tenant_command_and_part_and_begin_with_the_time() -> None:
    ids = {
        derived_id(tenant, uid(number), NOON, part)
        for tenant in ("a", "b")
        for number in (1, 2)
        for part in ("account", "payment")
    }
    assert len(ids) == 8
    assert {one.version for one in ids} == {8}
    assert {one.int >> 80 for one in ids} == {int(NOON.timestamp() * 1000)}
    later = derived_id("a", uid(1), NOON + timedelta(milliseconds=1), "account")
    assert later > max(ids)


def test_ids_are_what_they_were_in_earlier_releases() -> None:
    """Replaying an old stream has to give the same rows: these values may never change."""
    assert str(derived_id("dubai", uid(1), NOON, "account")) == "01a19c21-7200-8a4e-882e-4b9773b7e562"
    assert str(ledger_account_id("dubai", "1100", "AED", uid(1), "patient")) == "af3a170c-1a6c-86c1-af7b-e2cbdc93c072"


def test_ledger_accounts_differ_by_every_part_of_their_key() -> None:
    keys: list[tuple[Any, ...]] = [
        ("a", "1100", "AED", uid(1), "p"),
        ("b", "1100", "AED", uid(1), "p"),
        ("a", "2100", "AED", uid(1), "p"),
        ("a", "1100", "AFN", uid(1), "p"),
        ("a", "1100", "AED", uid(2), "p"),
        ("a", "1100", "AED", uid(1), "q"),
        ("a", "1100", "AED", uid(1), None),
        ("a", "1100", "AED", None, None),
    ]
    assert len({ledger_account_id(*key) for key in keys}) == len(keys)


def test_the_first_command_seeds_the_chart_once_even_if_it_is_refused() -> None:
    world = World()
    world.refused("account.close", {"account_id": uid(1)})
    chart = world.state()[0][ChartEntry]
    assert {"1000", "1100", "2100", "2200", "4000", "5900"} <= chart.keys()
    open_account(world)
    assert world.state()[0][ChartEntry] == chart
    assert len(world.all(Book)) == 1


# --- the registry tells the truth -------------------------------------------------------------------------------------


def test_every_command_has_a_capability_and_every_capability_a_command() -> None:
    assert engine.CAPABILITIES.keys() == COMMANDS.keys()


def test_needs_asks_for_the_inbox_and_the_book_and_for_nothing_else_of_a_command_already_refused() -> None:
    one = command("account.close", {"account_id": uid(9)}, command_id=1)
    two = command("account.close", {"account_id": uid(8)}, command_id=2, refusal=problem(Code.TENANT_NOT_ENTITLED))
    wanted = engine.needs([one, two])
    assert wanted[BOOK] == {()} and wanted[INBOX] == {uid(1), uid(2)}
    assert wanted[ACCOUNT] == {uid(9)}


def test_this_world_spells_out_every_join_lookup() -> None:
    assert {lookup.of for lookup in ALL if lookup.of} == JOINS.keys()


def test_reading_a_row_that_nobody_asked_for_is_a_bug_and_an_absent_one_an_answer() -> None:
    snapshot = Snapshot("dubai", {ACCOUNT: {uid(1)}}, [])
    assert snapshot.get(Account, uid(1)) is None
    with pytest.raises(NotLoaded):
        snapshot.get(Account, uid(2))
    for lookup in ALL:
        if lookup.columns and lookup not in PRIMARY.values():
            with pytest.raises(NotLoaded):
                snapshot.find(lookup, uid(1))


def test_rows_are_found_by_what_their_columns_are_now() -> None:
    world = World()
    charge = world.one(Charge, capture(world, open_account(world), 100))._replace(invoice_group_id=uid(1))
    snapshot = Snapshot("dubai", {CHARGES_OF_GROUP: {uid(1), uid(2)}}, [charge, charge])
    assert snapshot.find(CHARGES_OF_GROUP, uid(1)) == [charge]
    moved = charge._replace(invoice_group_id=uid(2))
    snapshot.put(moved)
    assert (snapshot.find(CHARGES_OF_GROUP, uid(1)), snapshot.find(CHARGES_OF_GROUP, uid(2))) == ([], [moved])
    assert snapshot.changes().updates == {Charge: [moved]}


def _needs_nothing(command: Command[Any]) -> Needs:
    return []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_decide_gets_by_without_what_its_needs_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command reads something that only its own `needs` can have brought: a store that loads nothing makes it fail."""
    decide = engine.CAPABILITIES[name].decide
    monkeypatch.setitem(engine.CAPABILITIES, name, Capability(_needs_nothing, decide))
    (verdict,) = World().run([command(name, smallest_body(name), command_id=1)])
    assert isinstance(verdict.failure, NotLoaded)


def test_outcomes_compare_by_what_the_client_sees() -> None:
    one, two = World(), World(seed=9)
    opened = command("account.open", OPEN, command_id=1)
    assert outcome(one.run([opened])[0]) == outcome(two.run([opened])[0])
