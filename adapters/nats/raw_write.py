"""The one place that reaches into nats-py: many protocol lines as one buffered write.

`Client.publish` costs 2 to 3 µs of Python a message, `Msg.ack` the same; joined into one write an ack costs 0.4 µs.
It appends to the client's pending list exactly as `publish` does, so ordering with ordinary publishes, reconnects and
back-pressure stay the client's. Written against nats-py 2.16.0; tests/integration/test_batch_publish.py fails on another.
"""

import re

from nats import errors
from nats.aio.client import Client

_UNSAFE_SUBJECT = re.compile(r"[\s\x00-\x1f]")
_CRLF = b"\r\n"


def is_safe_subject(subject: str) -> bool:
    """Whether `subject` can be put on a protocol line: not empty, no white space, no control character."""
    return bool(subject) and not _UNSAFE_SUBJECT.search(subject)


def pub(subject: str, body: bytes = b"") -> bytes:
    """A PUB frame without reply or headers. The caller vouches for the subject."""
    return b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body)


def hpub(subject: str, header_block: bytes, body: bytes, reply: str = "") -> bytes:
    """A HPUB frame. `header_block` is complete, from `NATS/1.0` to its empty line."""
    target = f"{subject} {reply}" if reply else subject
    size = len(header_block)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (target.encode(), size, size + len(body), header_block, body)


async def write(client: Client, frames: list[bytes], body_bytes: int) -> None:
    """Hand whole frames to the client's buffer and wake its writer.

    Raises ConnectionClosedError, ConnectionDrainingError or, when disconnected, ConnectionReconnectingError: unlike
    `publish` it refuses to buffer during a reconnect, because what is sent after it would be sent twice.
    """
    if client.is_closed:
        raise errors.ConnectionClosedError
    if client.is_draining_pubs:
        raise errors.ConnectionDrainingError
    if not client.is_connected:
        raise errors.ConnectionReconnectingError
    buffer = b"".join(frames)
    client.stats["out_msgs"] += len(frames)
    client.stats["out_bytes"] += body_bytes
    await client._send_command(buffer)
    if client._flush_queue is not None and client._flush_queue.empty():
        await client._flush_pending()
