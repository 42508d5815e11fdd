"""HTTP requests as NATS messages: a command goes to JetStream, its outcome comes to this process's inbox."""

import asyncio
import itertools
import secrets
from dataclasses import dataclass
from uuid import UUID

import nats.errors
import orjson
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from adapters.nats import raw_write
from adapters.nats.topology import COMMANDS_STREAM
from schemas import headers as names
from schemas.outcome import Answer, Outcome
from schemas.wire_headers import encode_headers

ATTEMPT_BYTES = 8  # of randomness in `<command id>:<attempt>`: two retries of one command must not share a message id

_STORED = "stored"
_NO_RESPONDERS = "503"
_EXPECTED = {"Nats-Expected-Stream": COMMANDS_STREAM}

log = structlog.get_logger()


class Unavailable(Exception):
    """No PubAck, or no answer to a query. After `publish`, the command may be queued nevertheless."""


@dataclass(slots=True)
class _Sent:
    """A command under way. `answer`: its outcome, None where its confirmation is all that is wanted."""

    subject: str
    command_id: UUID
    payload: bytes
    headers: dict[str, str]
    answer: asyncio.Future[Outcome | None]
    awaits_outcome: bool = True
    stored: bool = False


class Messenger:
    """One per process. `start` before use; the connection stays the caller's. The reply timeout is for commands.

    A command's confirmation comes to `<inbox>.<token>.stored`, its outcome to `<inbox>.<token>`.
    """

    def __init__(self, client: Client, *, reply_timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = reply_timeout_seconds
        self._inbox = client.new_inbox()
        self._tokens = itertools.count()
        self._sent: dict[str, _Sent] = {}

    async def start(self) -> None:
        """Subscribe to confirmations and outcomes; nats-py subscribes again after every reconnect."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._deliver)
        await self._client.subscribe(f"{self._inbox}.*.{_STORED}", cb=self._confirm)
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
        headers = headers | {names.REPLY_TO: f"{self._inbox}.{token}"}
        return await self._answer(token, _Sent(subject, command_id, payload, headers, _future()))

    async def submit(self, subject: str, command_id: UUID, payload: bytes, headers: dict[str, str]) -> None:
        """Publish and wait for JetStream's confirmation only, within the reply timeout. Sent again, it is one command: the inbox
        sees to that. Raises Unavailable."""
        token = f"{next(self._tokens):x}"
        await self._answer(token, _Sent(subject, command_id, payload, headers, _future(), awaits_outcome=False))

    async def _answer(self, token: str, sent: _Sent) -> Outcome | None:
        self._sent[token] = sent
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._publish(token, sent, str(sent.command_id))
                return await sent.answer
        except TimeoutError:
            if sent.answer.done() and not sent.answer.cancelled():  # cancelled: the timeout struck while it was awaited
                return sent.answer.result()
            if not sent.stored:
                raise Unavailable("no acknowledgement from JetStream in time") from None
            return None
        finally:
            del self._sent[token]

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

    async def _publish(self, token: str, sent: _Sent, message_id: str) -> None:
        """One write, as little as can be: whoever waits for a lone command waits for this. Raises Unavailable."""
        block = encode_headers(sent.headers | {names.MESSAGE_ID: message_id, **_EXPECTED})
        if len(block) + len(sent.payload) > self._client.max_payload:
            raise Unavailable("the command is larger than the broker takes")
        frame = raw_write.hpub(sent.subject, block, sent.payload, f"{self._inbox}.{token}.{_STORED}")
        try:
            await raw_write.write(self._client, [frame], len(sent.payload))
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"the command could not be sent: {type(error).__name__}") from error

    def _require_connection(self) -> None:
        """While reconnecting, nats-py buffers: the command would be sent after the client had been told it was not."""
        if not self._client.is_connected:
            raise Unavailable("not connected to NATS")

    async def _confirm(self, message: Msg) -> None:
        """JetStream's word on a command that was published."""
        token = message.subject.split(".")[-2]
        sent = self._sent.get(token)
        if sent is None or sent.answer.done():
            return
        try:
            duplicate = _confirmed(message)
            if duplicate and sent.awaits_outcome:
                # JetStream dropped it and nobody will answer; under another message id the inbox does (0002).
                await self._publish(token, sent, f"{sent.command_id}:{secrets.token_hex(ATTEMPT_BYTES)}")
                return
        except Unavailable as error:
            sent.answer.set_exception(error)
            return
        sent.stored = True
        if not sent.awaits_outcome:
            sent.answer.set_result(None)

    async def _deliver(self, message: Msg) -> None:
        sent = self._sent.get(message.subject.rpartition(".")[2])
        if sent is None or sent.answer.done() or not sent.awaits_outcome:
            return  # the request has its 202 already
        try:
            outcome = Outcome.model_validate_json(message.data)
        except ValidationError as error:
            # The command was handled, only its answer is unreadable: the client gets a 202 and can ask again.
            log.error("outcome_malformed", exc_info=error)
            return
        sent.answer.set_result(outcome)


def _future() -> asyncio.Future[Outcome | None]:
    return asyncio.get_running_loop().create_future()


def _confirmed(message: Msg) -> bool:
    """Whether JetStream had the command's message id already. Raises Unavailable where it did not take the command."""
    if (message.headers or {}).get("Status") == _NO_RESPONDERS:
        raise Unavailable("JetStream did not take the command: no stream takes the subject")
    try:
        ack = orjson.loads(message.data)
        refused = ack.get("error")
    except (orjson.JSONDecodeError, AttributeError):
        raise Unavailable("JetStream's confirmation cannot be read") from None
    if refused is not None or ack.get("stream") != COMMANDS_STREAM:
        code = refused.get("err_code") if isinstance(refused, dict) else None
        raise Unavailable(f"JetStream did not take the command: error {code}")
    return ack.get("duplicate") is True
