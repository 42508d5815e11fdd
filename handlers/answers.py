"""How a message ends: outcome to the reply inbox, acknowledgement, another try later, or the dead letter stream."""

import asyncio
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError

from adapters.nats import acks
from adapters.nats.topology import DLQ_STREAM
from adapters.telemetry import tracing
from domain.engine import Verdict
from handlers import hops, metrics
from handlers.audit import AuditTrail, NotAudited, dead_letter, tenant_of
from handlers.inbound import Delivery, Inbound, Malformed
from schemas import headers
from schemas.codes import Code
from schemas.gateway import without_card_numbers
from schemas.outcome import Problem, problem
from schemas.subjects import command_of, dlq_subject

log = structlog.get_logger()

# Doubling from 0.25 s: a message that waits for a neighbour or for PostgreSQL is tried again soon, but an outage of an hour
# costs each waiting message about 120 deliveries, not 14,000.
RETRY_FIRST_SECONDS = 0.25
RETRY_MAX_SECONDS = 30.0
DLQ_TIMEOUT_SECONDS = 5.0
MAX_REASON_CHARACTERS = 500

# What a header may be called (an HTTP token) and must not hold: the server delivers others, the client refuses to send them.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Answered(NamedTuple):
    """A message and what its command came to; `waits`: how often it has waited for what it names, this time included."""

    inbound: Inbound
    verdict: Verdict
    waits: int = 0


def retry_delay_seconds(tries: int) -> float:
    return min(RETRY_MAX_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(tries - 1, 10))


class Answers:
    """Answers for one consumer group. What cannot be sent is logged: the message comes again and is answered then."""

    def __init__(self, connection: Client, jetstream: JetStreamContext, group: str, audit: AuditTrail) -> None:
        self._connection = connection
        self._jetstream = jetstream
        self._audit = audit
        self._group = group

    async def settle(self, share: Sequence[Answered], position: str | None) -> None:
        """Replies first, then acknowledgements: a crash between them repeats a reply, it never loses one."""
        final = [answered for answered in share if answered.verdict.status not in ("deferred", "failed")]
        for answered in final:
            verdict = answered.verdict
            metrics.COMMANDS.labels(answered.inbound.name, verdict.status, verdict.code or "").inc()
            if verdict.status == "rejected":
                log.info("command_refused", **hops.ids(answered.inbound), code=verdict.code)
        await self.reply(
            (answered.inbound.reply_to, outcome(answered.inbound.command_id, answered.verdict, position))
            for answered in final
            if answered.inbound.reply_to
        )
        await acks.ack_all(self._connection, [answered.inbound.message for answered in final])
        if tracing.exports():
            for answered in final:
                hops.ended(answered.inbound, answered.verdict.status, answered.verdict.code)
        deferred = [answered for answered in share if answered.verdict.status == "deferred"]
        await self.retry(
            [answered.inbound for answered in deferred],
            "reference_not_there_yet",
            tries=[answered.waits for answered in deferred],
        )
        failed = [(answered.inbound, answered.verdict.failure) for answered in share if answered.verdict.failure]
        await self.bury([(inbound, failure_problem(failure)) for inbound, failure in failed])

    async def retry(self, inbounds: Sequence[Inbound], reason: str, tries: Sequence[int] | None = None) -> None:
        """Gives messages back to be delivered again after a delay that grows with their tries, by default their deliveries."""
        if not inbounds:
            return
        metrics.RETRIES.labels(self._group, reason).inc(len(inbounds))
        for inbound, tried in zip(inbounds, tries or [each.delivery.delivered for each in inbounds], strict=True):
            if not inbound.message.is_acked:
                await inbound.message.nak(delay=retry_delay_seconds(tried))
            hops.ended(inbound, "retried", reason)

    async def bury(self, letters: Sequence[tuple[Inbound | Malformed, Problem]]) -> None:
        """Dead-letters messages with their bodies, audits that, then says so to whoever waits. What cannot be kept goes back."""
        stored = await asyncio.gather(*(self._store(letter, why) for letter, why in letters))
        by_tenant: dict[str, list[tuple[Inbound | Malformed, Problem]]] = {}
        for letter, why in (pair for pair, kept in zip(letters, stored, strict=True) if kept):
            by_tenant.setdefault(tenant_of(letter), []).append((letter, why))
        for tenant_id, share in by_tenant.items():
            try:
                await self._audit.keep(tenant_id, [dead_letter(letter, why.code) for letter, why in share])
            except NotAudited as error:
                log.error("dead_letters_not_audited", tenant_id=tenant_id, count=len(share), error=str(error))
                for letter, _ in share:
                    await self._give_back(letter, "not_audited")
                continue
            for letter, why in share:
                await quietly(self._end(letter, why), hops.ids(letter))

    async def _store(self, letter: Inbound | Malformed, why: Problem) -> bool:
        log.warning(
            "command_dead_lettered",
            **hops.ids(letter),
            code=why.code,
            stream_sequence=letter.delivery.stream_sequence,
        )
        try:
            await self._jetstream.publish(
                dlq_subject(self._group, letter.tenant_id),
                without_card_numbers(letter.message.data),
                timeout=DLQ_TIMEOUT_SECONDS,
                stream=DLQ_STREAM,
                headers=dead_letter_headers(letter.message, letter.delivery, self._group, why),
            )
        except (nats_errors.Error, JetStreamError, TimeoutError) as error:
            # The dead letter stream is full or away: the message must not be let go of.
            log.error("dead_letter_not_stored", **hops.ids(letter), error=type(error).__name__)
            await self._give_back(letter, "dead_letter_not_stored")
            return False
        return True

    async def _give_back(self, letter: Inbound | Malformed, why: str) -> None:
        hops.ended(letter, "retried", why, failed=True)
        await quietly(letter.message.nak(delay=RETRY_MAX_SECONDS), hops.ids(letter))

    async def _end(self, letter: Inbound | Malformed, why: Problem) -> None:
        metrics.DEAD_LETTERS.labels(self._group, why.code).inc()
        # A name nobody registered is the publisher's choice: as a label it would make as many series as they like.
        metrics.COMMANDS.labels(hops.known_name(letter.name), "dead_lettered", why.code).inc()
        hops.ended(letter, "dead_lettered", why.code, failed=True)
        if letter.reply_to:
            rejection = Verdict("rejected", error=orjson.dumps(why.model_dump(mode="json")).decode())
            await self.reply([(letter.reply_to, outcome(letter.command_id, rejection, None))])
        await letter.message.term()

    async def reply(self, replies: Iterable[tuple[str, bytes]]) -> None:
        publications = [(subject, body, None) for subject, body in replies]
        if not publications:
            return
        for index in await acks.publish_many(self._connection, publications):
            refused = publications[index][1]
            log.warning("reply_not_sendable", command_id=orjson.loads(refused)["command_id"], bytes=len(refused))


def outcome(command_id: UUID | None, verdict: Verdict, position: str | None) -> bytes:
    """An outcome as JSON (schemas.outcome.Outcome), from the JSON texts of the verdict."""
    body: dict[str, Any] = {
        "command_id": None if command_id is None else str(command_id),
        "status": verdict.status,
        "result": orjson.Fragment(verdict.result) if verdict.result else None,
        "error": orjson.Fragment(verdict.error) if verdict.error else None,
        "position": position,
    }
    return orjson.dumps(body)


def failure_problem(failure: BaseException) -> Problem:
    """What is said of a bug or a data error: its kind. Its text may hold values, so it goes to no reply and no log."""
    return problem(Code.COMMAND_FAILED, None, failure=type(failure).__name__)


def dead_letter_headers(message: Msg, delivery: Delivery, group: str, why: Problem) -> dict[str, str]:
    """The original headers and the story of the failure. `Nats-…` headers are instructions to the server (expectations,
    roll-ups, time to live) that must not be carried out again; the original message id is kept under its own name."""
    original = message.headers or {}
    kept = {
        name: value
        for name, value in original.items()
        if _HEADER_NAME.fullmatch(name)
        and not name.lower().startswith(("nats-", "billing-dlq-"))
        and not _CONTROL.search(value)
    }
    story = {
        headers.DLQ_CODE: why.code.value,
        headers.DLQ_REASON: _one_line(why),
        headers.DLQ_CONSUMER: group,
        headers.DLQ_SUBJECT: _CONTROL.sub("?", command_of(message.subject)),
        headers.DLQ_STREAM: delivery.stream,
        headers.DLQ_SEQUENCE: str(delivery.stream_sequence),
        headers.DLQ_DELIVERIES: str(delivery.delivered),
        headers.DLQ_RECORDED_AT: delivery.recorded_at.isoformat(),
        # One dead letter per message, however often it is buried: the stream's dedupe sees to it.
        headers.MESSAGE_ID: f"{group}.{delivery.stream}.{delivery.stream_sequence}",
    }
    message_id = original.get(headers.MESSAGE_ID, "")
    if message_id and not _CONTROL.search(message_id):
        story[headers.DLQ_MESSAGE_ID] = message_id
    return kept | story


def _one_line(why: Problem) -> str:
    fields = why.details.get("fields", ())
    parts = [why.message, *(f"{item['field']}: {item['problem']}" for item in fields)]
    if failure := why.details.get("failure"):
        parts.append(str(failure))
    text = "; ".join(parts)
    return "".join(character if character.isprintable() else "?" for character in text)[:MAX_REASON_CHARACTERS]


async def quietly(answering: Awaitable[None], about: Mapping[str, str | int | None]) -> None:
    """Awaits an answer; one that cannot be sent is logged, with what it is about, since the message will come again."""
    try:
        await answering
    except (nats_errors.Error, JetStreamError, OSError, TimeoutError) as error:
        log.warning("answer_not_sent", **about, error=type(error).__name__)
    except Exception as error:  # a bug in one answer must not cancel the batch's other answers
        log.exception("answer_failed", **about, error=type(error).__name__)
