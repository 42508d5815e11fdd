"""Clients of several tenants under load, over NATS and over HTTP (tools/faults/clerk.py has what each of them does).

A client that hears nothing goes no further: what depends on an outcome is sent when that was heard.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from tools.faults import nonsense
from tools.faults.clerk import ACCOUNTS_PER_TENANT, Clerk
from tools.faults.history import History, Sent
from tools.faults.http_desk import HttpDesk
from tools.faults.witness import Witness

_RETRY_SECONDS = 0.05
_PUBACK_TIMEOUT_SECONDS = 2
_STOP_TIMEOUT_SECONDS = 60
# Of what is heard over NATS, how much is looked up in PostgreSQL at once.
_WITNESSED_SHARE = 0.02
_REUSED = "reused-"

Heard = Callable[[dict[str, Any]], None]


class Reachable(Protocol):
    """A NATS server, or a cluster."""

    def client_options(self, user: str) -> dict[str, Any]: ...


class Command(NamedTuple):
    """One that was stored, to be sent again."""

    subject: str
    data: bytes
    command_id: UUID


class Workload:
    """Publishes until the block ends; `history` has what the stream has confirmed and what was answered.

    A publish whose PubAck does not come is tried again with the same message id until it does, as a client should.
    """

    def __init__(
        self,
        server: Reachable,
        tenants: Sequence[str],
        history: History,
        *,
        seed: int,
        per_second: int = 300,
        http: HttpDesk | None = None,
        witness: Witness | None = None,
        hurried: bool = False,
    ) -> None:
        """`per_second`: turns of all tenants together, each a payment and now and then more. Without `http`, all over NATS.
        `hurried`: nothing that takes the mesh long to refuse.
        """
        self._server, self.tenants, self.history, self._per_second = server, tenants, history, per_second
        self.http, self.hurried, self._witness = http, hurried, witness
        self.accounts: dict[str, list[UUID]] = {tenant: [] for tenant in tenants}
        self._random = random.Random(seed)  # noqa: S311  repeatable on purpose
        self._stopped = asyncio.Event()
        self._client: Client
        self._inbox = ""
        self._waiting: dict[UUID, Heard] = {}
        self._looking: set[asyncio.Task[None]] = set()

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
            tasks = [asyncio.create_task(self._clerk(Clerk(self, tenant))) for tenant in self.tenants]
            try:
                yield
            finally:
                self._stopped.set()
                async with asyncio.timeout(_STOP_TIMEOUT_SECONDS):
                    await asyncio.gather(*tasks, *self._looking)
        finally:
            await self._client.close()

    async def _clerk(self, clerk: Clerk) -> None:
        await clerk.open_accounts(ACCOUNTS_PER_TENANT)
        while not self._stopped.is_set():
            await clerk.turn(self._random)
            await asyncio.sleep(len(self.tenants) / self._per_second)  # the rate; nothing is waited for
        await clerk.finish()

    async def send(
        self,
        tenant: str,
        name: str,
        body: dict[str, Any],
        *,
        reference: str | None = None,
        applied: Heard | None = None,
        follows: bool = False,
        refused: str = "",
    ) -> Command:
        """`applied` gets the result, if it is ever heard."""
        command_id, data = uuid4(), json.dumps(body).encode()
        command = Command(f"billing.v1.cmd.{tenant}.{name}", data, command_id)
        if applied is not None:
            self._waiting[command_id] = applied
        await self._publish(command.subject, data, str(command_id), self._reply_to(command_id))
        self.history.acknowledged(Sent(tenant, name, command_id, reference, follows=follows, refused=refused))
        return command

    async def send_malformed(self, tenant: str, what: nonsense.Malformed) -> None:
        command_id = uuid4()
        message_id = what.message_id or str(command_id)
        headers = self._reply_to(command_id) | what.headers
        await self._publish(f"billing.v1.cmd.{tenant}.{what.command}", what.body, message_id, headers)
        self.history.acknowledged(Sent(tenant, what.command, command_id, None, malformed=True, message_id=message_id))

    async def send_again(self, command: Command, number: int) -> None:
        """With the same body: a client that lost its memory. Past the stream's own deduplication by another message id, or,
        when its window is over, by the same one."""
        message_id = f"{command.command_id}:again-{number}" if number % 2 else str(command.command_id)
        await self._publish(command.subject, command.data, message_id, self._reply_to(command.command_id))
        self.history.sent_again(command.command_id)

    async def send_another_body(self, payment: Command, number: int) -> None:
        """Under a command id that is taken."""
        headers = {"Billing-Reply-To": f"{self._inbox}.{_REUSED}{payment.command_id}"}
        message_id = f"{payment.command_id}:reused-{number}"
        await self._publish(payment.subject, nonsense.other_body(payment.data), message_id, headers)
        self.history.sent_with_another_body(payment.command_id)

    def _reply_to(self, command_id: UUID) -> dict[str, str]:
        return {"Billing-Reply-To": f"{self._inbox}.{command_id}"}

    async def _publish(self, subject: str, body: bytes, message_id: str, headers: dict[str, str]) -> None:
        """Returns with the PubAck, however often it takes."""
        jetstream = self._client.jetstream()
        headers = {"Nats-Msg-Id": message_id} | headers
        while True:
            try:
                await jetstream.publish(subject, body, timeout=_PUBACK_TIMEOUT_SECONDS, headers=headers)
            except (NatsError, JetStreamError, TimeoutError):
                await asyncio.sleep(_RETRY_SECONDS)  # NATS is away, or the stream full
            else:
                return

    async def _answered(self, message: Msg) -> None:
        token, outcome = message.subject.rpartition(".")[2], json.loads(message.data)
        command_id, status = UUID(token.removeprefix(_REUSED)), str(outcome["status"])
        if token.startswith(_REUSED):
            self.history.reuse_answered(command_id, status, str((outcome["error"] or {}).get("code")))
            return
        self.history.answered(command_id, status)
        if status == "applied":
            self._look(command_id)
            if applied := self._waiting.pop(command_id, None):
                applied(outcome["result"])

    def _look(self, command_id: UUID) -> None:
        if self._witness is not None and self._random.random() < _WITNESSED_SHARE:
            task = asyncio.create_task(self._ask(self._witness, command_id))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _ask(self, witness: Witness, command_id: UUID) -> None:
        if (committed := await witness.committed(command_id)) is not None:
            self.history.looked(command_id, committed)


async def _ignore(_error: Exception) -> None:
    """Servers are being broken: that is the point."""
