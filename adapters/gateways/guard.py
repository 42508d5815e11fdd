"""Round a tenant's gateway: a bounded number of calls at once, a deadline for each, the circuit, and the metrics.

Nothing here is shared between tenants, so that a gateway that stalls costs its own tenant only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar
from uuid import UUID

from adapters.gateways import metrics
from adapters.gateways.circuit import Call, Circuit
from adapters.gateways.ports import Answer, Charge, Gateway, Reason, Refused, Unasked, Unknown
from adapters.telemetry import tracing

T = TypeVar("T", bound=Answer | Refused | None)

# What says that the gateway is not well. Any other refusal is an answer; of a wrong configuration it says nothing.
_SICK = frozenset({Reason.UNREACHABLE, Reason.BUSY})
_OUTCOMES = {
    Reason.CIRCUIT_OPEN: "circuit_open",
    Reason.BUSY: "busy",
    Reason.UNREACHABLE: "unreachable",
    Reason.NOT_CONFIGURED: "not_configured",
    Reason.CREDENTIALS: "credentials",
    Reason.REFUSED: "refused",
}


class Bounds(NamedTuple):
    """`deadline_seconds` is for one call once it has its slot; it waits for the slot no longer than that either."""

    concurrency: int = 8
    deadline_seconds: float = 15.0


class Guarded:
    """A `Gateway` that answers in bounded time, whatever the one inside does."""

    def __init__(self, inner: Gateway, adapter: str, circuit: Circuit, bounds: Bounds) -> None:
        self._inner, self._adapter, self._circuit, self._bounds = inner, adapter, circuit, bounds
        self._slots = asyncio.Semaphore(bounds.concurrency)
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Until no call is under way."""
        await self._idle.wait()

    async def charge(self, charge: Charge) -> Answer | Refused:
        return await self._act("charge", lambda: self._inner.charge(charge))

    async def capture(self, payment_id: UUID, reference: str, amount_minor: int) -> Answer | Refused:
        return await self._act("capture", lambda: self._inner.capture(payment_id, reference, amount_minor))

    async def cancel(self, payment_id: UUID, reference: str) -> Answer | Refused:
        return await self._act("cancel", lambda: self._inner.cancel(payment_id, reference))

    async def refund(self, payment_id: UUID, reference: str, refund_id: UUID, amount_minor: int) -> Answer | Refused:
        return await self._act("refund", lambda: self._inner.refund(payment_id, reference, refund_id, amount_minor))

    async def find(self, payment_id: UUID) -> Answer | None:
        return await self._ask("find", lambda: self._inner.find(payment_id))

    async def find_refund(self, payment_id: UUID, refund_id: UUID) -> Answer | None:
        return await self._ask("find_refund", lambda: self._inner.find_refund(payment_id, refund_id))

    async def _act(self, name: str, ask: Callable[[], Awaitable[Answer | Refused]]) -> Answer | Refused:
        try:
            return await self._call(name, ask)
        except Unasked as error:
            return Refused(error.code, True, str(error))

    async def _ask(self, name: str, ask: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
        return await self._call(name, ask)

    async def _call(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Raises Unknown; Unasked where the gateway was not."""
        if self._circuit.refuses():
            raise self._unasked(Reason.CIRCUIT_OPEN)
        self._calls += 1
        self._idle.clear()
        try:
            return await self._in_turn(name, ask)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _in_turn(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._bounds.deadline_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise self._unasked(Reason.BUSY) from None
        try:
            # Again: it may have opened while this call waited.
            with self._circuit.call() as call:
                if call is None:
                    raise self._unasked(Reason.CIRCUIT_OPEN)
                return await self._timed(name, ask, call)
        finally:
            self._slots.release()

    async def _timed(self, name: str, ask: Callable[[], Awaitable[T]], call: Call) -> T:
        outcome, started = "unknown", time.perf_counter()
        try:
            with (
                metrics.IN_FLIGHT.labels(self._adapter).track_inprogress(),
                tracing.span(f"{self._adapter} {name}", "client", attributes={"billing.gateway": self._adapter}),
            ):
                async with asyncio.timeout(self._bounds.deadline_seconds):
                    result = await ask()
            outcome = _outcome(result)
            _judge(call, result.code if isinstance(result, Refused) else None)
            return result
        except TimeoutError:
            call.failed()
            raise Unknown("no answer by the deadline") from None
        except Unasked as error:
            outcome = _OUTCOMES[Reason(error.code)]
            _judge(call, error.code)
            raise
        except Unknown:
            call.failed()
            raise
        finally:
            metrics.REQUESTS.labels(self._adapter, outcome).inc()
            metrics.DURATION.labels(self._adapter).observe(time.perf_counter() - started)

    def _unasked(self, reason: Reason) -> Unasked:
        metrics.REQUESTS.labels(self._adapter, _OUTCOMES[reason]).inc()
        return Unasked(reason)


def _outcome(result: Answer | Refused | None) -> str:
    if isinstance(result, Refused):
        return _OUTCOMES[Reason(result.code)]
    return "declined" if result is not None and result.state == "declined" else "ok"


def _judge(call: Call, code: str | None) -> None:
    if code in _SICK:
        call.failed()
    elif code != Reason.NOT_CONFIGURED:
        call.succeeded()
