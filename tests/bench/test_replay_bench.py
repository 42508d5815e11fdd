"""The replay benchmark works: both rates are measured, and the replay changes nothing. Figures are for a quiet machine."""

from tests.fixtures.servers import TEMPLATE
from tools.bench import replay
from tools.stack import Stack


def test_the_replay_benchmark_measures_both_rates_and_finds_the_ledgers_unchanged(stack: Stack) -> None:
    measured = replay.measure(1_000, 2, stack=stack, template=TEMPLATE)
    assert measured.same_ledgers
    assert measured.payments == 1_000
    assert measured.ratio == round(measured.replay_per_second / measured.first_per_second, 2) > 0
