"""What a service of the sandbox can be told to do wrong, and the ASGI layer that does it.

| mode | what the client sees |
|---|---|
| ok | the service as it should be |
| fail | `status` (500 unless said), without the service having acted |
| stall | nothing at all: the request is taken and never answered, until the mode changes |
| slow | the right answer after `delay_ms` |
| malformed | 200 with a body that is not what was promised (cut-off JSON) |
| lie | a well-formed answer with wrong data: what exactly is the service's choice |
| lose | the service acts, then the connection breaks before a byte of the answer |
| down | nobody listens: connection refused, and open connections are broken |
"""

import asyncio
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.base import WireModel

Mode = Literal["ok", "fail", "stall", "slow", "malformed", "lie", "lose", "down"]

TRANSPORT = "sandbox.transport"  # in the scope, by listener.py: what `lose` breaks
_LIES = "sandbox.lies"
_MALFORMED_BODY = b'{"tenant_id": "kabul-cen'


class Fault(WireModel):
    """`times` requests are treated so, then the service is well again; without it, until told otherwise. `path`: only those
    whose path begins so."""

    mode: Mode = "ok"
    status: Annotated[int, Field(ge=400, le=599)] = 500
    delay_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    times: Annotated[int, Field(ge=1)] | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _down_is_a_state(self) -> Self:
        if self.mode == "down" and (self.times is not None or self.path is not None):
            raise ValueError("a service that is down counts no requests and reads no path: leave times and path out")
        return self


class Switch:
    """ASGI middleware. `requests` counts those that arrived, whatever became of them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._fault = Fault()
        self._left: int | None = None
        self._changed = asyncio.Event()
        self.requests = self.in_flight = 0

    @property
    def fault(self) -> Fault:
        return self._fault

    def set(self, fault: Fault) -> None:
        """From the next request on; stalled ones end as failures."""
        self._fault, self._left = fault, fault.times
        self._changed.set()
        self._changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._take(scope)
        self.requests += 1
        self.in_flight += 1
        try:
            await self._treat(fault, scope, receive, send)
        finally:
            self.in_flight -= 1

    def _take(self, scope: Scope) -> Fault:
        fault = self._fault
        if fault.path is not None and not scope["path"].startswith(fault.path):
            return Fault()
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._fault, self._left = Fault(), None
        return fault

    async def _treat(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.mode == "fail":
            await JSONResponse({"error": "told to fail"}, fault.status)(scope, receive, send)
        elif fault.mode == "malformed":
            await Response(_MALFORMED_BODY, media_type="application/json")(scope, receive, send)
        elif fault.mode == "stall":
            await self._stall(receive)
            await JSONResponse({"error": "was stalled"}, 503)(scope, receive, send)
        elif fault.mode == "lose":
            await self._app(scope, receive, _swallow)
            scope[TRANSPORT].abort()
        else:
            if fault.delay_ms:
                await asyncio.sleep(fault.delay_ms / 1000)
            scope[_LIES] = fault.mode == "lie"
            await self._app(scope, receive, send)

    async def _stall(self, receive: Receive) -> None:
        """Until the mode changes or the client gives up."""
        changed = asyncio.ensure_future(self._changed.wait())
        gone = asyncio.ensure_future(_disconnected(receive))
        await asyncio.wait({changed, gone}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (changed, gone):
            waiting.cancel()


def lies(scope: Scope) -> bool:
    """Whether the service is to answer this request with wrong data."""
    return bool(scope.get(_LIES))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _swallow(_message: Message) -> None:
    """The answer that gets lost."""


def state(switch: Switch) -> dict[str, Any]:
    """For the admin endpoint."""
    return {**switch.fault.model_dump(), "requests": switch.requests, "in_flight": switch.in_flight}
