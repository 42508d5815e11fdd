"""A stored message as it is sent again."""

import re
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

from adapters.nats.batch_publish import Row
from adapters.nats.topology import COMMANDS_STREAM
from schemas import headers
from schemas.registry import COMMANDS
from schemas.subjects import COMMAND_PREFIX, parse, replay_subject
from schemas.wire_headers import encode_headers
from tools.replay.stored import Stored

# New ids are derived from the run and the original: resuming a run gives the same ones.
NEW_IDS = UUID("0f8be1f8-0c6f-5d6e-8d0b-5f0a55a0c0de")

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def why_not(message: Stored) -> str | None:
    """Why a message cannot be sent again as the command it was; None where it can."""
    address = parse(message.subject)
    if address is None or not message.subject.startswith(f"{COMMAND_PREFIX}."):
        return "not a command"
    if address.name not in COMMANDS:
        return "no such command"
    if headers.command_id(message.message_id) is None:
        return "no command id"
    return None if message.stream == COMMANDS_STREAM else f"of {message.stream}"


def moves_money(message: Stored) -> bool:
    address = parse(message.subject)
    return address is not None and address.name in COMMANDS and COMMANDS[address.name].money_moving


def group_of(message: Stored) -> str:
    """The consumer group of a message that `why_not` has nothing against."""
    return COMMANDS[_address(message).name].group


def replayed(message: Stored, replay_id: str, reply_to: str) -> Row:
    """To the message's consumer group alone, under its own command id.

    The attempt makes the message id new to the replay stream's duplicate window, which would drop a second replay of a message
    without a word; the command id in front of it is the original's, and that is what the inbox goes by.
    """
    digest = sha256(f"{replay_id}/{message.stream}/{message.sequence}".encode()).hexdigest()[:20]
    fields = sendable(message.headers) | {
        headers.MESSAGE_ID: f"{headers.command_id(message.message_id)}:r{digest}",
        headers.REPLY_TO: reply_to,
        headers.REPLAY_ID: replay_id,
        headers.REPLAY_STREAM: message.stream,
        headers.REPLAY_SEQUENCE: str(message.sequence),
        headers.REPLAY_RECORDED_AT: message.recorded_at.isoformat(timespec="microseconds"),
        headers.REPLAY_MESSAGE_ID: message.message_id or "",
    }
    tenant_id, name = _address(message)
    return Row(replay_subject(group_of(message), tenant_id, name), encode_headers(fields), message.data)


def as_command(message: Stored, replay_id: str, reply_to: str, *, new_id: bool) -> Row:
    """A command like any other: it becomes part of this environment's history, recorded when the stream stores it."""
    message_id = message.message_id or ""
    if new_id:
        message_id = str(uuid5(NEW_IDS, f"{replay_id}/{message.stream}/{message.sequence}"))
    fields = sendable(message.headers) | {
        headers.MESSAGE_ID: message_id,
        headers.REPLY_TO: reply_to,
        headers.REPLAY_ID: replay_id,
        headers.REPLAY_STREAM: message.stream,
        headers.REPLAY_SEQUENCE: str(message.sequence),
    }
    return Row(message.subject, encode_headers(fields), message.data)


def sendable(fields: dict[str, str]) -> dict[str, str]:
    """The headers that travel on. `Nats-…` are instructions to the server, the reply inbox is long gone, and a header that no
    client may send never meant anything."""
    return {
        name: value
        for name, value in fields.items()
        if _NAME.fullmatch(name)
        and not _CONTROL.search(value)
        and not name.lower().startswith(("nats-", "billing-replay-", "billing-dlq-"))
        and name.lower() != headers.REPLY_TO.lower()
    }


def _address(message: Stored) -> Any:
    address = parse(message.subject)
    if address is None:
        raise ValueError("not a command")
    return address
