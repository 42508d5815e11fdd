"""Tells the command groups which gateways do not answer, so that charges are refused fast, the same in every replica."""

import asyncio
from uuid import uuid4

import structlog
from nats import errors as nats_errors
from nats.js.errors import Error as JetStreamError

from adapters.gateways.provider import CircuitChange
from handlers import gateway_metrics as metrics
from handlers.reporting import Reporter, ReportTimeout
from schemas.hold import ReportCircuit

log = structlog.get_logger()


class CircuitReports:
    """Takes changes as they happen and tells the last one of each (tenant, adapter), in their order."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._changes: dict[tuple[str, str], CircuitChange] = {}
        self._news = asyncio.Event()

    def changed(self, change: CircuitChange) -> None:
        """In the event loop; does not block."""
        self._changes[change.tenant_id, change.adapter] = change
        self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; what cannot be told is logged and left: an open circuit ends by itself."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait({news, stopping}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                self._news.clear()
                changes, self._changes = self._changes, {}
                await asyncio.gather(*(self._tell(change) for change in changes.values()))
        finally:
            stopping.cancel()

    async def _tell(self, told: CircuitChange) -> None:
        open_until = told.change.open_until
        body = ReportCircuit(
            adapter=told.adapter, state="closed" if open_until is None else "open", open_until=open_until
        )
        try:
            outcome = await self._reporter.report(told.tenant_id, "payment.report_circuit", uuid4(), body)
            said = "refused" if outcome.error is not None else "told"
        except (ReportTimeout, nats_errors.Error, JetStreamError) as error:
            log.warning("gateway_circuit_not_told", tenant_id=told.tenant_id, error=type(error).__name__)
            said = "failed"
        metrics.CIRCUIT_REPORTS.labels(body.state, said).inc()
