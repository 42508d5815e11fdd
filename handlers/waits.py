"""How often a command was given back because something it names is not there yet.

The server's delivery count cannot tell: an outage uses deliveries up too, and afterwards the messages of a chain come back in
any order. Counted per process, in memory: a restart, or another replica, only means a few more tries.

After an outage what a command names may itself be lying in a delay of up to RETRY_MAX_SECONDS: a command that came through one,
or just after one, waits longer. What a killed process held comes after `ack_wait`, which nobody else can know of: a command that
names something of that may be refused before, and its sender has to send it anew.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from handlers.inbound import Delivery

# 0.25 + 0.5 + 1 + 2 = 3.75 s (handlers/answers.py) for the command it depends on to catch up, then the refusal is final.
MAX_WAITS = 4
# … + 4 + 8 + 16 = 31.75 s, above the 30 s of RETRY_MAX_SECONDS, while an outage may still be making itself felt.
LATE_WAITS = 7
OUTAGE_FELT_SECONDS = 30.0
# Entries of commands that another replica finished stay until others push them out: 10,000 are about 2 MB.
MAX_REMEMBERED = 10_000


class Waits:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._felt_until = float("-inf")
        self._counts: OrderedDict[tuple[str, int], int] = OrderedDict()

    def outage(self) -> None:
        """Commands were postponed because something was away."""
        self._felt_until = self._clock() + OUTAGE_FELT_SECONDS

    def may_wait(self, delivery: Delivery) -> bool:
        count = self._counts.get(_key(delivery), 0)
        # Delivered more often than it has waited: it was postponed, or a process died with it.
        late = delivery.delivered > count + 1 or self._clock() < self._felt_until
        return count < (LATE_WAITS if late else MAX_WAITS)

    def add(self, delivery: Delivery) -> int:
        """Counts one more; how many there were, this one included."""
        count = self._counts.pop(_key(delivery), 0) + 1
        self._counts[_key(delivery)] = count
        if len(self._counts) > MAX_REMEMBERED:
            self._counts.popitem(last=False)
        return count

    def forget(self, delivery: Delivery) -> None:
        self._counts.pop(_key(delivery), None)


def _key(delivery: Delivery) -> tuple[str, int]:
    return delivery.stream, delivery.stream_sequence
