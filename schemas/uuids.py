"""UUIDs by the hundred thousand: `uuid.UUID` takes a microsecond or two to make and one to print, and a payment has a dozen.

Whoever has a faster class that is one (`isinstance`, equal, of the same hash and text) puts it in its place with `use`: the
PostgreSQL adapter has its driver's, which needs a tenth. Values are the same whichever it is (docs/decisions/0041).
"""

from typing import AnyStr, Protocol
from uuid import UUID


class _Make(Protocol):
    def __call__(self, given: AnyStr, /) -> UUID: ...


def _plain(given: str | bytes, /) -> UUID:
    return UUID(given) if isinstance(given, str) else UUID(bytes=given)


_make: _Make = _plain


def use(make: _Make) -> None:
    """From now on UUIDs are made by `make`: from 16 bytes, or from their canonical text."""
    global _make  # noqa: PLW0603  one class per process; which one decides nothing but the speed
    _make = make


def uuid_of(given: AnyStr) -> UUID:
    """Of 16 bytes or of a canonical text. Raises ValueError for anything else."""
    return _make(given)
