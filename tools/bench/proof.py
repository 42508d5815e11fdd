"""After a run: every payment has one effect and one event, and every tenant's books hold."""

import asyncio
from collections.abc import Callable
from time import monotonic

import asyncpg

from adapters.postgres.database import Database
from adapters.postgres.verify import verify_tenant
from tools.bench.observe import BenchError

_RELAY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_COUNTS = """
SELECT (SELECT count(*) FROM payment) AS payments, (SELECT count(*) FROM ledger_transfer) AS transfers,
       (SELECT count(*) FROM inbox WHERE name = 'payment.record' AND status = 'applied') AS applied,
       (SELECT count(*) FROM outbox) AS unsent
"""


async def prove(dsn: Callable[[str], str], tenant_ids: list[str], payments: int) -> None:
    """`dsn` of a PostgreSQL role. Raises BenchError where a count is off or a tenant's books have a mismatch."""
    connection = await asyncpg.connect(dsn("postgres"))
    try:
        found = dict(await connection.fetchrow(_COUNTS) or {})
        deadline = monotonic() + _RELAY_SECONDS
        while found["unsent"] and monotonic() < deadline:  # beside the payments' events there are others on their way
            await asyncio.sleep(_POLL_SECONDS)
            found = dict(await connection.fetchrow(_COUNTS) or {})
    finally:
        await connection.close()
    expected = {"payments": payments, "transfers": payments, "applied": payments, "unsent": 0}
    if found != expected:
        raise BenchError(f"rows after the run: {found}, expected {expected}")
    database = Database(dsn("billing_app"), application_name="bench-verify", pool_size=1)
    try:
        for tenant_id in tenant_ids:
            async with database.reading(tenant_id) as reading:
                verification = await verify_tenant(reading, tenant_id)
            if verification.mismatches:
                first = verification.mismatches[0]
                raise BenchError(f"the books of {tenant_id} do not hold: {first.check}: {first.found}")
    finally:
        await database.close()
