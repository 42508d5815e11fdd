"""Decoding: each message by itself, against its own command's schema. A malformed one never costs its neighbours anything."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import orjson
from nats.aio.msg import Msg
from pydantic import ValidationError

from adapters.nats.topology import COMMANDS_MAX_AGE, COMMANDS_STREAM, DLQ_MAX_AGE, REPLAY_STREAM
from adapters.telemetry import tracing
from schemas import headers
from schemas.base import CommandBody
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.registry import COMMANDS
from schemas.subjects import parse

# A pydantic report names every bad field; the first few say enough and keep replies and dead letters small.
MAX_REPORTED_FIELDS = 10
# $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp ns>.<pending>, with two more tokens
# (domain, account hash) in front of the stream in the newer form.
_ACK_TOKENS_OLD = 9
# No older original can be replayed: a command waits at most this long in the command stream and then as a dead letter.
MAX_REPLAY_AGE = timedelta(microseconds=(COMMANDS_MAX_AGE + DLQ_MAX_AGE) // 1_000)
_MICROSECONDS_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII)
_SEQUENCE = re.compile(r"[1-9][0-9]{0,18}")


class Delivery(NamedTuple):
    """What JetStream says about a message: `recorded_at` is when the stream stored it, exact to the microsecond."""

    stream: str
    delivered: int
    stream_sequence: int
    recorded_at: datetime


class Origin(NamedTuple):
    """Where and when a command entered the history: for a replayed message the original's, else the message's own."""

    stream_sequence: int
    recorded_at: datetime


class Inbound(NamedTuple):
    """A message whose body is sound."""

    message: Msg
    delivery: Delivery
    origin: Origin
    tenant_id: str
    name: str
    command_id: UUID
    body: CommandBody
    payload_hash: bytes
    reply_to: str | None
    actor: str | None
    correlation_id: str | None
    traceparent: str | None
    hop: tracing.Hop | None = None


class Malformed(NamedTuple):
    """A message that will be dead-lettered, with as much of its identity as could be made out."""

    message: Msg
    delivery: Delivery
    tenant_id: str
    name: str
    command_id: UUID | None
    reply_to: str | None
    problem: Problem
    traceparent: str | None
    hop: tracing.Hop | None = None


@lru_cache(maxsize=16_384)  # asked two or three times of a message, while it is in hand: those of the largest fetch
def delivery(reply: str) -> Delivery:
    """Parses the ack subject of a JetStream message. Raises ValueError for a message that is not one."""
    tokens = reply.split(".")
    if len(tokens) < _ACK_TOKENS_OLD or tokens[:2] != ["$JS", "ACK"]:
        raise ValueError("not a JetStream message")
    stream, _consumer, delivered, sequence, _, nanoseconds, *_ = (
        tokens[2:] if len(tokens) == _ACK_TOKENS_OLD else tokens[4:]
    )
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    recorded_at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1_000)
    return Delivery(stream, int(delivered), int(sequence), recorded_at)


def decode(message: Msg) -> Inbound | Malformed:
    """No side effects. Checks, in this order: subject, headers, body, tenant named in the body."""
    found = delivery(message.reply)
    fields = message.headers or {}
    address = parse(message.subject)
    tenant_id, name = address or ("", "")
    command_id = headers.command_id(fields.get(headers.MESSAGE_ID))
    reply_to = fields.get(headers.REPLY_TO)
    safe_reply_to = _safe_reply_to(fields)
    origin = _origin(found, fields)
    traceparent = tracing.valid(fields.get(headers.TRACEPARENT))
    refusal = _header_refusal(fields, name, command_id, reply_to, safe_reply_to)
    decoded = refusal or _body(message.data, name, tenant_id)
    if isinstance(decoded, Problem) or command_id is None or origin is None:
        decoded = decoded if isinstance(decoded, Problem) else _unreplayable(command_id)
        return Malformed(message, found, tenant_id, name, command_id, safe_reply_to, decoded, traceparent)
    model, digest = decoded
    return Inbound(
        message=message,
        delivery=found,
        origin=origin,
        tenant_id=tenant_id,
        name=name,
        command_id=command_id,
        body=model,
        payload_hash=digest,
        reply_to=safe_reply_to,
        actor=fields.get(headers.ACTOR),
        correlation_id=fields.get(headers.CORRELATION_ID),
        traceparent=traceparent,
    )


def unread(message: Msg, why: Problem) -> Malformed:
    """A message to dead-letter without looking at its body."""
    fields = message.headers or {}
    tenant_id, name = parse(message.subject) or ("", "")
    command_id = headers.command_id(fields.get(headers.MESSAGE_ID))
    traceparent = tracing.valid(fields.get(headers.TRACEPARENT))
    found, reply_to = delivery(message.reply), _safe_reply_to(fields)
    return Malformed(message, found, tenant_id, name, command_id, reply_to, why, traceparent)


def _safe_reply_to(fields: dict[str, str]) -> str | None:
    reply_to = fields.get(headers.REPLY_TO)
    return reply_to if reply_to and headers.REPLY_TO_VALUE.fullmatch(reply_to) else None


def _origin(found: Delivery, fields: dict[str, str]) -> Origin | None:
    """None for a message of the replay stream whose headers do not name a message that the command stream can have held.

    `recorded_at` decides periods, ids and hashes. Only the replay stream may state another than the server's: a publisher of
    commands would back-date them.
    """
    if found.stream != REPLAY_STREAM:
        return Origin(found.stream_sequence, found.recorded_at)
    sequence, moment = fields.get(headers.REPLAY_SEQUENCE, ""), fields.get(headers.REPLAY_RECORDED_AT, "")
    known = fields.get(headers.REPLAY_STREAM) == COMMANDS_STREAM and _SEQUENCE.fullmatch(sequence)
    if not known or not headers.REPLAY_ID_VALUE.fullmatch(fields.get(headers.REPLAY_ID, "")):
        return None
    try:
        recorded_at = datetime.fromisoformat(moment) if _MICROSECONDS_UTC.fullmatch(moment) else None
    except ValueError:  # the 30th of February
        return None
    if recorded_at is None or not found.recorded_at - MAX_REPLAY_AGE <= recorded_at <= found.recorded_at:
        return None
    return Origin(int(sequence), recorded_at)


def _unreplayable(command_id: UUID | None) -> Problem:
    if command_id is None:
        return problem(Code.MESSAGE_ID_MISSING)
    return problem(Code.MALFORMED_COMMAND, "the replay headers do not name a message of the command stream")


def payload_hash(name: str, data: bytes) -> bytes:
    """SHA-256 over the command's name and its body with sorted keys: the same command, however it was serialised.

    Raises orjson.JSONDecodeError, or orjson.JSONEncodeError for a body nested deeper than 254 levels.
    """
    canonical = orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)
    return sha256(name.encode() + b"\n" + canonical).digest()


def _header_refusal(
    fields: dict[str, str], name: str, command_id: UUID | None, reply_to: str | None, safe_reply_to: str | None
) -> Problem | None:
    if name not in COMMANDS:
        return problem(Code.UNKNOWN_COMMAND)
    if command_id is None:
        return problem(Code.MESSAGE_ID_MISSING)
    if reply_to is not None and safe_reply_to is None:
        return problem(Code.MALFORMED_COMMAND, f"{headers.REPLY_TO} must be an _INBOX subject")
    for header in (headers.ACTOR, headers.CORRELATION_ID):
        value = fields.get(header)
        if value is not None and not headers.ACTOR_VALUE.fullmatch(value):
            return problem(
                Code.MALFORMED_COMMAND, f"{header} must be 1 to 128 printable ASCII characters without spaces"
            )
    return None


def _body(data: bytes, name: str, tenant_id: str) -> tuple[CommandBody, bytes] | Problem:
    try:
        digest = payload_hash(name, data)
        model = COMMANDS[name].payload.model_validate_json(data)
    except orjson.JSONDecodeError as error:
        return problem(Code.MALFORMED_COMMAND, f"the body is not JSON: {error.msg} at byte {error.pos}")
    except orjson.JSONEncodeError:  # it parses up to 1,024 levels of nesting and writes 254
        return problem(Code.MALFORMED_COMMAND, "the body is nested too deeply")
    except ValidationError as error:
        return problem(Code.MALFORMED_COMMAND, None, fields=field_errors(error))
    if model.tenant_id is not None and model.tenant_id != tenant_id:
        return problem(Code.TENANT_MISMATCH)
    return model, digest


def field_errors(error: ValidationError) -> list[dict[str, str]]:
    """Where and what, never the value: it may be a patient's."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {"field": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]}
        for item in found[:MAX_REPORTED_FIELDS]
    ]
