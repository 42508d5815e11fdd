"""Which failures may go away by themselves: told by SQLSTATE and exception type, never by message text."""

from collections.abc import Iterator

import asyncpg
from sqlalchemy import exc

from adapters.contact_keys import ContactKeyError

# Classes of SQLSTATE (PostgreSQL documentation, appendix A) that say nothing about the data that was sent.
_TRANSIENT_CLASSES = frozenset(
    {
        "08",  # connection exception
        "28",  # login refused: the password is being rotated
        "40",  # transaction rollback: serialisation failure, deadlock
        "53",  # insufficient resources: disk full, too many connections
        "57",  # operator intervention: cancelled (statement timeout), shutting down, starting up
        "58",  # system error: I/O
    }
)
_TRANSIENT_STATES = frozenset(
    {
        "25006",  # read-only transaction: connected to a replica while a failover is under way
        "25P03",  # idle-in-transaction timeout
        "55P03",  # lock not available: lock timeout
    }
)
# The driver's own: a broken or misused connection, which includes what asyncpg makes of a server that restarts under it.
_CONNECTION_ERRORS = (asyncpg.InterfaceError, asyncpg.InternalClientError, exc.TimeoutError, OSError, TimeoutError)
# A key that is missing is the operator's to bring back; the command waits for it.
_OUTAGES = (*_CONNECTION_ERRORS, ContactKeyError)


def transient(error: BaseException) -> bool:
    """True where the same statements may succeed later; False where the data or the code is at fault.

    What SQLAlchemy and others wrapped is judged by what they wrapped. An error that nobody knows is not transient: its
    batch is taken apart until the culprit is alone, which for a real outage ends with the first transient answer.
    """
    state = sqlstate(error)
    if state:
        return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES
    return any(isinstance(cause, _OUTAGES) for cause in _causes(error))


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of an error or of what it wraps; None where PostgreSQL did not answer."""
    return next((state for cause in _causes(error) if (state := getattr(cause, "sqlstate", None))), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "orig", None) or cause.__cause__
