"""Events as they leave: CloudEvents 1.0 in binary mode, with the NATS header block encoded once, here."""

from functools import lru_cache
from typing import Any
from zlib import crc32

from domain.decision import Command, Event, JobMessage
from domain.entities import OutboxRow
from schemas import headers
from schemas.subjects import event_subject, job_subject
from schemas.wire_headers import encode_headers

# Shards spread tenants over relay groups; a tenant stays in one, which keeps its events in order. 16 is more than any number of
# relay replicas that pays off (one relay moves 15,000 events/s and more) and few enough that each is polled cheaply.
OUTBOX_SHARDS = 16


@lru_cache(maxsize=16_384)
def shard_of(tenant_id: str) -> int:
    return crc32(tenant_id.encode()) % OUTBOX_SHARDS


def outbox_row(command: Command[Any], event: Event, index: int, sequence: int) -> OutboxRow:
    """`index` numbers the events of one command, `sequence` those of the tenant (gapless)."""
    tenant_id = command.tenant.tenant_id
    event_id = str(command.derive("event", str(index)))
    fields = {
        headers.MESSAGE_ID: event_id,
        headers.CE_SPECVERSION: "1.0",
        headers.CE_ID: event_id,
        headers.CE_TYPE: f"billing.v1.{event.name}",
        headers.CE_SOURCE: f"/billing/{tenant_id}",
        headers.CE_SUBJECT: event.subject_id,
        headers.CE_TIME: command.recorded_at.isoformat(),
        headers.CE_SEQUENCE: str(sequence),
        headers.COMMAND_ID: str(command.command_id),
        headers.CONTENT_TYPE: "application/json",
    }
    if command.correlation_id:
        fields[headers.CORRELATION_ID] = command.correlation_id
    if command.traceparent:
        fields[headers.TRACEPARENT] = command.traceparent
    return OutboxRow(
        shard=shard_of(tenant_id),
        stream="events",
        subject=event_subject(tenant_id, event.name),
        headers=encode_headers(fields),
        body=event.data.model_dump_json().encode(),
        recorded_at=command.recorded_at,
    )


def job_row(command: Command[Any], job: JobMessage, index: int) -> OutboxRow:
    """A job message; its id makes a second publish of the relay harmless."""
    tenant_id = command.tenant.tenant_id
    fields = {
        headers.MESSAGE_ID: str(command.derive("job", str(index))),
        headers.COMMAND_ID: str(command.command_id),
        headers.CONTENT_TYPE: "application/json",
    }
    if command.traceparent:
        fields[headers.TRACEPARENT] = command.traceparent
    return OutboxRow(
        shard=shard_of(tenant_id),
        stream="jobs",
        subject=job_subject(tenant_id, job.kind),
        headers=encode_headers(fields),
        body=job.body.model_dump_json().encode(),
        recorded_at=command.recorded_at,
    )
