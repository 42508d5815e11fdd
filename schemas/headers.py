"""NATS headers, and the grammar of a command's message id.

`Nats-Msg-Id` is the command id: a UUID, optionally followed by `:<attempt>`. JetStream drops a second publish of one
message id inside its duplicate window, so a client that sends a refused-but-retryable command again, or that wants the
stored outcome of one it has sent before, adds an attempt; the inbox, not the broker, decides what is a duplicate.
"""

import re
from uuid import UUID

from schemas.uuids import uuid_of

MESSAGE_ID = "Nats-Msg-Id"
REPLY_TO = "Billing-Reply-To"
ACTOR = "Billing-Actor"
CORRELATION_ID = "Billing-Correlation-Id"
COMMAND_ID = "Billing-Command-Id"  # on events and dead letters: the command they come from
TRACEPARENT = "traceparent"
# On replayed messages: the run, and the message it was. Believed on the replay stream only (handlers/inbound.py), where nobody
# but an operator may publish.
REPLAY_ID = "Billing-Replay-Id"
REPLAY_STREAM = "Billing-Replay-Stream"
REPLAY_SEQUENCE = "Billing-Replay-Sequence"
REPLAY_RECORDED_AT = "Billing-Replay-Recorded-At"
REPLAY_MESSAGE_ID = "Billing-Replay-Message-Id"  # the original's, its attempt included
CONTENT_TYPE = "content-type"

CE_ID, CE_TYPE, CE_SOURCE, CE_SUBJECT, CE_TIME = "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time"
CE_SPECVERSION, CE_SEQUENCE = "ce-specversion", "ce-sequence"

# Header values that reach logs, events or other subjects are bounded and of one line.
ACTOR_VALUE = re.compile(r"[\x21-\x7e]{1,128}")
# Outcomes go to inboxes only: with the handlers' permissions any other subject would be a confused deputy.
REPLY_TO_VALUE = re.compile(r"_INBOX(?:\.[A-Za-z0-9_-]{1,64}){1,6}")
REPLAY_ID_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_MESSAGE_ID = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?::[A-Za-z0-9-]{1,36})?")


def command_id(message_id: str | None) -> UUID | None:
    """The command id in a `Nats-Msg-Id`, or None where it is missing or not of the form `<uuid>[:<attempt>]`."""
    match = _MESSAGE_ID.fullmatch(message_id) if message_id else None
    return uuid_of(match[1]) if match else None


# On dead letters: why, and where the message came from. The original headers travel along, `Nats-…` ones apart.
DLQ_CODE = "Billing-Dlq-Code"
DLQ_REASON = "Billing-Dlq-Reason"
DLQ_CONSUMER = "Billing-Dlq-Consumer"
DLQ_SUBJECT = "Billing-Dlq-Subject"
DLQ_STREAM = "Billing-Dlq-Stream"
DLQ_SEQUENCE = "Billing-Dlq-Sequence"
DLQ_DELIVERIES = "Billing-Dlq-Deliveries"
DLQ_RECORDED_AT = "Billing-Dlq-Recorded-At"
DLQ_MESSAGE_ID = "Billing-Dlq-Message-Id"
# On what an operator leaves behind a dead letter: retried, edited or discarded. What is without it resolves nothing.
DLQ_RESOLUTION = "Billing-Dlq-Resolution"
