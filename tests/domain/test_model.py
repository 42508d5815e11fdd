"""Random sequences of commands against the reference model; DOMAIN rule 15 after every batch."""

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.decision import Command
from domain.entities import Account, Charge, Invoice, Payment
from schemas.codes import Code
from schemas.outcome import problem
from tests.domain.author import ACCOUNTS, PARTIES, Author, new_model
from tests.domain.invariants import check_all, check_contracts
from tests.domain.model_state import Judgement
from tests.domain.world import World, describe

pytestmark = pytest.mark.timeout(3_600)  # the `dev` profile searches for as long as it takes
SEEDS = st.integers(0, 2**32)


class Expected:
    """What a command should come to. `codes` are those it may be refused with, `says` what its result has to contain."""

    def __init__(self, status: str, codes: set[Code] | None = None, says: dict[str, Any] | None = None) -> None:
        self.status, self.codes, self.says = status, codes or set(), says or {}


class BillingMachine(RuleBasedStateMachine):
    """Rules add commands to a batch; `save` runs it. The model has judged each when it was written, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.world, self.model = World(), new_model()
        self.author = Author(self.model, self.world)
        self.batch: list[tuple[Command[Any], Expected]] = []
        self.known: dict[Any, tuple[Command[Any], Expected]] = {}  # by command id: what the inbox holds

    @initialize()
    def two_accounts(self) -> None:
        for account_id, parties in zip(ACCOUNTS, PARTIES[:2], strict=False):
            body = {"account_id": account_id, "patient": "Patient/1", "currency": "AED", "parties": parties}
            command = self.world.command("account.open", body)
            self._add(command, self.model.judge("account.open", body, command))

    def _add(self, command: Command[Any], judgement: Judgement) -> None:
        if not judgement.reasons:
            expected = Expected("applied", says=judgement.effect())
        else:
            waits = command.may_wait and judgement.reasons[0].awaits
            codes = {reason.code for reason in judgement.reasons}
            expected = Expected("deferred" if waits else "rejected", codes)
        if expected.status != "deferred":
            self.known[command.command_id] = command, expected
        self.batch.append((command, expected))

    @rule(seed=SEEDS)
    def write(self, seed: int) -> None:
        self._add(*self.author.write(seed))

    @rule(seed=SEEDS, count=st.integers(5, 30))
    def write_several(self, seed: int, count: int) -> None:
        for _ in range(count):
            self._add(*self.author.write(seed))

    @precondition(lambda self: self.known)
    @rule(back=st.integers(1, 12))
    def deliver_again(self, back: int) -> None:
        command, expected = self.known[list(self.known)[-min(back, len(self.known))]]
        self.batch.append((command, Expected("duplicate", expected.codes, expected.says)))

    @precondition(lambda self: self.known)
    @rule(back=st.integers(1, 12))
    def reuse_an_id_for_another_body(self, back: int) -> None:
        command, _ = self.known[list(self.known)[-min(back, len(self.known))]]
        forged = command._replace(payload_hash=hashlib.sha256(command.payload_hash).digest())
        self.batch.append((forged, Expected("rejected", {Code.IDEMPOTENCY_KEY_REUSED})))

    @rule(seed=SEEDS, comes_back=st.booleans())
    def a_neighbour_is_away_at_first(self, seed: int, comes_back: bool) -> None:
        """Refused, retryable and not stored; the same command may then be applied."""
        command, judgement = self.author.write(seed)
        away = command._replace(refusal=problem(Code.TERMINOLOGY_UNAVAILABLE))
        self.batch.append((away, Expected("rejected", {Code.TERMINOLOGY_UNAVAILABLE})))
        if comes_back:
            self._add(command, judgement)

    @rule()
    def save(self) -> None:
        verdicts = self.world.run([command for command, _ in self.batch])
        for (command, expected), verdict in zip(self.batch, verdicts, strict=True):
            told = (
                f"{command.name}: expected {expected.status} {expected.codes} {expected.says}, was {describe(verdict)}"
            )
            assert verdict.status == expected.status, told
            error = orjson.loads(verdict.error) if verdict.error else None
            assert (error["code"] in expected.codes) if error else not expected.codes, told
            result = orjson.loads(verdict.result) if verdict.result else {}
            assert expected.says.items() <= result.items(), told
        self.batch.clear()

    @invariant()
    def the_books_agree(self) -> None:
        if self.batch:
            return
        check_all(self.world)
        check_contracts(self.world)
        model = self.model
        assert {row.id: row.status for row in self.world.all(Account)} == {
            key: "closed" if row["closed"] else "open" for key, row in model.accounts.items()
        }
        assert {row.id: (row.status, row.net_minor, row.invoice_group_id) for row in self.world.all(Charge)} == {
            key: (row["status"], row["net"], row["group"]) for key, row in model.charges.items()
        }
        assert {
            row.id: (row.status, row.number, row.total_minor, row.paid_minor, row.credited_minor, row.written_off_minor)
            for row in self.world.all(Invoice)
        } == {
            key: (
                model.status(key),
                row["number"],
                model.total(key),
                model.paid(key),
                model.credited(key),
                row["written_off"],
            )
            for key, row in model.invoices.items()
        }
        assert {row.id: (row.status, row.unapplied_minor, row.refunded_minor) for row in self.world.all(Payment)} == {
            key: ("reversed" if row["reversed"] else "recorded", model.unapplied(key), row["refunded"])
            for key, row in model.payments.items()
        }

    def teardown(self) -> None:
        if self.batch:
            self.save()
        self.the_books_agree()


TestBilling = BillingMachine.TestCase
# An example is some 100 commands in 20 batches.
TestBilling.settings = settings(max_examples=settings().max_examples * 2, stateful_step_count=50)
