"""The outbox as the relay sees it: shard ownership, reading unsent rows in order, deleting sent ones.

One `OutboxSession` is one connection of the role `billing_relay`. Session advisory locks live and die with it, and
every read and delete goes through it: a relay that lost its connection has lost its shards and can delete nothing. It
needs a direct connection or session pooling; with transaction pooling the locks would belong to nobody.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Self

from adapters.postgres.dsn import Connection, Dsn, connect
from adapters.postgres.release import stamped

# First key of the two-key advisory locks, so that they meet no other use of advisory locks: "bill" in ASCII.
LOCK_SPACE = 0x62696C6C
# A host that vanishes without closing its connection keeps its locks until the server's keepalive gives it up: 5 + 3
# × 2 s.
KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
# Counting stops here for each shard and stream: a gauge that says "160,000 or more" is as alarming as the exact figure.
BACKLOG_COUNT_LIMIT = 10_000

# Every relay takes the lowest shard of a group first, so two relays never end up with half a group each.
_LOCK = "SELECT bool_and(pg_try_advisory_lock($1, shard)) FROM unnest($2::int[]) AS shard"
_UNLOCK = "SELECT pg_advisory_unlock_all()"

# Oldest rows per shard. Ids of one tenant are drawn under the tenant's lock, so id order is its commit order.
# One index range scan of (shard, stream, id) per shard, whatever the backlog.
_UNSENT = """
SELECT unsent.ctid, unsent.tenant_id, unsent.id, unsent.subject, unsent.headers, unsent.body
FROM unnest($1::bigint[]) AS own(shard)
CROSS JOIN LATERAL (
    SELECT ctid, tenant_id, id, subject, headers, body
    FROM outbox
    WHERE shard = own.shard AND stream = $2 AND tenant_id <> ALL ($4::text[])
    ORDER BY id
    LIMIT $3
) AS unsent
"""

# By physical place, which costs less than half of an index look-up per row; the id makes sure that the row there is
# still the one that was read (VACUUM FULL and the like move rows; one that moved stays, and is published again).
_DELETE = """
DELETE FROM outbox USING unnest($1::tid[], $2::bigint[]) AS sent(place, id)
WHERE outbox.ctid = sent.place AND outbox.id = sent.id
"""

_BACKLOG = """
SELECT kind.stream, sum(counted.rows)::bigint,
       coalesce(extract(epoch FROM clock_timestamp() - min(oldest.recorded_at)), 0)::float8
FROM unnest($1::bigint[]) AS own(shard)
CROSS JOIN (VALUES ('events'), ('audit'), ('jobs')) AS kind(stream)
CROSS JOIN LATERAL (
    SELECT count(*) AS rows
    FROM (SELECT 1 FROM outbox WHERE shard = own.shard AND stream = kind.stream LIMIT $2) AS capped
) AS counted
LEFT JOIN LATERAL (
    SELECT recorded_at FROM outbox WHERE shard = own.shard AND stream = kind.stream ORDER BY id LIMIT 1
) AS oldest ON true
GROUP BY kind.stream
"""


class OutboxRow(NamedTuple):
    """One unsent message; `place` is the row's ctid at the time of reading."""

    place: tuple[int, int]
    tenant_id: str
    id: int
    subject: str
    headers: bytes
    body: bytes


class Backlog(NamedTuple):
    """Unsent rows of one stream, at most BACKLOG_COUNT_LIMIT of them a shard, and the oldest one's age in seconds."""

    stream: str
    rows: int
    oldest_age_seconds: float


class OutboxSession:
    """Use as `async with await OutboxSession.open(…)`; statements of concurrent tasks take turns."""

    def __init__(self, connection: Connection, shards: Sequence[int]) -> None:
        self._connection = connection
        self._shards = sorted(shards)
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, dsn: Dsn, shards: Sequence[int], *, timeout_seconds: float) -> Self:
        """Connect. `timeout_seconds` bounds the connecting and every statement. Raises what asyncpg raises."""
        connection = await connect(
            dsn,
            timeout=timeout_seconds,
            command_timeout=timeout_seconds,
            server_settings={"application_name": stamped("billing-relay"), **KEEPALIVES},
        )
        return cls(connection, shards)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Not close(): that waits for a statement, and for a server that may be gone. The locks go with the connection.
        self._connection.terminate()

    async def try_lock(self) -> bool:
        """Take every shard of this session, or none. Never waits: a waiting lock would hold back vacuum's horizon."""
        async with self._turn:
            if await self._connection.fetchval(_LOCK, LOCK_SPACE, self._shards[:1]) and await self._connection.fetchval(
                _LOCK, LOCK_SPACE, self._shards
            ):
                return True
            await self._connection.execute(_UNLOCK)
            return False

    async def unsent(self, stream: str, *, limit_per_shard: int, without: Sequence[str] = ()) -> list[OutboxRow]:
        """The oldest unsent rows of `stream` in id order per tenant, leaving out the tenants in `without`."""
        async with self._turn:
            rows = await self._connection.fetch(_UNSENT, self._shards, stream, limit_per_shard, list(without))
        return [OutboxRow(*row) for row in rows]

    async def delete(self, rows: Sequence[OutboxRow]) -> None:
        """Forget rows whose messages are stored."""
        async with self._turn:
            await self._connection.execute(_DELETE, [row.place for row in rows], [row.id for row in rows])

    async def backlog(self) -> list[Backlog]:
        """One entry per stream."""
        async with self._turn:
            rows = await self._connection.fetch(_BACKLOG, self._shards, BACKLOG_COUNT_LIMIT)
        return [Backlog(*row) for row in rows]
