"""How often a command was given back because something it names is not there yet.

The server's delivery count cannot tell: an outage uses deliveries up too, and afterwards the messages of a chain come back in
any order. Counted per process, in memory: a restart, or another replica, only means a few more tries.
"""

from collections import OrderedDict

from handlers.inbound import Delivery

# 0.25 + 0.5 + 1 + 2 = 3.75 s (handlers/answers.py) for the command it depends on to catch up, then the refusal is final.
MAX_WAITS = 4
# Entries of commands that another replica finished stay until others push them out: 10,000 are about 2 MB.
MAX_REMEMBERED = 10_000


class Waits:
    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, int], int] = OrderedDict()

    def may_wait(self, delivery: Delivery) -> bool:
        return self._counts.get(_key(delivery), 0) < MAX_WAITS

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
