"""Keeps verifying the ledgers: what is new often, everything once a day, and says what is wrong by name and in the metrics."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import structlog

from adapters.postgres.ledger_stream import ReadDatabase
from adapters.postgres.verify import Head, verify_tenant
from handlers import schedule_metrics as metrics
from handlers.pacing import paced
from schemas.ledger import LedgerVerification, Mismatch

log = structlog.get_logger()

LOGGED_MISMATCHES = 10  # of one tenant and run; `billing ledger verify` shows them all


class Integrity:
    """What was verified is remembered in memory: a new owner of the schedules begins with everything, on purpose."""

    def __init__(self, database: ReadDatabase, full_interval: timedelta) -> None:
        self._database, self._full_interval = database, full_interval
        self._verified: dict[str, Head] = {}
        self._full_at: dict[str, datetime] = {}
        self._mismatches: dict[str, tuple[Mismatch, ...]] = {}

    async def run(self, tenants: list[str]) -> None:
        """One pass. Raises what the database raises; what was found before that is reported."""
        for tenant_id in tenants:
            async with paced():
                await self.verify(tenant_id)
        metrics.LAST_VERIFIED.set(datetime.now(UTC).timestamp())

    async def verify(self, tenant_id: str) -> tuple[Mismatch, ...]:
        """Everything if that is due, or if anything was wrong the last time: only so is it seen that it was mended."""
        now = datetime.now(UTC)
        due = now - self._full_at.get(tenant_id, datetime.min.replace(tzinfo=UTC)) >= self._full_interval
        since = None if due or self._mismatches.get(tenant_id) else self._verified.get(tenant_id)
        async with self._database.reading(tenant_id) as connection:
            found = await verify_tenant(connection, tenant_id, since=since)
        if since is None:
            self._full_at[tenant_id] = now
        if not found.mismatches:
            self._verified[tenant_id] = Head(found.head_sequence, bytes.fromhex(found.head_hash))
        self._report(tenant_id, found)
        return found.mismatches

    def _report(self, tenant_id: str, found: LedgerVerification) -> None:
        for check in {mismatch.check for mismatch in self._mismatches.get(tenant_id, ())}:
            metrics.TENANT_MISMATCHES.remove(tenant_id, check)
        self._mismatches[tenant_id] = found.mismatches
        for check, count in Counter(mismatch.check for mismatch in found.mismatches).items():
            metrics.TENANT_MISMATCHES.labels(tenant_id, check).set(count)
        metrics.MISMATCHES.set(sum(map(len, self._mismatches.values())))
        for mismatch in found.mismatches[:LOGGED_MISMATCHES]:
            log.error(
                "ledger_mismatch",
                tenant_id=tenant_id,
                check=mismatch.check,
                subject=mismatch.subject,
            )
