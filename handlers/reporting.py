"""How a worker writes: internal commands onto the stream, their outcomes back (docs/decisions/0010, 0002).

    async with Reporter.on(connection) as reporter:
        outcome = await reporter.report("kabul-central", "job.report", command_id, body)

Many reports may be on their way at once; the command groups commit what they find waiting together.
"""

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from uuid import UUID

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError
from pydantic import ValidationError

from adapters.nats.topology import COMMANDS_STREAM
from adapters.telemetry import tracing
from schemas import headers
from schemas.base import CommandBody
from schemas.outcome import Outcome
from schemas.subjects import command_subject

log = structlog.get_logger()

# Reports under way: above what group commit needs to fill a batch, far below the 20,000 unacknowledged messages of a group.
WINDOW = 256
ACK_TIMEOUT_SECONDS = 5.0
# A batch commits well inside a second; after this long the outcome is asked for again, under another attempt.
OUTCOME_TIMEOUT_SECONDS = 5.0
REPORT_TIMEOUT_SECONDS = 60.0
BACK_OFF_SECONDS = (0.1, 2.0)
_ATTEMPT_BYTES = 8


class ReportTimeout(Exception):
    """No outcome came in time. The command may have been applied all the same: report it again under the same id."""


class Reporter:
    """One inbox for all outcomes. The connection stays the caller's."""

    def __init__(self, connection: Client, *, window: int = WINDOW) -> None:
        self._connection = connection
        self._jetstream = connection.jetstream()
        self._inbox = connection.new_inbox()
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._slots = asyncio.Semaphore(window)

    @classmethod
    @asynccontextmanager
    async def on(cls, connection: Client, *, window: int = WINDOW) -> AsyncIterator[Self]:
        """A reporter that listens for outcomes while the block runs."""
        reporter = cls(connection, window=window)
        subscription = await connection.subscribe(f"{reporter._inbox}.*", cb=reporter._deliver)
        await connection.flush()
        try:
            yield reporter
        finally:
            if not connection.is_closed:
                await subscription.unsubscribe()

    async def report(
        self,
        tenant_id: str,
        name: str,
        command_id: UUID,
        body: CommandBody,
        *,
        timeout_seconds: float = REPORT_TIMEOUT_SECONDS,
    ) -> Outcome:
        """Publishes until an outcome is here that is final: applied, duplicate, or refused for good.

        A lost outcome, a message id that JetStream knows, and a retryable refusal all mean another attempt under the same
        command id, which the inbox makes one effect. Raises ReportTimeout.
        """
        subject, data = command_subject(tenant_id, name), body.model_dump_json(exclude_none=True).encode()
        message_id = str(command_id)
        back_off, longest = BACK_OFF_SECONDS
        try:
            async with asyncio.timeout(timeout_seconds), self._slots:
                while True:
                    outcome = await self._attempt(subject, data, message_id)
                    if outcome is not None and not (outcome.error is not None and outcome.error.retryable):
                        return outcome
                    message_id = f"{command_id}:{secrets.token_hex(_ATTEMPT_BYTES)}"
                    await asyncio.sleep(back_off * random.uniform(0.5, 1.5))  # noqa: S311  jitter
                    back_off = min(2 * back_off, longest)
        except TimeoutError:
            raise ReportTimeout(f"{name}: no outcome within {timeout_seconds:g} s") from None

    async def _attempt(self, subject: str, data: bytes, message_id: str) -> Outcome | None:
        """The outcome of one publish; None where it cannot be had now. A duplicate message id is published once more at once."""
        token = f"{next(self._tokens):x}"
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answered
        fields = {headers.REPLY_TO: f"{self._inbox}.{token}", headers.ACTOR: "worker"}
        if traceparent := tracing.current():
            fields[headers.TRACEPARENT] = traceparent
        try:
            if await self._publish(subject, data, fields | {headers.MESSAGE_ID: message_id}):
                again = f"{message_id.partition(':')[0]}:{secrets.token_hex(_ATTEMPT_BYTES)}"
                await self._publish(subject, data, fields | {headers.MESSAGE_ID: again})
            async with asyncio.timeout(OUTCOME_TIMEOUT_SECONDS):
                return await answered
        except (nats_errors.Error, JetStreamError, TimeoutError) as error:
            log.warning("report_not_answered", subject=subject, message_id=message_id, error=type(error).__name__)
            return None
        finally:
            del self._waiting[token]

    async def _publish(self, subject: str, data: bytes, fields: dict[str, str]) -> bool:
        """Whether JetStream dropped the message as one it has."""
        ack = await self._jetstream.publish(
            subject, data, stream=COMMANDS_STREAM, headers=fields, timeout=ACK_TIMEOUT_SECONDS
        )
        return bool(ack.duplicate)

    async def _deliver(self, message: Msg) -> None:
        answered = self._waiting.get(message.subject.rpartition(".")[2])
        if answered is None or answered.done():
            return
        try:
            answered.set_result(Outcome.model_validate_json(message.data))
        except ValidationError:
            # A newer release's outcome, half-way through a roll-out: asked for again when the attempt times out.
            log.error("outcome_not_understood", bytes=len(message.data))
