"""A circuit breaker of our own: small, and why, in docs/decisions/0036.

Closed: calls pass; `failures` in a row open it. Open: nothing passes for a while, twice as long each time the gateway does not
come back. Then half-open: one call at a time passes, and its end decides.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

State = Literal["closed", "half_open", "open"]


class Limits(NamedTuple):
    failures: int = 5
    open_seconds: float = 5.0
    open_max_seconds: float = 60.0


class Change(NamedTuple):
    """`open_until`: of `open` only, when the next call is let through."""

    state: State
    open_until: datetime | None = None


class Call:
    """One call that was let through. Neither `succeeded` nor `failed`: it says nothing about the gateway."""

    def __init__(self) -> None:
        self.verdict: bool | None = None

    def succeeded(self) -> None:
        self.verdict = True

    def failed(self) -> None:
        self.verdict = False


class Circuit:
    """`on_change` is called with every new state, in the event loop; it must not block."""

    def __init__(self, limits: Limits, on_change: Callable[[Change], None]) -> None:
        self._limits, self._on_change = limits, on_change
        self.state: State = "closed"
        self._failures = 0  # in a row
        self._openings = 0  # in a row
        self._retry_at = 0.0
        self._trying = False

    def refuses(self) -> bool:
        """Whether a call would not be let through now."""
        if self.state == "closed":
            return False
        return self._trying or time.monotonic() < self._retry_at

    @contextmanager
    def call(self) -> Iterator[Call | None]:
        """A call that may be made, or None. Its verdict counts when the block ends, however it ends."""
        if self.refuses():
            yield None
            return
        trying = self.state != "closed"
        if trying:
            self._trying = True
            self._change("half_open")
        call = Call()
        try:
            yield call
        finally:
            if trying:
                self._trying = False
            self._judge(call.verdict, trying)

    def _judge(self, verdict: bool | None, trying: bool) -> None:
        if verdict is True:
            # Also a call from before it opened: whoever answers is there.
            self._failures = self._openings = 0
            if self.state != "closed":
                self._change("closed")
        elif verdict is False:
            self._failures += 1
            if trying or (self.state == "closed" and self._failures >= self._limits.failures):
                self._open()

    def _open(self) -> None:
        seconds = min(self._limits.open_seconds * 2**self._openings, self._limits.open_max_seconds)
        self._openings = min(self._openings + 1, 16)
        self._retry_at = time.monotonic() + seconds
        self._change("open", datetime.now(UTC) + timedelta(seconds=seconds))

    def _change(self, state: State, open_until: datetime | None = None) -> None:
        known = self.state == state and open_until is None
        self.state = state
        if not known:
            self._on_change(Change(state, open_until))
