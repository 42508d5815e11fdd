"""WAL positions: how far a server is, so that a query can ask to read its own write from a replica."""

from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# `state`: everything visible to a snapshot taken before this statement is at or before it, since a commit is flushed before it is
# visible. `reached`: a position another session was given may be of the insert pointer, which runs ahead of the flush.
_POSITION = text(
    "SELECT (CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text AS state,"
    " (CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text AS reached"
    " FROM pg_is_in_recovery() AS in_recovery"
)


class Position(NamedTuple):
    """`state` is what an answer carries; `reached` is what a wanted position is compared with. pg_lsn text."""

    state: str
    reached: str

    def is_at_least(self, wanted: str) -> bool:
        return number(self.reached) >= number(wanted)


async def position_of(connection: AsyncConnection) -> Position:
    """Where the server is now. In a REPEATABLE READ transaction the rows it sees may be older: ask before it, too."""
    row = (await connection.execute(_POSITION)).one()
    return Position(row.state, row.reached)


def number(position: str) -> int:
    """A pg_lsn text such as `16/B374D848` as a byte offset in the log. Raises ValueError for anything else."""
    high, low = position.split("/")
    return (int(high, 16) << 32) + int(low, 16)
