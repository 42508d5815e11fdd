"""Mixed work at a fixed rate, open loop: mostly payments, with charges, invoices, new accounts, queries and HTTP beside them.

A command's time runs from the moment it was due, whether or not those before it were answered (coordinated omission avoided).
"""

import asyncio
import time
from array import array
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from schemas import headers
from schemas.subjects import command_subject, query_subject
from tools.bench.workload import CURRENCY, Message, Workload, account_id, payments
from tools.stack.mesh import Mesh

# Of a hundred commands; all others are payments. An invoice is issued when the answer to its draft was heard.
_CHARGES, _DRAFTS, _ISSUES, _ACCOUNTS = (7, 27, 47, 67, 87), (13, 33, 53, 73, 93), (17, 37, 57, 77, 97), (50,)
# Of the commands: as many payments over HTTP, balances over HTTP, and balances over NATS.
SIDE_SHARE = 0.01
_ANSWER_TIMEOUT_SECONDS = 30.0
_DRAIN_SECONDS = 60.0
_NAP_SECONDS = 0.001
_TOKEN_SECONDS = 60.0

WAYS = ("commands", "http", "queries")


class Sent(NamedTuple):
    """A command that waits for its answer, and when it was due."""

    name: str
    tenant: str
    due: float


class Load:
    """`windows[way][n]` has the milliseconds of all that was due in the n-th window of `window_seconds`.

    With `most_unanswered` it is no longer open: it finds out how much can be done.
    """

    def __init__(
        self,
        mesh: Mesh,
        work: Workload,
        *,
        per_second: int,
        seconds: float,
        window_seconds: float,
        most_unanswered: int | None = None,
    ) -> None:
        self._mesh, self._work, self._seconds = mesh, work, seconds
        self._most_unanswered = most_unanswered
        self.per_second, self.window_seconds = per_second, window_seconds
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.windows: dict[str, list[array[float]]] = {way: [] for way in WAYS}
        self._waiting: dict[int, Sent] = {}
        self._drafts: deque[tuple[str, str]] = deque()
        self._stopped, self._all_sent, self._all_answered = asyncio.Event(), False, asyncio.Event()
        self._started = 0.0
        self._tokens: dict[str, tuple[str, float]] = {}

    @property
    def unanswered(self) -> int:
        """Commands sent over NATS whose outcome has not come."""
        return len(self._waiting)

    def stop(self) -> None:
        """No more is sent; `run` returns when what was sent is answered, or a minute later."""
        self._stopped.set()

    async def run(self, nc: Client) -> None:
        """Returns when all was sent and answered, or when answers have not come for a minute after the last."""
        inbox = nc.new_inbox()
        subscription = await nc.subscribe(f"{inbox}.*", cb=self._answered)
        self._started = time.perf_counter()
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(
            base_url=self._mesh.http_url, timeout=_ANSWER_TIMEOUT_SECONDS, limits=limits
        ) as http:
            await self._send_all(nc, inbox, http)
        self._all_sent = True
        self._complete()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_answered.wait(), _DRAIN_SECONDS)
        await subscription.unsubscribe()

    async def _send_all(self, nc: Client, inbox: str, http: httpx.AsyncClient) -> None:
        commands = self._commands()
        side = max(1.0, self.per_second * SIDE_SHARE) if self._most_unanswered is None else 1.0
        over_http = payments(self._work)

        async def command(number: int, due: float) -> None:
            name, message = next(commands)
            self._waiting[number] = Sent(name, message.subject.split(".")[3], due)
            self.sent[name] += 1
            fields = message.headers | {headers.REPLY_TO: f"{inbox}.{number}"}
            await nc.publish(message.subject, message.body, headers=fields)

        async with asyncio.TaskGroup() as tasks:

            async def post(_number: int, due: float) -> None:
                tasks.create_task(self._post(http, next(over_http), due))

            async def get(number: int, due: float) -> None:
                tasks.create_task(self._get(http, number, due))

            async def query(number: int, due: float) -> None:
                tasks.create_task(self._query(nc, number, due))

            for per_second, send in ((self.per_second, command), (side, post), (side, get), (side, query)):
                tasks.create_task(self._paced(per_second, send))

    async def _paced(self, per_second: float, send: Callable[[int, float], Awaitable[None]]) -> None:
        """All that is due at once, then a nap: at thousands a second a timer for each would be half of the work."""
        number, total = 0, int(per_second * self._seconds)
        while number < total and not self._stopped.is_set():
            elapsed = time.perf_counter() - self._started
            while number < total and number / per_second <= elapsed and not self._is_full():
                await send(number, self._started + number / per_second)
                number += 1
            await asyncio.sleep(max(_NAP_SECONDS, number / per_second - (time.perf_counter() - self._started)))

    def _is_full(self) -> bool:
        return self._most_unanswered is not None and len(self._waiting) >= self._most_unanswered

    def _commands(self) -> Iterator[tuple[str, Message]]:
        usual, number = payments(self._work), 0
        while True:
            tenant, turn = self._work.tenant_ids[number // 100 % self._work.tenants], number % 100
            account = account_id(tenant, number // 100 // self._work.tenants % self._work.accounts)
            if turn in _CHARGES:
                price = {"amount_minor": 1_000 + number % 997, "currency": CURRENCY}
                body = {"account_id": account, "code_system": "urn:hospital:services", "code": "A00", "quantity": 1}
                yield _message(tenant, "charge.capture", body | {"unit_price": price})
            elif turn in _DRAFTS:
                line = {"description": "care", "quantity": 1, "unit_price_minor": 1_000 + number % 997}
                yield _message(tenant, "invoice.create", {"account_id": account, "lines": [line]})
            elif turn in _ISSUES and self._drafts:
                of_tenant, invoice_id = self._drafts.popleft()
                yield _message(of_tenant, "invoice.issue", {"invoice_id": invoice_id})
            elif turn in _ACCOUNTS:
                body = {"account_id": uuid4(), "patient": f"Patient/{number}", "currency": CURRENCY}
                yield _message(tenant, "account.open", body)
            else:
                yield "payment.record", next(usual)
            number += 1

    async def _answered(self, message: Msg) -> None:
        answered_at, outcome = time.perf_counter(), orjson.loads(message.data)
        sent = self._waiting.pop(int(message.subject.rpartition(".")[2]), None)
        if sent is None:
            self.failures["answered twice"] += 1
            return
        self.answers[f"{sent.name} {outcome['status']}"] += 1
        if outcome["status"] != "applied":
            self.failures[f"{sent.name} {outcome['status']} {(outcome['error'] or {}).get('code', '')}".strip()] += 1
        elif sent.name == "invoice.create":
            self._drafts.extend((sent.tenant, str(each["invoice_id"])) for each in outcome["result"]["documents"])
        self._took("commands", sent.due, answered_at)
        self._complete()

    def _complete(self) -> None:
        if self._all_sent and not self._waiting:
            self._all_answered.set()

    async def _post(self, http: httpx.AsyncClient, message: Message, due: float) -> None:
        fields = self._authorized(message.subject.split(".")[3]) | {
            "Idempotency-Key": str(uuid4()),
            "Content-Type": "application/json",
        }
        self.sent["payment.record"] += 1
        await self._asked(
            http.post("/v1/payments", content=message.body, headers=fields), httpx.codes.CREATED, "POST", due
        )

    async def _get(self, http: httpx.AsyncClient, number: int, due: float) -> None:
        tenant, account = self._chosen(number)
        path = f"/v1/accounts/{account}/balance"
        await self._asked(http.get(path, headers=self._authorized(tenant)), httpx.codes.OK, "GET", due)

    async def _asked(self, request: Awaitable[httpx.Response], expected: int, what: str, due: float) -> None:
        try:
            status = (await request).status_code
        except httpx.HTTPError as error:
            self.failures[f"{what} {type(error).__name__}"] += 1
            return
        if status != expected:
            self.failures[f"{what} {status}"] += 1
        self._took("http", due, time.perf_counter())

    async def _query(self, nc: Client, number: int, due: float) -> None:
        tenant, account = self._chosen(number)
        body = orjson.dumps({"account_id": account})
        try:
            answer = await nc.request(query_subject(tenant, "account.balance"), body, timeout=_ANSWER_TIMEOUT_SECONDS)
        except NatsError as error:
            self.failures[f"query {type(error).__name__}"] += 1
            return
        if refusal := orjson.loads(answer.data)["error"]:
            self.failures[f"query {refusal['code']}"] += 1
        self._took("queries", due, time.perf_counter())

    def _chosen(self, number: int) -> tuple[str, Any]:
        tenant = self._work.tenant_ids[number % self._work.tenants]
        return tenant, account_id(tenant, number // self._work.tenants % self._work.accounts)

    def _authorized(self, tenant: str) -> dict[str, str]:
        """A new token each minute, as clients have: what is kept per token must not grow for ever."""
        token, until = self._tokens.get(tenant, ("", 0.0))
        if time.monotonic() >= until:
            token = self._mesh.token(tenant)
            self._tokens[tenant] = (token, time.monotonic() + _TOKEN_SECONDS)
        return {"Authorization": f"Bearer {token}"}

    def _took(self, way: str, due: float, answered_at: float) -> None:
        windows, number = self.windows[way], int((due - self._started) / self.window_seconds)
        while len(windows) <= number:
            windows.append(array("f"))
        windows[number].append((answered_at - due) * 1_000)


def _message(tenant: str, name: str, body: dict[str, Any]) -> tuple[str, Message]:
    fields = {headers.MESSAGE_ID: str(uuid4()), headers.ACTOR: "soak"}
    return name, Message(command_subject(tenant, name), orjson.dumps(body), fields)
