"""How often a command was given back because something it names is not there yet.

The server's delivery count alone cannot tell: an outage uses deliveries up too, and afterwards the messages of a chain come back
in any order. Counted per process, in memory; of a command that went to another replica in between, and without an outage, that
one has made it wait as well. So who names what does not exist hears so in 4 s from one replica, in 11 on average from eight.

After an outage what a command names may itself be lying in a delay of up to RETRY_MAX_SECONDS: a command that came through one,
or just after one, waits longer. What a killed process held comes after `ack_wait`, which nobody else can know of: a command that
names something of that may be refused before, and its sender has to send it anew.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from handlers.inbound import Delivery

# 0.25 + 0.5 + 1 + 2 = 3.75 s (handlers/answers.py) for the command it depends on to catch up, then the refusal is final.
MAX_WAITS = 4
# … + 4 + 8 + 16 = 31.75 s, above the 30 s of RETRY_MAX_SECONDS, while an outage may still be making itself felt.
LATE_WAITS = 7
OUTAGE_FELT_SECONDS = 30.0
# Entries of commands that another replica finished stay until others push them out: 10,000 are about 2 MB.
MAX_REMEMBERED = 10_000


class _Waited(NamedTuple):
    """`late`: it was postponed, or a process died with it, before or while it waited."""

    times: int
    delivered: int
    late: bool


class Waits:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._felt_until = float("-inf")
        self._waited: OrderedDict[tuple[str, int], _Waited] = OrderedDict()

    def outage(self) -> None:
        """Commands were postponed because something was away."""
        self._felt_until = self._clock() + OUTAGE_FELT_SECONDS

    def may_wait(self, delivery: Delivery) -> bool:
        waited = self._so_far(delivery)
        return waited.times < (LATE_WAITS if waited.late or self._felt() else MAX_WAITS)

    def add(self, delivery: Delivery) -> int:
        """Counts one more; how many there were, this one included."""
        before = self._so_far(delivery)
        self._waited.pop(_key(delivery), None)
        self._waited[_key(delivery)] = _Waited(before.times + 1, delivery.delivered, before.late)
        if len(self._waited) > MAX_REMEMBERED:
            self._waited.popitem(last=False)
        return before.times + 1

    def forget(self, delivery: Delivery) -> None:
        self._waited.pop(_key(delivery), None)

    def _so_far(self, delivery: Delivery) -> _Waited:
        before = self._waited.get(_key(delivery))
        if before is None:
            return _Waited(0, delivery.delivered, late=delivery.delivered > 1)
        elsewhere = max(0, delivery.delivered - before.delivered - 1)
        if elsewhere and self._felt():  # postponed, rather than made to wait
            return before._replace(late=True)
        return before._replace(times=before.times + elsewhere)

    def _felt(self) -> bool:
        return self._clock() < self._felt_until


def _key(delivery: Delivery) -> tuple[str, int]:
    return delivery.stream, delivery.stream_sequence
