"""What nobody has heard of: holds and refunds whose outcome is unknown, or whose message was lost; and holds past their time.

One worker owns it (handlers/schedules.py). It asks each tenant's gateway by our own ids and tells what it says: unknown never
turns into failed by waiting (DOMAIN rule 9). A gateway that does not answer is asked again later, and delays no other tenant's.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import structlog

from adapters.gateways.ports import Gateway, Unknown
from adapters.neighbours.ports import TenantDirectory
from adapters.postgres.hold_sweep import Silence, counts, expired, hold_of, unsettled, unsettled_refunds
from adapters.postgres.ledger_stream import ReadDatabase
from domain.gateway_entities import GatewayRefund, Hold
from domain.ids import derived_id
from handlers import gateway_metrics as metrics
from handlers.gateway_jobs import Answers, GatewaysOf, gateway_of, look, look_at_refund, unknown
from handlers.job_outcomes import JobFailure
from handlers.pacing import BACKGROUND_SHARE, paced
from handlers.reporting import Reporter
from schemas.hold import ExpirePayment

log = structlog.get_logger()

TENANTS_AT_ONCE = 16
PAGE = 50  # rows of one tenant in one round
BACK_OFF_SECONDS = (5.0, 600.0)  # of one tenant's gateway that gave no answer
_FIRST = UUID(int=0)


class Patience(NamedTuple):
    """How long an unknown rests before it is asked about, and how long a request may be on its way before its message is taken
    for lost: longer than a busy queue and all deliveries of one message."""

    unknown: timedelta = timedelta(seconds=5)
    silent: timedelta = timedelta(minutes=5)

    @classmethod
    def of(cls, silent: timedelta) -> "Patience":
        return cls(min(cls().unknown, silent), silent)


class GatewayRecovery:
    """`run` and `expire` are schedules; what goes wrong for a tenant is logged and tried again in the next round."""

    def __init__(
        self,
        database: ReadDatabase,
        directory: TenantDirectory,
        gateways: GatewaysOf,
        reporter: Reporter,
        patience: Patience | None = None,
    ) -> None:
        self._database, self._directory, self._gateways, self._reporter = database, directory, gateways, reporter
        self._patience = patience or Patience()
        self._resting: dict[str, tuple[float, float]] = {}  # tenant → (until, seconds), of gateways that do not answer

    async def run(self, tenants: Sequence[str]) -> None:
        """Looks at what is due, and counts what is not over."""
        slots = asyncio.Semaphore(TENANTS_AT_ONCE)
        share = BACKGROUND_SHARE / TENANTS_AT_ONCE if len(tenants) > TENANTS_AT_ONCE else 1.0
        found: Counter[tuple[str, str]] = Counter()

        async def one(tenant_id: str) -> None:
            async with slots, paced(share):
                try:
                    found.update(await self._tenant(tenant_id))
                except Exception as error:
                    log.warning("gateway_recovery_failed", tenant_id=tenant_id, error=type(error).__name__)

        await asyncio.gather(*(one(tenant_id) for tenant_id in tenants))
        metrics.HOLDS.clear()
        for (status, fault), holds in found.items():
            metrics.HOLDS.labels(status, fault).set(holds)

    async def expire(self, tenants: Sequence[str]) -> None:
        """Commands for holds whose time is over; the decision looks again."""
        for tenant_id in tenants:
            async with paced():
                try:
                    await self._expire(tenant_id)
                except Exception as error:
                    log.warning("hold_expiry_failed", tenant_id=tenant_id, error=type(error).__name__)

    async def _tenant(self, tenant_id: str) -> dict[tuple[str, str], int]:
        now = datetime.now(UTC)
        silence = Silence(now - self._patience.unknown, now - self._patience.silent)
        async with self._database.reading(tenant_id) as connection:
            waiting = await counts(connection, tenant_id)
            holds = await unsettled(connection, tenant_id, silence, PAGE) if waiting else []
            refunds = await unsettled_refunds(connection, tenant_id, silence, PAGE)
        if (holds or refunds) and self._is_rested(tenant_id):
            answered = await self._look(tenant_id, holds, refunds)
            self._rest(tenant_id, answered=answered)
        return waiting

    async def _look(self, tenant_id: str, holds: Sequence[Hold], refunds: Sequence[GatewayRefund]) -> bool:
        """Whether the gateway answered; asked no further once it did not."""
        answers = Answers(self._reporter, tenant_id)
        for hold in holds:
            gateway = await gateway_of(self._directory, self._gateways, tenant_id, hold.adapter)
            if await _still_at_it(gateway, hold):
                continue
            current = await self._unheard_of(tenant_id, hold, answers)
            if current is None:
                continue
            said = await look(gateway, current, answers)
            metrics.LOOKED.labels("answered" if said else "no_answer").inc()
            if not said:
                return False
        for refund in refunds:
            async with self._database.reading(tenant_id) as connection:
                charged = await hold_of(connection, tenant_id, refund.payment_id)
            if charged is None:
                continue
            gateway = await gateway_of(self._directory, self._gateways, tenant_id, charged.adapter)
            said = await look_at_refund(gateway, refund, answers)
            metrics.LOOKED.labels("answered" if said else "no_answer").inc()
            if not said:
                return False
        return True

    async def _unheard_of(self, tenant_id: str, hold: Hold, answers: Answers) -> Hold | None:
        """The hold as `unknown`: what was on its way for so long may have been done. Then whatever the gateway has is news, and
        what is wanted is asked for again. None: it has moved on meanwhile."""
        if hold.status == "unknown":
            return hold
        await answers.tell(hold, unknown(hold.id))
        async with self._database.reading(tenant_id) as connection:
            current = await hold_of(connection, tenant_id, hold.id)
        # A replica may be behind: then the next round finds it, unknown by then.
        return current if current is not None and current.status == "unknown" else None

    def _is_rested(self, tenant_id: str) -> bool:
        return monotonic() >= self._resting.get(tenant_id, (0.0, 0.0))[0]

    def _rest(self, tenant_id: str, *, answered: bool) -> None:
        if answered:
            self._resting.pop(tenant_id, None)
            return
        first, longest = BACK_OFF_SECONDS
        seconds = min(longest, max(first, 2 * self._resting.get(tenant_id, (0.0, 0.0))[1]))
        jittered = seconds * random.uniform(0.75, 1.25)  # noqa: S311  jitter
        self._resting[tenant_id] = (monotonic() + jittered, seconds)

    async def _expire(self, tenant_id: str) -> None:
        now, after = datetime.now(UTC), _FIRST
        while True:
            async with self._database.reading(tenant_id) as connection:
                found = await expired(connection, tenant_id, now, after, PAGE)
            if not found:
                return
            after = found[-1]
            for payment_id in found:
                await self._release(tenant_id, payment_id, now)

    async def _release(self, tenant_id: str, payment_id: UUID, now: datetime) -> None:
        command_id = derived_id(tenant_id, payment_id, now, "expire")
        outcome = await self._reporter.report(
            tenant_id, "payment.expire", command_id, ExpirePayment(payment_id=payment_id)
        )
        if outcome.error is not None:
            raise JobFailure(outcome.error.code, "the hold could not be released", retryable=True)
        metrics.EXPIRED.inc()


async def _still_at_it(gateway: Gateway, hold: Hold) -> bool:
    """Whether a charge waits for its payer, or a slow wallet, and the gateway says so: nothing is lost, and nothing is news."""
    if hold.status != "pending" or hold.reference is None:
        return False
    try:
        answer = await gateway.find(hold.id)
    except Unknown:
        return False
    return answer is not None and answer.state == "pending"
