"""Audit events as they leave (docs/decisions/0033): one per outcome, in the transaction of what it tells about.

Built by hand from values whose shapes are known (ids, codes, hashes, registered names), because every payment has one: through a
pydantic model it would cost more than the payment's own event.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin
from uuid import UUID

import orjson

from domain.decision import Accepted, Command
from domain.entities import ChartEntry, OutboxRow, Period
from domain.ids import derived_id
from domain.job_entities import GlAccount
from domain.outbox import shard_of
from schemas import headers
from schemas.audit import AuditStatus
from schemas.base import CommandBody
from schemas.codes import Code
from schemas.subjects import audit_subject, command_subject
from schemas.wire_headers import encode_headers

STREAM = "audit"
# What a message is filed under whose name nobody registered: its verb is the publisher's text.
UNKNOWN = "command.unknown"
_NO_ID = UUID(int=0)

# Entities whose key is no UUID, but is of a grammar that has no room for a name: "2026-03", "1100".
_KEYED_BY_CODE = frozenset({Period, ChartEntry, GlAccount})
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


def outcome_row(
    command: Command[Any], status: AuditStatus, code: Code | None = None, accepted: Accepted | None = None
) -> OutboxRow:
    """What a command came to. The id follows from the message and the outcome: a redelivery that comes to the same has the
    same, one that comes to another (the tenant service is back) has its own."""
    return audit_row(
        tenant_id=command.tenant.tenant_id,
        name=command.name,
        record_id=command.derive(STREAM, str(command.stream_sequence), status, code or ""),
        recorded_at=command.recorded_at,
        status=status,
        code=code,
        actor=command.actor,
        command_id=command.command_id,
        correlation_id=command.correlation_id,
        named=_named(command.body),
        touched=_touched(accepted) if accepted is not None else {},
        payload_hash=command.payload_hash,
        opted_in=command.opted_in,
        stream_sequence=command.stream_sequence,
        traceparent=command.traceparent,
    )


def dead_letter_row(
    tenant_id: str,
    name: str,
    *,
    command_id: UUID | None,
    data: bytes,
    recorded_at: datetime,
    origin: tuple[str, int],
    code: Code,
    actor: str | None,
    correlation_id: str | None,
    traceparent: str | None,
) -> OutboxRow:
    """A message that ended as a dead letter. `origin` is (stream, sequence); `name` is one of the registry, or UNKNOWN."""
    record_id = derived_id(tenant_id, command_id or _NO_ID, recorded_at, STREAM, origin[0], str(origin[1]), code)
    return audit_row(
        tenant_id=tenant_id,
        name=name,
        record_id=record_id,
        recorded_at=recorded_at,
        status="dead_lettered",
        code=code,
        actor=actor,
        command_id=command_id,
        correlation_id=correlation_id,
        payload_hash=sha256(data).digest(),
        stream_sequence=origin[1],
        traceparent=traceparent,
    )


def audit_row(
    *,
    tenant_id: str,
    name: str,
    record_id: UUID,
    recorded_at: datetime,
    status: AuditStatus,
    code: Code | None = None,
    subject: str | None = None,
    actor: str | None = None,
    command_id: UUID | None = None,
    correlation_id: str | None = None,
    named: Mapping[str, UUID] | None = None,
    touched: Mapping[str, Sequence[str]] | None = None,
    payload_hash: bytes | None = None,
    opted_in: bool = False,
    stream_sequence: int | None = None,
    traceparent: str | None = None,
) -> OutboxRow:
    """An audit event as an outbox row; `schemas.audit.AuditRecord` says what the fields mean.

    `subject` left out is the command's. `name` is a command's, a query's or a push's, never text of a publisher.
    """
    body = {
        "actor": actor,
        "subject": subject or command_subject(tenant_id, name),
        "command_id": command_id,
        "correlation_id": correlation_id,
        "status": status,
        "code": code,
        "named": named or {},
        "touched": touched or {},
        "payload_sha256": payload_hash.hex() if payload_hash is not None else None,
        "opted_in": opted_in,
        "recorded_at": recorded_at,
        "stream_sequence": stream_sequence,
        "traceparent": traceparent,
    }
    return OutboxRow(
        shard=shard_of(tenant_id),
        stream=STREAM,
        subject=audit_subject(tenant_id, name),
        headers=_headers(tenant_id, name, record_id, recorded_at, command_id, traceparent),
        # orjson writes a UUID, but not a subclass of it, which the driver's are (schemas/uuids.py).
        body=orjson.dumps(body, default=str),
        recorded_at=recorded_at,
    )


def _headers(
    tenant_id: str, name: str, record_id: UUID, recorded_at: datetime, command_id: UUID | None, traceparent: str | None
) -> bytes:
    fields = {
        headers.MESSAGE_ID: str(record_id),
        headers.CE_SPECVERSION: "1.0",
        headers.CE_ID: str(record_id),
        headers.CE_TYPE: f"audit.v1.billing.{name}",
        headers.CE_SOURCE: f"/billing/{tenant_id}",
        headers.CE_TIME: recorded_at.isoformat(),
        headers.CONTENT_TYPE: "application/json",
    }
    if command_id is not None:
        fields[headers.CE_SUBJECT] = fields[headers.COMMAND_ID] = str(command_id)
    if traceparent:
        fields[headers.TRACEPARENT] = traceparent
    return encode_headers(fields)


def _named(body: CommandBody) -> dict[str, UUID]:
    values = ((name, getattr(body, name)) for name in _uuid_fields(type(body)))
    return {name: value for name, value in values if value is not None}


@cache
def _uuid_fields(model: type[CommandBody]) -> tuple[str, ...]:
    """By type and not by name: a UUID is the one thing that nobody can write a patient's name into."""
    return tuple(name for name, field in model.model_fields.items() if _is_uuid(field.annotation))


def _is_uuid(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return {*get_args(annotation)} - {NoneType} == {UUID}
    return annotation is UUID


def _touched(accepted: Accepted) -> dict[str, list[str]]:
    """What was written; what only posts (an adjustment) writes nothing, and is found by its command id."""
    found: dict[str, list[str]] = {}
    for written in accepted.writes:
        key = written.key
        if isinstance(key, UUID) or type(written) in _KEYED_BY_CODE:
            found.setdefault(_aggregate(type(written)), []).append(str(key))
    return found


@cache
def _aggregate(entity: type[Any]) -> str:
    """The entity's name as subjects have it: CreditNote is credit_note."""
    return _WORD.sub("_", entity.__name__).lower()
