"""Audit events of what has no transaction of its own: dead letters and queries (docs/decisions/0033).

What a batch commits carries its audit rows along (domain/audit.py). This is for the rest: `keep` returns once the events are
safe, and whoever asked answers only then.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Self
from uuid import uuid4

import structlog
from nats import errors as nats_errors

from adapters.nats.batch_publish import Publisher, PublishError, Row
from adapters.postgres import errors
from adapters.postgres.database import Database
from adapters.postgres.save import save
from adapters.telemetry import tracing
from domain import audit
from domain.admission import opted_in
from domain.entities import OutboxRow
from domain.snapshot import Changes
from handlers import metrics
from handlers.inbound import Inbound, Malformed
from schemas import headers
from schemas.audit import AuditStatus
from schemas.codes import Code, Stage
from schemas.registry import COMMANDS, QUERIES
from schemas.subjects import QUERY_PREFIX, TENANT, Address, query_subject
from schemas.tenant import TenantProfile

log = structlog.get_logger()


class NotAudited(Exception):
    """Neither PostgreSQL nor the audit stream took the events: what they tell about must not be said to have happened."""


class AuditTrail:
    """Keeps audit events in a small transaction of their own or, while PostgreSQL is away, in the audit stream itself."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database, self._publisher = database, publisher

    async def keep(self, tenant_id: str, rows: Sequence[OutboxRow]) -> None:
        """Rows of one tenant, all or some of them again at the next try: their ids say which. Raises NotAudited."""
        try:
            async with self._database.transaction(tenant_id) as transaction:
                await save(transaction.connection, tenant_id, Changes({OutboxRow: list(rows)}, {}, []))
            metrics.AUDITED.labels("outbox").inc(len(rows))
        except Exception as error:
            if not errors.transient(error):
                log.exception("audit_not_stored", tenant=tenant_id, error=type(error).__name__)
            await self._publish(rows)

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        try:
            for row in rows:
                await self._publisher.publish(Row(row.subject, row.headers, row.body))
                metrics.AUDITED.labels("stream").inc()
        except (PublishError, nats_errors.Error) as error:
            metrics.AUDITED.labels("nowhere").inc()
            raise NotAudited(type(error).__name__) from None


def dead_letter(letter: Inbound | Malformed, code: Code) -> OutboxRow:
    """The audit event of a message that is buried. Of one that could not be read, only headers of the right grammar."""
    fields = letter.message.headers or {}
    return audit.dead_letter_row(
        tenant_of(letter),
        letter.name if letter.name in COMMANDS else audit.UNKNOWN,
        command_id=letter.command_id,
        data=letter.message.data,
        recorded_at=letter.delivery.recorded_at,
        origin=(letter.delivery.stream, letter.delivery.stream_sequence),
        code=code,
        **Asker.of(fields)._asdict(),
    )


def tenant_of(letter: Inbound | Malformed) -> str:
    """`_` where the subject names none that is valid, as in the letter's own subject."""
    return letter.tenant_id if TENANT.fullmatch(letter.tenant_id) else "_"


class Asker(NamedTuple):
    """Who says to be asking, and on whose behalf; what is not of the headers' grammar is left out."""

    actor: str | None
    correlation_id: str | None
    traceparent: str | None

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        actor, correlation_id = fields.get(headers.ACTOR, ""), fields.get(headers.CORRELATION_ID, "")
        return cls(
            actor if headers.ACTOR_VALUE.fullmatch(actor) else None,
            correlation_id if headers.ACTOR_VALUE.fullmatch(correlation_id) else None,
            tracing.valid(fields.get(headers.TRACEPARENT)),
        )


class QueryAudit:
    """Audits queries that were refused for who asked, and those that only a tenant's opt-in let through.

    Others leave no trace: they change nothing and cross no border. `region` and `country_profile` are the deployment's.
    """

    def __init__(self, trail: AuditTrail, region: str, country_profile: str | None) -> None:
        self._trail, self._region, self._country_profile = trail, region, country_profile

    async def refused(self, address: Address, code: Code, fields: Mapping[str, str]) -> None:
        """Does nothing for a refusal that is not about who asked, or may be over in a moment. Raises NotAudited."""
        if code.meaning.stage == Stage.AUTHORISATION and not code.retryable:
            await self._keep(address, fields, status="rejected", code=code)

    async def allowed(self, address: Address, profile: TenantProfile, fields: Mapping[str, str]) -> None:
        """Does nothing for a tenant of this region and country. Raises NotAudited."""
        if opted_in(profile, self._region, self._country_profile):
            await self._keep(address, fields, status="allowed", crossing=True)

    async def _keep(
        self,
        address: Address,
        fields: Mapping[str, str],
        *,
        status: AuditStatus,
        code: Code | None = None,
        crossing: bool = False,
    ) -> None:
        known = address.name in QUERIES  # what is not is the sender's text
        row = audit.audit_row(
            tenant_id=address.tenant_id,
            name=address.name if known else audit.UNKNOWN,
            subject=query_subject(*address) if known else f"{QUERY_PREFIX}.{address.tenant_id}",
            record_id=uuid4(),  # a query is asked once and never replayed
            recorded_at=datetime.now(UTC),
            status=status,
            code=code,
            opted_in=crossing,
            **Asker.of(fields)._asdict(),
        )
        await self._trail.keep(address.tenant_id, [row])
