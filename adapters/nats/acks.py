"""Answering many messages at once: acknowledgements and replies as one buffered write each."""

from collections.abc import Iterable, Mapping, Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg

from adapters.nats import raw_write
from schemas.wire_headers import encode_headers

Publication = tuple[str, bytes, Mapping[str, str] | None]


async def ack_all(nc: Client, messages: Iterable[Msg]) -> None:
    """Acknowledge every JetStream message that has not been answered yet.

    Like `Msg.ack`, it returns once the acks are handed to the socket: a lost one means a redelivery.
    Raises a nats error, and marks nothing, when the connection is closed or down.
    """
    open_messages = [message for message in messages if message.reply and not message.is_acked]
    if not open_messages:
        return
    await raw_write.write(nc, [raw_write.pub(message.reply) for message in open_messages], 0)
    for message in open_messages:
        message._ackd = True


async def publish_many(nc: Client, publications: Sequence[Publication]) -> list[int]:
    """Publish core messages `(subject, payload, headers or None)` in order; no acknowledgement exists for these.

    Returns the positions of those that cannot be sent (an unsafe subject, or larger than the server's max_payload):
    one of them must not take its neighbours along. Raises a nats error when the connection is closed or down.
    """
    frames: list[bytes] = []
    refused: list[int] = []
    body_bytes = 0
    for position, (subject, payload, headers) in enumerate(publications):
        block = encode_headers(headers) if headers else b""
        if not raw_write.is_safe_subject(subject) or len(block) + len(payload) > nc.max_payload:
            refused.append(position)
            continue
        frames.append(raw_write.hpub(subject, block, payload) if block else raw_write.pub(subject, payload))
        body_bytes += len(payload)
    if frames:
        await raw_write.write(nc, frames, body_bytes)
    return refused
