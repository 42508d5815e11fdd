"""The worker role with deadly moments: `python -m tests.faults.deadly_worker worker`, settings in the environment as ever.

A file `<id>.<moment>` in DEADLY_DIRECTORY kills the process, once, at that moment of the request of that payment or refund:
`before` the gateway is asked, `after` it has answered and before anybody is told, `told` before the message is acknowledged.
"""

import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.gateways.facts import Fact
from adapters.gateways.ports import Charge
from handlers import gateway_jobs
from tools.cli import main


def moment(name: str, of: UUID) -> None:
    file = Path(os.environ["DEADLY_DIRECTORY"]) / f"{of}.{name}"
    if file.exists():
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlyGateway:
    """A gateway, dying round its requests."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def charge(self, charge: Charge) -> Any:
        return await self._round(charge.payment_id, self._inner.charge, charge)

    async def capture(self, payment_id: UUID, *more: Any) -> Any:
        return await self._round(payment_id, self._inner.capture, payment_id, *more)

    async def refund(self, payment_id: UUID, reference: str, refund_id: UUID, amount_minor: int) -> Any:
        return await self._round(refund_id, self._inner.refund, payment_id, reference, refund_id, amount_minor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _round(self, of: UUID, ask: Any, *arguments: Any) -> Any:
        moment("before", of)
        answer = await ask(*arguments)
        moment("after", of)
        return answer


def deadly() -> None:
    gateway_of, tell = gateway_jobs.gateway_of, gateway_jobs.Answers.tell

    async def deadly_gateway_of(*arguments: Any) -> Any:
        return DeadlyGateway(await gateway_of(*arguments))

    async def deadly_tell(self: Any, about: Any, fact: Fact) -> None:
        await tell(self, about, fact)
        moment("told", about.id)

    gateway_jobs.gateway_of = deadly_gateway_of  # type: ignore[assignment]
    gateway_jobs.Answers.tell = deadly_tell  # type: ignore[method-assign]


if __name__ == "__main__":
    deadly()
    main()
