"""A stand-in for the handlers, at the wire: consumes the command stream's durables, answers queries.

The shim's tests are about HTTP and NATS, so here the other side does what the test says. Where a test wants the real
handlers instead, it starts them on the same NATS server and leaves this out: nothing else changes.
"""

import asyncio
import hashlib
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.nats.topology import COMMANDS_STREAM, durable
from schemas import headers as names
from schemas.base import WireModel
from schemas.codes import Code
from schemas.outcome import Answer, Outcome, problem
from schemas.registry import COMMANDS, GROUPS, QUERIES
from schemas.subjects import QUERY_PREFIX, parse
from tools.stack import NatsServer

# What a string of an unknown pattern may look like.
_CANDIDATES = ("4000", "2026-01", "AED", "a-1", "Patient/1", "urn:x:y", "0/1", "1.5", "text", "0" * 64)


@dataclass(frozen=True)
class Received:
    """A command as it arrived."""

    tenant_id: str
    name: str
    command_id: UUID
    message_id: str
    body: dict[str, Any]
    headers: dict[str, str]


# What the test wants answered: an outcome, or None for silence.
Decide = Callable[[Received], Outcome | None]


def applied(command: Received) -> Outcome:
    """Accepted, with a result of the declared shape."""
    result = sample(COMMANDS[command.name].result)
    return Outcome(command_id=command.command_id, status="applied", result=result, position="0/1A2B3C")


def refused(code: Code, **details: Any) -> Decide:
    """Refuses everything with `code`."""
    return lambda command: Outcome(
        command_id=command.command_id, status="rejected", error=problem(code, **details), position=None
    )


def silent(_command: Received) -> None:
    """Takes the command and says nothing."""


@dataclass
class Peer:
    """`decide` may be changed at any time; `received` holds every delivery, in order."""

    client: Client
    decide: Decide = applied
    answer: Callable[[str, str, dict[str, Any]], Answer | None] = lambda _tenant, name, _body: Answer(
        result=sample(QUERIES[name].result), position="0/1A2B3C"
    )
    received: list[Received] = field(default_factory=list)
    queried: list[tuple[str, str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _inbox: dict[tuple[str, UUID], tuple[bytes, Outcome]] = field(default_factory=dict)

    async def consume(self, group: str) -> None:
        subscription = await self.client.jetstream().pull_subscribe_bind(durable(group), COMMANDS_STREAM)
        while True:
            try:
                for message in await subscription.fetch(100, timeout=1):
                    await self._handle(message)
            except TimeoutError:  # nats-py raises its own kind and the plain one
                continue

    async def _handle(self, message: Msg) -> None:
        address, headers = parse(message.subject), dict(message.headers or {})
        command_id = names.command_id(headers[names.MESSAGE_ID])
        assert address is not None and command_id is not None
        body = orjson.loads(message.data)
        command = Received(address.tenant_id, address.name, command_id, headers[names.MESSAGE_ID], body, headers)
        self.received.append(command)
        self.arrived.set()
        outcome = self._decided(command)
        if outcome is not None and names.REPLY_TO in headers:
            await self.client.publish(headers[names.REPLY_TO], outcome.model_dump_json().encode())
        await message.ack()

    def _decided(self, command: Received) -> Outcome | None:
        """The inbox's rules: the stored outcome for the same body, a refusal for another; retryable ones not stored."""
        key, payload = (command.tenant_id, command.command_id), _hash(command)
        if key in self._inbox:
            stored_payload, outcome = self._inbox[key]
            if stored_payload != payload:
                return refused(Code.IDEMPOTENCY_KEY_REUSED)(command)
            return outcome.model_copy(update={"status": "duplicate"})
        decided = self.decide(command)
        if decided is not None and not (decided.error and decided.error.retryable):
            self._inbox[key] = payload, decided
        return decided

    async def on_query(self, message: Msg) -> None:
        address, body = parse(message.subject), orjson.loads(message.data)
        assert address is not None
        self.queried.append((*address, body, dict(message.headers or {})))
        answer = self.answer(*address, body)
        if answer is not None:
            await message.respond(answer.model_dump_json().encode())


@asynccontextmanager
async def peer(server: NatsServer) -> AsyncIterator[Peer]:
    """A peer that consumes every group of `server` while the block runs."""
    client = await nats.connect(server.url("handlers"), max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    one = Peer(client)
    await client.subscribe(f"{QUERY_PREFIX}.>", queue="billing-queries", cb=one.on_query)
    await client.flush()
    consuming = [asyncio.create_task(one.consume(group)) for group in GROUPS]
    try:
        yield one
    finally:
        for task in consuming:
            task.cancel()
        ended = await asyncio.gather(*consuming, return_exceptions=True)
        await client.close()
        for reason in ended:
            if not isinstance(reason, asyncio.CancelledError):
                raise AssertionError("the peer stopped listening") from reason


def _hash(command: Received) -> bytes:
    body = orjson.dumps(command.body, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(command.name.encode() + b"\n" + body).digest()


def sample(model: type[WireModel]) -> dict[str, Any]:
    """The smallest JSON object that `model` serialises to."""
    schema = model.model_json_schema(mode="serialization")
    value: dict[str, Any] = _sample(schema, schema.get("$defs", {}))
    return value


def _sample(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _sample(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return None if {"type": "null"} in schema["anyOf"] else _sample(schema["anyOf"][0], definitions)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type")
    if kind == "object":
        return {name: _sample(each, definitions) for name, each in schema.get("properties", {}).items()}
    if kind == "string":
        return _text(schema)
    return {"array": [], "integer": schema.get("minimum", 1), "boolean": False, "null": None}[str(kind)]


def _text(schema: dict[str, Any]) -> str:
    formats = {
        "uuid": "018f3b1c-7c00-7b1a-9d53-0c5b1a2e4f60",
        "date": "2026-01-31",
        "date-time": "2026-01-31T08:00:00Z",
    }
    if "format" in schema:
        return formats[schema["format"]]
    fitting = (
        text
        for text in itertools.chain(("AED",), _CANDIDATES)
        if re.search(schema.get("pattern", ""), text) and len(text) <= schema.get("maxLength", 99)
    )
    found = next(fitting, None)
    assert found is not None, f"no text here fits {schema}: add one to _CANDIDATES"
    return found
