"""The durable `fhir` on BILLING_EVENTS: every event of a document that FHIR has ends on the gateway, or as a dead letter.

A tenant has a few slots and a few events in hand, so that one whose pushes are slow holds up nobody. What fails is given back and
comes again, later and later; what the gateway refuses for good, or has not taken after many tries, is dead-lettered with its
body. Tries are counted here and not by deliveries, which also count events that were given back unread.
"""

import asyncio
from collections import Counter, OrderedDict
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import orjson
import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError

from adapters.fhir.resources import NotFhir
from adapters.nats.batch_publish import Publisher, PublishError, Row
from adapters.nats.consumer_state import ConsumerMissing, consumer_state
from adapters.nats.fetch import AdaptiveFetch
from adapters.nats.topology import DLQ_STREAM, EVENTS_STREAM, FHIR, FHIR_AGGREGATES, FHIR_REPLAY, REPLAY_STREAM
from adapters.neighbours.client import Unavailable
from adapters.neighbours.fhir_gateway import Refused
from adapters.neighbours.ports import TenantDirectory
from adapters.postgres import errors
from domain import audit
from domain.admission import admission, opted_in
from domain.ids import derived_id
from handlers import fhir_metrics as metrics
from handlers.answers import DLQ_TIMEOUT_SECONDS, dead_letter_headers
from handlers.audit import Asker
from handlers.fhir_push import Behind, Changed, Pusher
from handlers.inbound import delivery
from handlers.jobs import FETCH_FAILING_SECONDS, drain_on, heartbeat
from handlers.relay_pump import pause
from schemas import headers
from schemas.audit import AuditStatus
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.subjects import dlq_subject, event_subject, parse
from schemas.tenant import TenantProfile

log = structlog.get_logger()

FETCH = 64
# Of one tenant, in this process: more are given back, so that those behind them are reached.
TENANT_HELD_MAX = 64
GIVE_BACK_SECONDS = 5.0
SURPLUS_PAUSE_SECONDS = 0.05  # or a long queue of one tenant would be read and given back as fast as it goes
BEHIND_SECONDS = 0.2
DEPTH_INTERVAL_SECONDS = 5.0
FAILURES_REMEMBERED = 20_000


class PushPolicy(NamedTuple):
    """`concurrency` pushes at once, `tenant_concurrency` of one tenant. The second try comes after `first_seconds`, each further
    one after twice as long, up to `longest_seconds`: 20 tries from 1 s to 600 s are about an hour and three quarters.
    """

    concurrency: int = 16
    tenant_concurrency: int = 4
    tries: int = 20
    first_seconds: float = 1.0
    longest_seconds: float = 600.0

    def delay_seconds(self, failures: int) -> float:
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 20))


class Event(NamedTuple):
    """What a message says changed, and when."""

    changed: Changed
    id: UUID
    at: datetime
    headers: dict[str, str]


class FhirEvents:
    """Runs in every worker that has a gateway, until `stop`. `region` and `country_profile` are the deployment's."""

    def __init__(
        self,
        connection: Client,
        publisher: Publisher,
        pusher: Pusher,
        directory: TenantDirectory,
        region: str,
        country_profile: str | None,
        policy: PushPolicy | None = None,
    ) -> None:
        self._connection, self._publisher, self._pusher = connection, publisher, pusher
        self._directory, self._region, self._country_profile = directory, region, country_profile
        self._policy = policy or PushPolicy()
        self._slots = asyncio.Semaphore(self._policy.concurrency)
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._held: Counter[str] = Counter()
        self._failures: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._fetches: dict[str, AdaptiveFetch] = {}

    def check(self) -> str | None:
        """Why events are not consumed although they could be, or None: for the liveness probe."""
        for durable, fetch in self._fetches.items():
            since = fetch.failing_since
            if since is not None and self._connection.is_connected and monotonic() - since > FETCH_FAILING_SECONDS:
                return f"fetching {durable} has failed for {monotonic() - since:.0f} s: {fetch.failure}"
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Returns once `stop` is set and what was in hand has ended or was given back."""
        async with asyncio.TaskGroup() as tasks:
            for stream, durable in ((EVENTS_STREAM, FHIR), (REPLAY_STREAM, FHIR_REPLAY)):
                tasks.create_task(self._consume(stream, durable, stop))
            tasks.create_task(self._report_depth(stop))

    async def _consume(self, stream: str, durable: str, stop: asyncio.Event) -> None:
        fetch = AdaptiveFetch(None, self._connection, stream=stream, durable=durable, batch_size=FETCH)
        self._fetches[durable] = fetch
        draining = asyncio.create_task(drain_on(stop, fetch))
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                try:
                    messages = await fetch.fetch(FETCH)
                except nats_errors.TimeoutError:
                    continue
                surplus = [message for message in messages if not self._takes(message)]
                for message in messages:
                    if message not in surplus:
                        tasks.create_task(self._one(message, stop))
                if surplus:
                    await self._give_back(surplus)
                    await pause(stop, SURPLUS_PAUSE_SECONDS)
        await draining

    async def _one(self, message: Msg, stop: asyncio.Event) -> None:
        """Handles one message to its end. Raises nothing: what cannot be said now is said at the next delivery."""
        event = _event(message)
        tenant_id = event.changed.tenant_id if event else "_"
        try:
            if event is None:
                await message.ack()
                metrics.EVENTS.labels("ignored").inc()
                return
            async with heartbeat(message):
                outcome = await self._in_turn(message, event, stop)
            metrics.EVENTS.labels(outcome).inc()
        except (nats_errors.Error, JetStreamError, PublishError, OSError, TimeoutError) as error:
            log.warning("fhir_event_not_answered", tenant_id=tenant_id, error=type(error).__name__)
        except Exception as error:
            log.exception("fhir_event_crashed", tenant_id=tenant_id, error=type(error).__name__)
            with suppress(nats_errors.Error):
                await message.nak(delay=self._policy.longest_seconds)
        finally:
            self._held[_tenant(message)] -= 1

    def _takes(self, message: Msg) -> bool:
        tenant_id = _tenant(message)
        if self._held[tenant_id] >= TENANT_HELD_MAX:
            return False
        self._held[tenant_id] += 1
        return True

    async def _give_back(self, surplus: list[Msg]) -> None:
        with suppress(nats_errors.Error):
            for message in surplus:
                await message.nak(delay=GIVE_BACK_SECONDS)
        metrics.EVENTS.labels("given_back").inc(len(surplus))

    async def _in_turn(self, message: Msg, event: Event, stop: asyncio.Event) -> str:
        tenant = self._turns.setdefault(event.changed.tenant_id, asyncio.Semaphore(self._policy.tenant_concurrency))
        async with tenant, self._slots:
            if stop.is_set():
                await message.nak()
                return "given_back"
            if self._pusher.covers(event.changed):
                await message.ack()
                return "covered"
            return await self._handle(message, event)

    async def _handle(self, message: Msg, event: Event) -> str:
        refusal, profile = await self._admitted(event.changed.tenant_id)
        if refusal is not None and refusal.retryable:
            return await self._failed(message, event, refusal.code)
        if refusal is not None:
            await self._audit(event, "rejected", refusal.code)
            await message.ack()
            return "not_pushed"
        try:
            await self._pusher.push(event.changed)
        except Behind:
            await message.nak(delay=BEHIND_SECONDS)
            return "retried"
        except Refused as refused:
            return await self._bury(message, event, f"the FHIR gateway refuses it: {refused.code}")
        except NotFhir as error:
            log.error("not_fhir", tenant_id=event.changed.tenant_id, event_id=str(event.id), places=str(error))
            return await self._bury(message, event, "it cannot be said in FHIR")
        except Unavailable as error:
            return await self._failed(message, event, f"gateway {error.outcome}")
        except Exception as error:
            if not errors.transient(error):
                raise
            await message.nak(delay=self._policy.first_seconds)  # PostgreSQL is away: that is no try of the gateway
            return "retried"
        if opted_in(profile, self._region, self._country_profile):
            await self._audit(event, "allowed", None)
        await message.ack()
        metrics.LAG.observe(max(0.0, (datetime.now(UTC) - event.at).total_seconds()))
        self._failures.pop(_key(message), None)
        return "pushed"

    async def _admitted(self, tenant_id: str) -> tuple[Problem | None, TenantProfile | Problem]:
        """The same admission as commands: what a tenant's data may not be used for here, it is not pushed for."""
        profile = await self._directory.profile(tenant_id)
        return admission(profile, self._region, self._country_profile), profile

    async def _failed(self, message: Msg, event: Event, why: str) -> str:
        key = _key(message)
        failures = self._failures[key] = self._failures.pop(key, 0) + 1
        while len(self._failures) > FAILURES_REMEMBERED:
            self._failures.popitem(last=False)
        log.warning("fhir_push_failed", tenant_id=event.changed.tenant_id, why=why, tries=failures)
        if failures >= self._policy.tries:
            return await self._bury(message, event, f"not taken in {failures} tries: {why}")
        await message.nak(delay=self._policy.delay_seconds(failures))
        return "retried"

    async def _bury(self, message: Msg, event: Event, why: str) -> str:
        reason = problem(Code.COMMAND_FAILED, why)
        found = delivery(message.reply)
        await self._connection.jetstream().publish(
            dlq_subject(FHIR, event.changed.tenant_id),
            message.data,
            timeout=DLQ_TIMEOUT_SECONDS,
            stream=DLQ_STREAM,
            headers=dead_letter_headers(message, found, FHIR, reason),
        )
        await self._audit(event, "dead_lettered", Code.COMMAND_FAILED)
        await message.term()
        self._failures.pop(_key(message), None)
        return "dead_lettered"

    async def _audit(self, event: Event, status: AuditStatus, code: Code | None) -> None:
        """Straight to the audit stream: until it is there the event is not acknowledged, which is as good as an outbox."""
        changed = event.changed
        row = audit.audit_row(
            tenant_id=changed.tenant_id,
            name="fhir.push",
            subject=event_subject(changed.tenant_id, changed.name),
            record_id=derived_id(changed.tenant_id, event.id, event.at, audit.STREAM, "fhir.push", status, code or ""),
            recorded_at=event.at,
            status=status,
            code=code,
            named={"document_id": changed.key},
            opted_in=status == "allowed",
            stream_sequence=None,
            **Asker.of(event.headers)._asdict(),
        )
        await self._publisher.publish(Row(row.subject, row.headers, row.body))

    async def _report_depth(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(ConsumerMissing, nats_errors.Error, TimeoutError):
                state = await consumer_state(self._connection, EVENTS_STREAM, FHIR)
                metrics.DEPTH.set(state.depth)
                metrics.OLDEST_AGE.set(state.oldest_age_seconds(datetime.now(UTC)))
            await pause(stop, DEPTH_INTERVAL_SECONDS)


def _tenant(message: Msg) -> str:
    address = parse(message.subject)
    return address.tenant_id if address else "_"


def _key(message: Msg) -> tuple[str, int]:
    found = delivery(message.reply)
    return found.stream, found.stream_sequence


def _event(message: Msg) -> Event | None:
    """None for what is no event (a PubAck that a tenant aimed here has no headers), and for events that FHIR has nothing for."""
    fields = dict(message.headers or {})
    address = parse(message.subject)
    if address is None or address.name.partition(".")[0] not in FHIR_AGGREGATES:
        return None
    try:
        event_id, sequence = UUID(fields[headers.CE_ID]), int(fields[headers.CE_SEQUENCE])
        at = datetime.fromisoformat(fields[headers.CE_TIME])
        # A credit note changes its invoice; R4 has no resource for the note itself.
        is_note = address.name.startswith("credit_note.")
        key = UUID(orjson.loads(message.data)["invoice_id"] if is_note else fields[headers.CE_SUBJECT])
    except (KeyError, ValueError, TypeError):
        return None
    return Event(Changed(address.tenant_id, address.name, key, sequence), event_id, at, fields)
