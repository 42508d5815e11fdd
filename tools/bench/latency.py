"""A lone command: one at a time, from its publish to its outcome, which comes after the commit."""

import time
from collections.abc import Iterator
from itertools import islice
from uuid import uuid4

import httpx
import orjson
from nats.aio.client import Client

from schemas import headers
from tools.bench.observe import BenchError
from tools.bench.workload import Message, Workload, payments
from tools.stack.mesh import Mesh

_ANSWER_TIMEOUT_SECONDS = 10.0
_WARM_UP = 20  # plans, caches and connections of the first few are not what a lone command waits for


async def over_nats(nc: Client, workload: Workload, count: int) -> list[float]:
    """Milliseconds from publish to outcome on the reply inbox. Raises BenchError for an outcome that is not `applied`."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(f"{inbox}.*")
    taken = []
    for message in _requests(workload, count):
        reply_to = f"{inbox}.{uuid4().hex}"
        started = time.perf_counter()
        await nc.publish(message.subject, message.body, headers=message.headers | {headers.REPLY_TO: reply_to})
        answer = await subscription.next_msg(timeout=_ANSWER_TIMEOUT_SECONDS)
        taken.append((time.perf_counter() - started) * 1_000)
        status = orjson.loads(answer.data)["status"]
        if answer.subject != reply_to or status != "applied":
            raise BenchError(f"a lone payment was answered {status}")
    await subscription.unsubscribe()
    return taken[_WARM_UP:]


async def over_http(mesh: Mesh, workload: Workload, count: int) -> list[float]:
    """Milliseconds of `POST /v1/payments` through the shim, on one kept-alive connection per process."""
    tokens = {tenant: mesh.token(tenant) for tenant in workload.tenant_ids}
    taken = []
    async with httpx.AsyncClient(base_url=mesh.http_url, timeout=_ANSWER_TIMEOUT_SECONDS) as http:
        for message in _requests(workload, count):
            token = tokens[message.subject.split(".")[3]]
            fields = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
            started = time.perf_counter()
            response = await http.post(
                "/v1/payments", content=message.body, headers=fields | {"Content-Type": "application/json"}
            )
            taken.append((time.perf_counter() - started) * 1_000)
            if response.status_code != httpx.codes.CREATED:
                raise BenchError(f"POST /v1/payments answered {response.status_code}: {response.text[:200]}")
    return taken[_WARM_UP:]


def _requests(workload: Workload, count: int) -> Iterator[Message]:
    return islice(payments(workload), _WARM_UP + count)
