"""Commands onto NATS with their outcomes back, as a client outside the mesh does it (docs/decisions/0002)."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import PubAck

from schemas import headers as names
from schemas.outcome import Outcome
from tools.cli.errors import UNAVAILABLE, CliError
from tools.cli.names import explain_refused_subject

ACK_TIMEOUT_SECONDS = 5.0
_ATTEMPT_BYTES = 8


class Published(NamedTuple):
    """`duplicate`: JetStream had the message id already. `outcome` is None where it was not waited for."""

    message_id: str
    stream: str
    sequence: int
    duplicate: bool
    outcome: Outcome | None


class OutcomeTimeout(CliError):
    """The command is queued, its outcome did not come in time."""

    def __init__(self, message_id: str, seconds: float) -> None:
        super().__init__(
            f"command {message_id} is queued, but no outcome came within {seconds:g} s; `billing queues` shows whether its "
            "group is consumed, and publishing it again under the same id is safe",
            UNAVAILABLE,
        )


class CommandClient:
    """One inbox for all outcomes. The connection stays the caller's."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection
        self._jetstream = connection.jetstream()
        self._inbox = connection.new_inbox()
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    @classmethod
    @asynccontextmanager
    async def on(cls, connection: Client) -> AsyncIterator[Self]:
        """A client that listens for outcomes while the block runs."""
        client = cls(connection)
        subscription = await connection.subscribe(f"{client._inbox}.*", cb=client._deliver)
        await connection.flush()
        try:
            yield client
        finally:
            await subscription.unsubscribe()

    async def send(
        self, subject: str, body: bytes, message_id: str, *, actor: str | None, wait_seconds: float | None
    ) -> Published:
        """Publish, and with `wait_seconds` wait for the outcome; a message id that JetStream knows already is sent again
        as another attempt, so that the inbox answers with the stored outcome.

        Raises CliError where no stream takes the subject or NATS does not answer, OutcomeTimeout.
        """
        headers = {names.MESSAGE_ID: message_id} | ({names.ACTOR: actor} if actor else {})
        if wait_seconds is None:
            return _published(message_id, await self._publish(subject, body, headers), None)
        token = f"{next(self._tokens):x}"
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answered
        headers[names.REPLY_TO] = f"{self._inbox}.{token}"
        try:
            ack = await self._publish(subject, body, headers)
            if ack.duplicate:
                attempt = f"{message_id.split(':', maxsplit=1)[0]}:{secrets.token_hex(_ATTEMPT_BYTES)}"
                await self._publish(subject, body, headers | {names.MESSAGE_ID: attempt})
            async with asyncio.timeout(wait_seconds):
                return _published(message_id, ack, await answered)
        except TimeoutError:
            raise OutcomeTimeout(message_id, wait_seconds) from None
        finally:
            del self._waiting[token]

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str]) -> PubAck:
        try:
            return await self._jetstream.publish(subject, body, headers=headers, timeout=ACK_TIMEOUT_SECONDS)
        except nats.js.errors.NoStreamResponseError:
            raise CliError(explain_refused_subject(subject)) from None
        except (nats.errors.TimeoutError, TimeoutError):
            raise CliError(
                f"{subject}: no acknowledgement within {ACK_TIMEOUT_SECONDS:g} s; either this user may not publish there, or "
                "the stream has no leader",
                UNAVAILABLE,
            ) from None
        except (nats.errors.Error, nats.js.errors.Error) as error:
            raise CliError(f"{subject}: {str(error) or type(error).__name__}", UNAVAILABLE) from None

    async def _deliver(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject.rpartition(".")[2])
        if waiting is not None and not waiting.done():
            waiting.set_result(Outcome.model_validate_json(message.data))


def _published(message_id: str, ack: PubAck, outcome: Outcome | None) -> Published:
    return Published(message_id, ack.stream, ack.seq, bool(ack.duplicate), outcome)
