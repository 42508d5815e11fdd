"""Answers queries: core NATS request-reply, no stream, no ack. A lost answer is asked again.

queries = Queries(primary, replica, directory.profile)
register(broker, queries)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from faststream.nats import NatsBroker, NatsMessage
from faststream.nats.annotations import NatsMessage as IncomingMessage
from pydantic import ValidationError

from adapters.postgres.reads import READS, Asking, Presign
from adapters.telemetry import tracing
from domain.calendar import business_date
from handlers import query_metrics as metrics
from handlers.audit import NotAudited, QueryAudit
from handlers.read_source import DATABASE_ERRORS, Behind, ReadDatabase, ReadSource, Source
from schemas.base import QueryBody, WireModel
from schemas.codes import Code
from schemas.headers import REPLY_TO_VALUE, TRACEPARENT
from schemas.outcome import Answer, Problem, problem
from schemas.registry import QUERIES
from schemas.subjects import QUERY_PREFIX, Address, parse
from schemas.tenant import TenantProfile

log = structlog.get_logger()

QUEUE_GROUP = "billing-queries"
SUBJECT = f"{QUERY_PREFIX}.*.*.*"
CONCURRENCY = 16  # in PostgreSQL at a time
VERIFY_CONCURRENCY = 1  # it is CPU in this process and scans in PostgreSQL
WORKERS = 64  # taken up at a time, those that wait for a slot or for another service included
UNKNOWN_TIMEOUT_SECONDS = 5.0
MAX_WAITING = 1_000  # messages not yet started; the broker drops further ones, and their senders time out
MAX_ANSWER_BYTES = 1_000_000  # NATS takes 1 MiB, headers included
MAX_FIELDS = 20  # paths of invalid fields an answer lists
MAX_FIELD_CHARACTERS = 100

Profile = Callable[[str], Awaitable[TenantProfile | Code]]
Result = WireModel | Problem
# Queries that other services answer, not PostgreSQL. Each bounds its own time and concurrency, and raises nothing.
Outside = Callable[[Any], Awaitable[WireModel]]
OUTSIDE = frozenset({"charge.suggest_codes"})


class Queries:
    """`profile` is the tenant directory's: who the tenant is, or why it is refused (entitlement, residency)."""

    def __init__(
        self,
        primary: ReadDatabase,
        replica: ReadDatabase | None,
        profile: Profile,
        *,
        presign: Presign | None = None,
        outside: Mapping[str, Outside] | None = None,
        audit: QueryAudit | None = None,
        concurrency: int = CONCURRENCY,
        timeout_seconds: float | None = None,
    ) -> None:
        """`presign` makes links to objects; without it, answers have none. `outside` answers the queries of `OUTSIDE`.
        `audit` is told who was refused, and what crosses a border; None audits nothing. `timeout_seconds` is for all queries
        what the registry says of each.
        """
        self._source = ReadSource(primary, replica)
        self._presign = presign
        self._outside = outside or {}
        self._profile = profile
        self._audit = audit
        self._slots = asyncio.Semaphore(concurrency)
        self._verify_slots = asyncio.Semaphore(VERIFY_CONCURRENCY)
        self._timeout_seconds = timeout_seconds

    async def answer(self, subject: str, body: bytes, fields: Mapping[str, str] | None = None) -> bytes:
        """The answer as JSON (schemas.outcome.Answer); `fields` are the message's headers. Raises nothing but cancellation."""
        started = time.perf_counter()
        address = parse(subject)
        name = address.name if address and address.name in QUERIES else metrics.UNKNOWN
        answered = _encoded(await self._bounded(name, address, body, fields or {}))
        tracing.annotate({"billing.outcome": answered.outcome}, name=f"query {name}")
        metrics.QUERIES.labels(name, answered.outcome).inc()
        metrics.DURATION.labels(name).observe(time.perf_counter() - started)
        return answered.body

    async def _bounded(self, name: str, address: Address | None, body: bytes, fields: Mapping[str, str]) -> Answer:
        spec = QUERIES.get(name)
        seconds = self._timeout_seconds or (spec.timeout_seconds if spec else UNKNOWN_TIMEOUT_SECONDS)
        slots = self._slots_of(name)
        if slots is self._verify_slots and slots.locked():
            # Minutes long: waiting ones would take every worker, and with them all other queries.
            return Answer(error=problem(Code.SERVICE_UNAVAILABLE, "another verification is running here: ask again"))
        try:
            async with asyncio.timeout(seconds), slots:
                return await self._answer(address, body, fields)
        except (*DATABASE_ERRORS, NotAudited) as error:
            log.warning("query_failed", query=name, tenant_id=address and address.tenant_id, error=type(error).__name__)
        except Exception:
            # A bug in one query: its caller gets an answer, and the subscriber lives on.
            log.exception("query_crashed", query=name, tenant_id=address and address.tenant_id)
        return Answer(error=problem(Code.SERVICE_UNAVAILABLE))

    def _slots_of(self, name: str) -> "asyncio.Semaphore | nullcontext[None]":
        """What waits for another service must not hold the slots of those that wait for PostgreSQL."""
        if name in OUTSIDE:
            return nullcontext()
        return self._verify_slots if name == "ledger.verify" else self._slots

    async def _answer(self, address: Address | None, body: bytes, fields: Mapping[str, str]) -> Answer:
        if address is None:
            return Answer(error=problem(Code.UNKNOWN_COMMAND))
        profile = await self._profile(address.tenant_id)
        if isinstance(profile, Code):
            return await self._refused(address, problem(profile), fields)
        if address.name not in READS and address.name not in self._outside:
            return Answer(error=problem(Code.UNKNOWN_COMMAND))
        query = decode(address, body)
        if isinstance(query, Problem):
            return await self._refused(address, query, fields)
        if self._audit is not None:
            await self._audit.allowed(address, profile, fields)
        if address.name in self._outside:
            return Answer(result=(await self._outside[address.name](query)).model_dump(mode="json"))
        return await self._read(address, profile, query)

    async def _refused(self, address: Address, why: Problem, fields: Mapping[str, str]) -> Answer:
        if self._audit is not None:
            await self._audit.refused(address, why.code, fields)
        return Answer(error=why)

    async def _read(self, address: Address, profile: TenantProfile, query: QueryBody) -> Answer:
        async with self._source.replica(address.tenant_id, query.at_least) as source:
            if source is not None:
                try:
                    return await self._run(source, address, profile, query)
                except DATABASE_ERRORS as error:
                    self._source.failed(error)
        try:
            async with self._source.primary(address.tenant_id, query.at_least) as source:
                return await self._run(source, address, profile, query)
        except Behind:
            return Answer(error=problem(Code.SERVICE_UNAVAILABLE, fields=["at_least"]))

    async def _run(self, source: Source, address: Address, profile: TenantProfile, query: QueryBody) -> Answer:
        today = business_date(profile, datetime.now(UTC))
        asking = Asking(source.connection, address.tenant_id, today, self._presign)
        result = await READS[address.name](asking, query)
        if isinstance(result, Problem):
            return Answer(error=result, position=source.position.state)
        return Answer(result=result.model_dump(mode="json"), position=source.position.state)


def decode(address: Address, body: bytes) -> QueryBody | Problem:
    """The query in a body; no body means no fields. A refusal lists the paths of what is wrong, never a value."""
    text = body or b"{}"
    try:
        named = orjson.loads(text)
    except orjson.JSONDecodeError:
        return problem(Code.MALFORMED_COMMAND, "the body is not JSON")
    tenant_id = named.get("tenant_id") if isinstance(named, dict) else None
    if isinstance(tenant_id, str) and tenant_id != address.tenant_id:
        return problem(Code.TENANT_MISMATCH)
    try:
        return QUERIES[address.name].request.model_validate_json(text)
    except ValidationError as error:
        fields = {".".join(map(str, detail["loc"]))[:MAX_FIELD_CHARACTERS] for detail in error.errors()}
        return problem(Code.MALFORMED_COMMAND, fields=sorted(fields)[:MAX_FIELDS])


class _Encoded:
    __slots__ = ("body", "outcome")

    def __init__(self, body: bytes, outcome: str) -> None:
        self.body, self.outcome = body, outcome


def _encoded(answer: Answer) -> _Encoded:
    body = answer.model_dump_json().encode()
    if len(body) > MAX_ANSWER_BYTES:
        # Better a refusal that says what to do than a publish that the broker refuses, which looks like silence.
        refusal = problem(Code.MALFORMED_COMMAND, "the answer is too large: ask with a lower limit", fields=["limit"])
        answer = Answer(error=refusal)
        body = answer.model_dump_json().encode()
    return _Encoded(body, answer.error.code if answer.error else "ok")


def register(broker: NatsBroker, queries: Queries) -> None:
    """Subscribes `queries` on the broker. Several processes share the load through the queue group."""

    @broker.subscriber(
        SUBJECT,
        queue=QUEUE_GROUP,
        max_workers=WORKERS,
        pending_msgs_limit=MAX_WAITING,
        decoder=_raw,
        include_in_schema=False,
    )
    async def answer(message: IncomingMessage) -> bytes:
        if not REPLY_TO_VALUE.fullmatch(message.reply_to):
            # The server checks what a tenant publishes to, not where it wants the answer: with the handlers' permissions that
            # could be a dead letter or a marker of another tenant. Without a reply subject FastStream sends nothing.
            message.reply_to = ""
            return b""
        subject = message.raw_message.subject
        parent = message.headers.get(TRACEPARENT)
        with tracing.span("billing.query", "server", traceparent=parent):
            return await queries.answer(subject, message.body, message.headers)


async def _raw(message: NatsMessage) -> bytes:
    """Bodies are validated by `decode`, whose refusals are answers; FastStream's own decoding would drop the message."""
    return bytes(message.body)
