"""A message as a stream or an export file holds it, and a dead letter as the command it was."""

import re
from datetime import datetime
from typing import NamedTuple

from nats.aio.msg import Msg

from adapters.nats.topology import REPLAY_STREAM
from handlers.inbound import delivery
from schemas import headers
from schemas.subjects import REPLAY_PREFIX, command_of, command_subject, parse

# The server's own header, but a publisher may send one, too: int() refuses thousands of digits.
_SIZE = re.compile(r"[0-9]{1,10}")


class Stored(NamedTuple):
    """`position` is its sequence where it was read from; stream, sequence and time are those of the original, `subject` is the
    one it was sent to, whichever group the broker gave it to."""

    position: int
    stream: str
    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes
    recorded_at: datetime

    @property
    def message_id(self) -> str | None:
        return self.headers.get(headers.MESSAGE_ID)

    @property
    def size(self) -> int:
        """Bytes of the body, which is left out where only headers were read."""
        stated = self.headers.get("Nats-Msg-Size", "")
        return int(stated) if _SIZE.fullmatch(stated) else len(self.data)


def stored(message: Msg) -> Stored:
    found = delivery(message.reply)
    return Stored(
        position=found.stream_sequence,
        stream=found.stream,
        sequence=found.stream_sequence,
        subject=command_of(message.subject),
        headers=dict(message.headers or {}),
        data=message.data,
        recorded_at=found.recorded_at,
    )


def original(letter: Stored) -> Stored:
    """The command a dead letter was. One that was a replay itself is traced back to the command stream.

    Raises ValueError for a letter without its story in the headers.
    """
    told = letter.headers
    kept = {name: value for name, value in told.items() if not name.startswith(("Billing-Dlq-", "Billing-Replay-"))}
    kept.pop(headers.MESSAGE_ID, None)
    if headers.DLQ_MESSAGE_ID in told:
        kept[headers.MESSAGE_ID] = told[headers.DLQ_MESSAGE_ID]
    stream, sequence, moment = (
        told.get(name, "") for name in (headers.DLQ_STREAM, headers.DLQ_SEQUENCE, headers.DLQ_RECORDED_AT)
    )
    if stream == REPLAY_STREAM:
        stream, sequence, moment = (
            told.get(name, "") for name in (headers.REPLAY_STREAM, headers.REPLAY_SEQUENCE, headers.REPLAY_RECORDED_AT)
        )
    subject = _command_subject(told.get(headers.DLQ_SUBJECT, ""))
    return Stored(letter.position, stream, int(sequence), subject, kept, letter.data, datetime.fromisoformat(moment))


def _command_subject(subject: str) -> str:
    address = parse(subject) if subject.startswith(f"{REPLAY_PREFIX}.") else None
    return command_subject(*address) if address else command_of(subject)
