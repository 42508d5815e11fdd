"""Clients of several tenants: accounts, payments, refunds that overtake, invoices issued and paid, repeats, and nonsense.

Every command has an effect that can be counted without asking the inbox: a payment carries its command's number as reference,
and invoices are issued, and paid, when the outcome before was heard: a client that hears nothing goes no further.
"""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol
from uuid import UUID, uuid4

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from tools.faults.history import History, Sent

ACCOUNTS_PER_TENANT = 3
LINE_MINOR = 1000
LINE = {"description": "care", "quantity": 1, "unit_price_minor": LINE_MINOR}
# How many of a tenant's newest commands a repeat is chosen from.
_REMEMBERED = 200
_RETRY_SECONDS = 0.05
_PUBACK_TIMEOUT_SECONDS = 2
_STOP_TIMEOUT_SECONDS = 60


class Reachable(Protocol):
    """A NATS server, or a cluster."""

    def client_options(self, user: str) -> dict[str, Any]: ...


class Workload:
    """Publishes until the block ends; `history` has what the stream has confirmed and what was answered.

    A publish whose PubAck does not come is tried again with the same message id until it does, as a client should.
    """

    def __init__(
        self, server: Reachable, tenants: Sequence[str], history: History, *, seed: int, per_second: int = 300
    ) -> None:
        self._server, self._tenants, self._history, self._per_second = server, tenants, history, per_second
        self._random = random.Random(seed)  # noqa: S311  repeatable on purpose
        self._stopped = asyncio.Event()
        self._client: Client
        self._inbox = ""
        self._waiting: dict[UUID, Callable[[dict[str, Any]], None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Accounts first; then the load, until the block ends."""
        self._client = await nats.connect(
            **self._server.client_options("operator"),
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RETRY_SECONDS,
            error_cb=_ignore,
        )
        try:
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)
            tasks = [asyncio.create_task(self._clerk(_Clerk(self, tenant))) for tenant in self._tenants]
            try:
                yield
            finally:
                self._stopped.set()
                async with asyncio.timeout(_STOP_TIMEOUT_SECONDS):
                    await asyncio.gather(*tasks)
        finally:
            await self._client.close()

    async def _clerk(self, clerk: "_Clerk") -> None:
        await clerk.open_accounts(ACCOUNTS_PER_TENANT)
        while not self._stopped.is_set():
            await clerk.turn(self._random)
            await asyncio.sleep(len(self._tenants) / self._per_second)  # the rate; nothing is waited for

    async def publish(self, subject: str, body: bytes, message_id: str) -> None:
        """Returns with the PubAck, however often it takes."""
        jetstream = self._client.jetstream()
        headers = {"Nats-Msg-Id": message_id, "Billing-Reply-To": f"{self._inbox}.{message_id[:36]}"}
        while True:
            try:
                await jetstream.publish(subject, body, timeout=_PUBACK_TIMEOUT_SECONDS, headers=headers)
            except (NatsError, JetStreamError, TimeoutError):
                await asyncio.sleep(_RETRY_SECONDS)  # NATS is away, or the stream full
            else:
                return

    async def send(
        self,
        tenant: str,
        name: str,
        body: dict[str, Any],
        reference: str | None = None,
        applied: Callable[[dict[str, Any]], None] | None = None,
        follows: bool = False,
    ) -> "_Repeatable":
        """`applied` gets the result, if it is ever heard."""
        command_id, data = uuid4(), json.dumps(body).encode()
        subject = f"billing.v1.cmd.{tenant}.{name}"
        if applied is not None:
            self._waiting[command_id] = applied
        await self.publish(subject, data, str(command_id))
        self._history.acknowledged(Sent(tenant, name, command_id, reference, follows=follows))
        return subject, data, command_id

    async def send_malformed(self, tenant: str) -> None:
        command_id = uuid4()
        await self.publish(f"billing.v1.cmd.{tenant}.payment.record", b'{"amount": "much"', str(command_id))
        self._history.acknowledged(Sent(tenant, "payment.record", command_id, None, malformed=True))

    async def send_again(self, command: "_Repeatable", number: int) -> None:
        """Past the stream's own deduplication, with the same body: a client that lost its memory."""
        subject, data, command_id = command
        await self.publish(subject, data, f"{command_id}:again-{number}")
        self._history.sent_again(command_id)

    async def _answered(self, message: Msg) -> None:
        command_id, outcome = UUID(message.subject.rpartition(".")[2]), json.loads(message.data)
        self._history.answered(command_id, str(outcome["status"]))
        if outcome["status"] == "applied" and (applied := self._waiting.pop(command_id, None)):
            applied(outcome["result"])


_Repeatable = tuple[str, bytes, UUID]


class _Clerk:
    """One tenant's client."""

    def __init__(self, workload: Workload, tenant: str) -> None:
        self._workload, self._tenant = workload, tenant
        self._number = self._payments = 0
        self._accounts: list[UUID] = []
        self._recent: deque[_Repeatable] = deque(maxlen=_REMEMBERED)
        self._drafts: deque[tuple[str, str]] = deque()  # account and invoice, as in the next one
        self._issued: deque[tuple[str, str]] = deque()

    async def open_accounts(self, count: int) -> None:
        for _ in range(count):
            account = uuid4()
            body = {"account_id": str(account), "patient": "Patient/1", "currency": "AFN"}
            await self._send("account.open", body)
            self._accounts.append(account)

    async def turn(self, chance: random.Random) -> None:
        """A payment, and now and then something else with it."""
        self._number += 1
        account = str(chance.choice(self._accounts))
        payment_id = await self._pay(account, chance.randint(10, 9999))
        if self._number % 7 == 0:  # a command that depends on the one just sent
            refund = {"payment_id": payment_id, "amount_minor": 1, "reason": "asked"}
            await self._send("payment.refund", refund, follows=True)
        if self._number % 5 == 0:
            body = {"account_id": account, "lines": [LINE]}
            await self._send("invoice.create", body, applied=partial(self._drafted, account))
        if self._drafts:
            await self._issue(*self._drafts.popleft())
        if self._issued:
            account, invoice_id = self._issued.popleft()
            part = chance.randint(1, LINE_MINOR)
            await self._pay(account, part + chance.randint(0, 5), [{"invoice_id": invoice_id, "amount_minor": part}])
        if self._number % 11 == 0:
            await self._workload.send_again(chance.choice(self._recent), self._number)
        if self._number % 97 == 0:
            await self._workload.send_malformed(self._tenant)

    async def _pay(self, account: str, amount_minor: int, allocations: Sequence[dict[str, Any]] = ()) -> str:
        self._payments += 1
        payment_id, reference = str(uuid4()), f"{self._tenant[-3:]}-{self._payments}"
        body = {
            "payment_id": payment_id,
            "account_id": account,
            "amount": {"amount_minor": amount_minor, "currency": "AFN"},
            "method": "cash",
            "reference": reference,
            "allocations": allocations,
        }
        await self._send("payment.record", body, reference)
        return payment_id

    async def _issue(self, account: str, invoice_id: str) -> None:
        await self._send(
            "invoice.issue", {"invoice_id": invoice_id}, applied=lambda _: self._issued.append((account, invoice_id))
        )

    def _drafted(self, account: str, result: dict[str, Any]) -> None:
        self._drafts.extend((account, str(document["invoice_id"])) for document in result["documents"])

    async def _send(
        self,
        name: str,
        body: dict[str, Any],
        reference: str | None = None,
        applied: Callable[[dict[str, Any]], None] | None = None,
        follows: bool = False,
    ) -> None:
        self._recent.append(await self._workload.send(self._tenant, name, body, reference, applied, follows))


async def _ignore(_error: Exception) -> None:
    """Servers are being broken: that is the point."""
