"""The two ways in: a tenant's own NATS user, and HTTP with a JWT. Both answer with the same `Heard`."""

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from gateway_shim.routes import ROUTES, Route
from schemas import headers
from schemas.subjects import command_subject, query_subject
from tools.stack.mesh import Mesh
from tools.stack.nats_permissions import tenant_inbox_prefix

# A message that its handler lost comes again after ACK_WAIT (30 s): late, and worth knowing, but not unanswered.
ANSWER_SECONDS = 45.0
_BY_NAME: dict[str, Route] = {route.name: route for route in ROUTES}


class Heard(NamedTuple):
    """What came back: `applied`, `duplicate`, `rejected` (with its code), or `queued` over HTTP."""

    status: str
    code: str | None
    result: dict[str, Any]
    position: str | None


@dataclass
class NatsChannel:
    """Publishes as the tenant's own NATS user, which may reach its own subjects only."""

    tenant_id: str
    connection: Client
    inbox: str
    waiting: dict[str, asyncio.Future[Heard]]

    @classmethod
    async def open(cls, mesh: Mesh, tenant_id: str) -> "NatsChannel":
        prefix = tenant_inbox_prefix(tenant_id)
        connection = await nats.connect(mesh.tenant_nats_url(tenant_id), inbox_prefix=prefix.encode())
        channel = cls(tenant_id, connection, f"{prefix}.outcomes", {})
        await connection.subscribe(f"{channel.inbox}.*", cb=channel._heard)
        return channel

    async def command(self, name: str, body: dict[str, Any], command_id: uuid.UUID) -> Heard:
        """Publishes a command and waits for its outcome; asks again where the broker says it has seen the id before."""
        token = uuid.uuid4().hex
        answer: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        self.waiting[token] = answer
        if await self._publish(name, body, str(command_id), token):
            await self._publish(name, body, f"{command_id}:{uuid.uuid4().hex[:8]}", token)
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer

    async def raw(self, name: str, data: bytes, message_id: str) -> None:
        """Publishes bytes as they are, for what no client library would send."""
        subject = command_subject(self.tenant_id, name)
        await self.connection.jetstream().publish(subject, data, headers={headers.MESSAGE_ID: message_id})

    async def burst(self, name: str, bodies: list[dict[str, Any]]) -> list[Heard]:
        """Publishes everything before waiting for anything: what a counter that is behind does."""
        answers: list[asyncio.Future[Heard]] = []
        for body in bodies:
            token = uuid.uuid4().hex
            answers.append(asyncio.get_running_loop().create_future())
            self.waiting[token] = answers[-1]
            await self.connection.publish(
                command_subject(self.tenant_id, name),
                json.dumps(body).encode(),
                headers={headers.MESSAGE_ID: str(uuid.uuid4()), headers.REPLY_TO: f"{self.inbox}.{token}"},
            )
        async with asyncio.timeout(ANSWER_SECONDS):
            return list(await asyncio.gather(*answers))

    async def query(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        subject = query_subject(self.tenant_id, name)
        answer = await self.connection.request(subject, json.dumps(body).encode(), timeout=ANSWER_SECONDS)
        return dict(json.loads(answer.data))

    async def _publish(self, name: str, body: dict[str, Any], message_id: str, token: str) -> bool:
        ack = await self.connection.jetstream().publish(
            command_subject(self.tenant_id, name),
            json.dumps(body).encode(),
            headers={headers.MESSAGE_ID: message_id, headers.REPLY_TO: f"{self.inbox}.{token}"},
        )
        return bool(ack.duplicate)

    async def _heard(self, message: Msg) -> None:
        answer = self.waiting.pop(message.subject.rsplit(".", 1)[1], None)
        if answer is not None and not answer.done():
            answer.set_result(_outcome(json.loads(message.data)))


@dataclass
class HttpChannel:
    """Calls the shim with a bearer token of the tenant."""

    client: httpx.AsyncClient

    @classmethod
    def open(cls, mesh: Mesh, tenant_id: str) -> "HttpChannel":
        authorization = {"authorization": f"Bearer {mesh.token(tenant_id)}"}
        return cls(httpx.AsyncClient(base_url=mesh.http_url, headers=authorization, timeout=ANSWER_SECONDS))

    async def command(self, name: str, body: dict[str, Any], command_id: uuid.UUID) -> Heard:
        route = _BY_NAME[name]
        path = route.path.format_map(body)
        rest = {field: value for field, value in body.items() if field not in route.path_parameters}
        response = await self.client.request(
            route.method, path, json=rest, headers={"idempotency-key": str(command_id)}
        )
        answer = response.json()
        if response.is_success:
            return _outcome(answer)
        return Heard("rejected", answer["code"], answer, None)


def _outcome(answer: dict[str, Any]) -> Heard:
    error = answer.get("error")
    return Heard(answer["status"], error["code"] if error else None, answer.get("result") or {}, answer.get("position"))
