"""Clients of the mesh in a process of their own, so that what they cost is theirs and can be told apart.

python -m tools.bench.load_client < job     (a line of JSON, then any line to start; prints "ready", then the figures)

Three kinds of load, over NATS or HTTP:

- `open`: a command leaves when it is due, whether or not those before were answered, and its time runs from when it was due, so
  that a stall counts for all that would have come during it (coordinated omission avoided);
- `closed`: so many clients, each with one command at a time: the rate that they get is what the system answers;
- `lone`: one command at a time, over each of the ways by turns, so that what else the machine does meets both.
"""

import asyncio
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Literal, NamedTuple, Protocol
from uuid import uuid4

import nats
import orjson
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas import headers
from tools.bench.http_client import HttpClient
from tools.bench.observe import BenchError
from tools.bench.workload import Message, Workload, payments

Way = Literal["nats", "http"]
Kind = Literal["open", "closed", "lone"]

_PATH = "/v1/payments"
_CREATED = 201
_LATE_SECONDS = 30.0
_WARM_UP = 20  # plans, caches and connections of the first few are not what a lone command waits for
# Kong keeps 60 connections to an upstream and makes more when they are taken.
_CONNECTIONS = 256


class Job(NamedTuple):
    """`per_second` is of the open loop, `clients` of the closed one, both of one way; `turns` of each way of the lone one.

    `tokens` by tenant. `http_url` is empty where HTTP is not asked for.
    """

    kind: Kind
    ways: tuple[Way, ...]
    nats_url: str
    http_url: str
    tokens: dict[str, str]
    workload: Workload
    seconds: float = 0.0
    per_second: int = 0
    clients: int = 0
    turns: int = 0


class Figures(NamedTuple):
    """`taken_ms`: of each command, in the order of their answers, by way. `cpu_seconds`: this process's, while it asked."""

    taken_ms: dict[Way, list[float]]
    seconds: float
    cpu_seconds: float


class _Asking(Protocol):
    async def __call__(self, message: Message) -> None:
        """Returns when the command was applied. Raises BenchError for any other answer."""


class _OverNats:
    """Commands with a reply inbox, as a client of NATS publishes them."""

    def __init__(self, nc: Client) -> None:
        self._nc, self._inbox = nc, nc.new_inbox()
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def start(self) -> None:
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._take)
        await self._nc.flush()

    async def __call__(self, message: Message) -> None:
        reply_to = f"{self._inbox}.{uuid4().hex}"
        answer = self._waiting[reply_to] = asyncio.get_running_loop().create_future()
        await self._nc.publish(message.subject, message.body, headers=message.headers | {headers.REPLY_TO: reply_to})
        async with asyncio.timeout(_LATE_SECONDS):
            status = orjson.loads(await answer)["status"]
        if status != "applied":
            raise BenchError(f"a payment was answered {status}")

    async def _take(self, message: Msg) -> None:
        if (waiting := self._waiting.pop(message.subject, None)) is not None:
            waiting.set_result(message.data)


class _OverHttp:
    """`POST /v1/payments` with the tenant's token."""

    def __init__(self, client: HttpClient, tokens: dict[str, str]) -> None:
        self._client, self._tokens = client, tokens

    async def __call__(self, message: Message) -> None:
        fields = {
            "Authorization": f"Bearer {self._tokens[message.subject.split('.')[3]]}",
            "Idempotency-Key": message.headers[headers.MESSAGE_ID],
            "Content-Type": "application/json",
        }
        async with asyncio.timeout(_LATE_SECONDS):
            answer = await self._client.post(_PATH, fields, message.body)
        if answer.status != _CREATED:
            raise BenchError(f"POST {_PATH} answered {answer.status}: {answer.body[:200].decode(errors='replace')}")


@asynccontextmanager
async def _asking(job: Job) -> AsyncIterator[dict[Way, _Asking]]:
    nc = await nats.connect(job.nats_url)
    try:
        over_nats = _OverNats(nc)
        await over_nats.start()
        async with HttpClient(job.http_url, connections=_CONNECTIONS) as http:
            found: dict[Way, _Asking] = {"nats": over_nats, "http": _OverHttp(http, job.tokens)}
            yield {way: found[way] for way in job.ways}
    finally:
        await nc.close()


async def run(job: Job, go: Callable[[], Awaitable[None]]) -> Figures:
    """Connects, waits for `go`, asks. Raises BenchError for a command that is not applied, TimeoutError for one not answered."""
    async with _asking(job) as ways:
        if job.kind == "lone":
            await _lone(islice(payments(job.workload), len(ways) * _WARM_UP), ways)
        await go()
        started, used = time.perf_counter(), _cpu_seconds()
        if job.kind == "lone":
            taken = await _lone(islice(payments(job.workload), len(ways) * job.turns), ways)
        else:
            ((way, ask),) = ways.items()
            taken = {way: await (_closed if job.kind == "closed" else _open)(job, ask)}
        return Figures(taken, time.perf_counter() - started, _cpu_seconds() - used)


async def _lone(messages: Iterator[Message], ways: dict[Way, _Asking]) -> dict[Way, list[float]]:
    taken: dict[Way, list[float]] = {way: [] for way in ways}
    for message, (way, ask) in zip(messages, _by_turns(ways), strict=False):
        started = time.perf_counter()
        await ask(message)
        taken[way].append((time.perf_counter() - started) * 1_000)
    return taken


def _by_turns(ways: dict[Way, _Asking]) -> Iterator[tuple[Way, _Asking]]:
    while True:
        yield from ways.items()


async def _closed(job: Job, ask: _Asking) -> list[float]:
    messages, until = payments(job.workload), time.perf_counter() + job.seconds
    taken: list[float] = []

    async def client() -> None:
        while (started := time.perf_counter()) < until:
            await ask(next(messages))
            taken.append((time.perf_counter() - started) * 1_000)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.clients):
            tasks.create_task(client())
    return taken


async def _open(job: Job, ask: _Asking) -> list[float]:
    taken: list[float] = []

    async def one(message: Message, due: float) -> None:
        await ask(message)
        taken.append((time.perf_counter() - due) * 1_000)

    async with asyncio.TaskGroup() as tasks:
        started = time.perf_counter()
        for number, message in enumerate(islice(payments(job.workload), int(job.per_second * job.seconds))):
            due = started + number / job.per_second
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            tasks.create_task(one(message, due))
    return taken


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given = orjson.loads(sys.stdin.buffer.readline())
    job = Job(**(given | {"workload": Workload(**given["workload"])}))

    async def go() -> None:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.readline)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(run(job, go))
    sys.stdout.buffer.write(orjson.dumps(figures._asdict()) + b"\n")


if __name__ == "__main__":
    main()
