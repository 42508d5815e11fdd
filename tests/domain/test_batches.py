"""A batch of N equals N batches of one, and any other partition: the same answers, the same store (docs/decisions/0001)."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.decision import Command
from schemas.codes import Code
from schemas.outcome import problem
from tests.domain.author import ACCOUNTS, PARTIES, Author, new_model
from tests.domain.invariants import check_all, check_contracts
from tests.domain.world import World, describe, outcome

pytestmark = pytest.mark.timeout(3_600)  # the `dev` profile searches for as long as it takes


def history(seed: int, length: int) -> list[Command[Any]]:
    """Random commands of one tenant with redeliveries, reused ids and neighbours that were away, two accounts first."""
    random = Random(seed)
    world, model = World(), new_model()
    author = Author(model, world)
    commands = []
    for account_id, parties in zip(ACCOUNTS, PARTIES[:2], strict=False):
        body = {"account_id": account_id, "patient": "Patient/1", "currency": "AED", "parties": parties}
        commands.append(world.command("account.open", body))
        model.judge("account.open", body, commands[-1]).effect()
    while len(commands) < length:
        command, judgement = author.write(seed)
        chance = random.random()
        if chance < 0.05:
            commands.append(command._replace(refusal=problem(Code.TERMINOLOGY_UNAVAILABLE)))
        elif chance < 0.10:
            commands.append(random.choice(commands)._replace(payload_hash=bytes(32)))
        elif chance < 0.25:
            commands.append(random.choice(commands)._replace(refusal=None))
        commands.append(command)
        if not judgement.reasons:
            judgement.effect()
    return commands


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(3, 120),
    sizes=st.lists(st.integers(1, 40), max_size=30),
)
@settings(max_examples=settings().max_examples * 3 // 2)
def test_any_partition_into_batches_gives_the_same_answers_and_the_same_store(
    seed: int, length: int, sizes: list[int]
) -> None:
    commands = history(seed, length)
    whole, single, parts = World(seed=1), World(seed=2), World(seed=3)
    answers = [outcome(verdict) for verdict in whole.run(commands)]
    assert answers == [outcome(verdict) for verdict in single.run_partitioned(commands, [1] * len(commands))]
    assert answers == [outcome(verdict) for verdict in parts.run_partitioned(commands, sizes)]
    assert whole.state() == single.state() == parts.state()
    check_all(whole)
    check_contracts(whole)
    assert not [describe(verdict) for verdict in whole.verdicts if verdict.status == "failed"]


@given(seed=st.integers(0, 2**32), again=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=20))
@settings(max_examples=settings().max_examples)
def test_redelivery_after_any_batch_changes_nothing(seed: int, again: list[tuple[int, int]]) -> None:
    """`again`: after how many commands, which of those that were sent comes once more."""
    commands = [command._replace(may_wait=False) for command in history(seed, 60)]
    commands = [command for command in commands if command.refusal is None][:60]
    once, often = World(seed=1), World(seed=2)
    once.run(commands)
    redelivered = list(commands)
    for after, which in sorted(again, reverse=True):
        last = min(after, len(commands) - 1)
        redelivered.insert(last + 1, commands[min(which, last)])
    often.run_partitioned(redelivered, [7] * 20)
    assert once.state() == often.state()


@pytest.mark.parametrize("seed", range(4))
def test_histories_reach_every_command(seed: int) -> None:
    """The tests above are worth what their histories are: over a few, every command the author writes is applied."""
    applied = set()
    for each in range(seed * 10, seed * 10 + 10):
        world = World(seed=each)
        commands = history(each, 150)
        applied |= {
            command.name
            for command, verdict in zip(commands, world.run(commands), strict=True)
            if verdict.status == "applied"
        }
    assert len(applied) == 17, applied
