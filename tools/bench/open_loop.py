"""Latency at an offered load: commands leave when their moment comes, whether or not those before them were answered.

A command's time runs from the moment it was due, so that a stall counts for all that would have come during it (coordinated
omission avoided).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import islice
from statistics import quantiles
from uuid import uuid4

import httpx
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas import headers
from tools.bench.observe import BenchError
from tools.bench.workload import Message, Workload, payments
from tools.stack.mesh import Mesh

_LATE_SECONDS = 30.0

Latencies = dict[str, float | int]


async def over_nats(nc: Client, work: Workload, per_second: int, seconds: float) -> Latencies:
    """Percentiles in ms from when each command was due to its outcome. Raises BenchError where one is not answered."""
    inbox, answered = nc.new_inbox(), dict[str, float]()
    due: dict[str, float] = {}
    complete = asyncio.Event()
    total = int(per_second * seconds)

    async def take(message: Msg) -> None:
        answered[message.subject] = time.perf_counter()
        if len(answered) == total:
            complete.set()

    subscription = await nc.subscribe(f"{inbox}.*", cb=take)

    async def send(message: Message, moment: float) -> None:
        reply_to = f"{inbox}.{uuid4().hex}"
        due[reply_to] = moment
        await nc.publish(message.subject, message.body, headers=message.headers | {headers.REPLY_TO: reply_to})

    await _paced(work, per_second, total, send)
    try:
        async with asyncio.timeout(_LATE_SECONDS):
            await complete.wait()
    except TimeoutError:
        raise BenchError(f"{total - len(answered)} of {total} commands were not answered") from None
    await subscription.unsubscribe()
    return _percentiles(per_second, [(answered[reply] - moment) * 1_000 for reply, moment in due.items()])


async def over_http(mesh: Mesh, work: Workload, per_second: int, seconds: float) -> Latencies:
    """The same through the shim. Raises BenchError for an answer that is not 201."""
    tokens = {tenant: mesh.token(tenant) for tenant in work.tenant_ids}
    taken: list[float] = []
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=mesh.http_url, timeout=_LATE_SECONDS, limits=limits) as http:

        async def ask(message: Message, moment: float) -> None:
            fields = {
                "Authorization": f"Bearer {tokens[message.subject.split('.')[3]]}",
                "Idempotency-Key": str(uuid4()),
            }
            response = await http.post(
                "/v1/payments", content=message.body, headers=fields | {"Content-Type": "application/json"}
            )
            if response.status_code != httpx.codes.CREATED:
                raise BenchError(f"POST /v1/payments answered {response.status_code}: {response.text[:200]}")
            taken.append((time.perf_counter() - moment) * 1_000)

        async with asyncio.TaskGroup() as tasks:

            async def send(message: Message, moment: float) -> None:
                tasks.create_task(ask(message, moment))

            await _paced(work, per_second, int(per_second * seconds), send)
    return _percentiles(per_second, taken)


async def _paced(
    work: Workload, per_second: int, total: int, send: Callable[[Message, float], Awaitable[None]]
) -> None:
    started = time.perf_counter()
    for number, message in enumerate(islice(payments(work), total)):
        moment = started + number / per_second
        if (early := moment - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        await send(message, moment)


def _percentiles(per_second: int, taken: list[float]) -> Latencies:
    cuts = quantiles(taken, n=100, method="inclusive")
    found = {f"p{percent}": round(cuts[percent - 1], 2) for percent in (50, 95, 99)}
    return {"offered_per_second": per_second, "count": len(taken), **found}
