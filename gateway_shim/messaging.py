"""HTTP requests as NATS messages: a command goes to JetStream, its outcome comes to this process's inbox."""

import asyncio
import itertools
import json
import secrets
from uuid import UUID

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import PubAck
from pydantic import ValidationError

from adapters.nats.topology import COMMANDS_STREAM
from schemas import headers as names
from schemas.outcome import Answer, Outcome

ATTEMPT_BYTES = 8  # of randomness in `<command id>:<attempt>`: two retries of one command must not share a message id

log = structlog.get_logger()


class Unavailable(Exception):
    """No PubAck, or no answer to a query. After `publish`, the command may be queued nevertheless."""


class Messenger:
    """One per process. `start` before use; the connection stays the caller's. The reply timeout is for commands."""

    def __init__(self, client: Client, *, reply_timeout_seconds: float) -> None:
        self._client = client
        self._jetstream: JetStreamContext = client.jetstream()
        self._timeout_seconds = reply_timeout_seconds
        self._inbox = client.new_inbox()
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    async def start(self) -> None:
        """Subscribe to the outcomes; nats-py subscribes again after every reconnect."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._deliver)
        await self._client.flush()

    def check(self) -> str | None:
        """Readiness: None, or why commands cannot be sent."""
        return None if self._client.is_connected else "not connected to NATS"

    async def command(self, subject: str, command_id: UUID, payload: bytes, headers: dict[str, str]) -> Outcome | None:
        """Publish and wait for the outcome, all within the reply timeout.

        None: JetStream has the command, its outcome is not known yet. Raises Unavailable where JetStream did not
        confirm it.
        """
        token = f"{next(self._tokens):x}"
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[token] = outcome
        headers = {**headers, names.REPLY_TO: f"{self._inbox}.{token}"}
        stored = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                ack = await self._publish(subject, payload, {**headers, names.MESSAGE_ID: str(command_id)})
                if ack.duplicate:
                    # JetStream dropped it and nobody will answer; under another message id the inbox does (0002).
                    attempt = f"{command_id}:{secrets.token_hex(ATTEMPT_BYTES)}"
                    await self._publish(subject, payload, {**headers, names.MESSAGE_ID: attempt})
                stored = True
                return await outcome
        except TimeoutError:
            if outcome.done() and not outcome.cancelled():  # cancelled: the timeout struck while it was awaited
                return outcome.result()  # the PubAck was lost, the outcome was not
            if not stored:
                raise Unavailable("no acknowledgement from JetStream in time") from None
            return None
        finally:
            del self._waiting[token]

    async def submit(self, subject: str, command_id: UUID, payload: bytes, headers: dict[str, str]) -> None:
        """Publish and wait for JetStream's confirmation only, within the reply timeout. Sent again, it is one command: the inbox
        sees to that. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._publish(subject, payload, {**headers, names.MESSAGE_ID: str(command_id)})
        except TimeoutError:
            raise Unavailable("no acknowledgement from JetStream in time") from None

    async def query(self, subject: str, payload: bytes, headers: dict[str, str], *, wait_seconds: float) -> Answer:
        """Request and reply. Raises Unavailable where nobody answers in time."""
        self._require_connection()
        try:
            reply = await self._client.request(subject, payload, timeout=wait_seconds, headers=headers)
            return Answer.model_validate_json(reply.data)
        except nats.errors.NoRespondersError:
            raise Unavailable("no query handler is running") from None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"no answer to the query: {type(error).__name__}") from error
        except ValidationError as error:
            log.error("answer_malformed", subject=subject, exc_info=error)
            raise Unavailable("the answer was not one") from None

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> PubAck:
        self._require_connection()
        try:
            return await self._jetstream.publish(
                subject, payload, timeout=self._timeout_seconds, stream=COMMANDS_STREAM, headers=headers
            )
        except (nats.errors.Error, nats.js.errors.Error, OSError, json.JSONDecodeError) as error:
            raise Unavailable(f"JetStream did not take the command: {type(error).__name__}") from error

    def _require_connection(self) -> None:
        """While reconnecting, nats-py buffers: the command would be sent after the client had been told it was not."""
        if not self._client.is_connected:
            raise Unavailable("not connected to NATS")

    async def _deliver(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject.rpartition(".")[2])
        if waiting is None or waiting.done():
            return  # the request has its 202 already
        try:
            outcome = Outcome.model_validate_json(message.data)
        except ValidationError as error:
            # The command was handled, only its answer is unreadable: the client gets a 202 and can ask again.
            log.error("outcome_malformed", exc_info=error)
            return
        waiting.set_result(outcome)
