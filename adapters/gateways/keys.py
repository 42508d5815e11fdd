"""Keys: a tenant's API key, read at each use, so that a rotation fails no payment; and idempotency keys."""

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

from adapters.gateways.ports import Reason, Refused
from adapters.secrets import Secret

T = TypeVar("T")
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")  # goes into a header


def capture_key(payment_id: UUID, amount_minor: int) -> str:
    """Of one capture. The amount is part of it: another amount after a refusal is another request, and no hold is taken twice."""
    return f"{payment_id}:capture:{amount_minor}"


class Credentials:
    """`current` gives the key of the moment, or None."""

    def __init__(self, current: Callable[[], Secret | None]) -> None:
        self._current = current

    async def use(self, attempt: Callable[[str], Awaitable[T]], denied: Callable[[T], bool]) -> T | Refused:
        """`attempt` with the key; once more with another one where the first was denied and has been replaced by now: the gateway
        may drop the old key a moment before, or after, our file changes."""
        key = self._current()
        if key is None:
            return Refused(Reason.NOT_CONFIGURED, True, "no API key")
        if not _KEY.fullmatch(key.reveal()):
            return Refused(Reason.NOT_CONFIGURED, True, "the API key cannot be sent in a header")
        result = await attempt(key.reveal())
        latest = self._current() if denied(result) else None
        if latest is None or latest == key or not _KEY.fullmatch(latest.reveal()):
            return result
        return await attempt(latest.reveal())
