"""Messages whose subject or header block nats-py cannot decode.

nats-py 2.16 decodes a message inside its read loop and ends the loop at an exception: one message with a subject that is not
UTF-8, or with a header block cut short, leaves a connection that is open and deaf. The server stores and delivers
such messages, so whoever may publish could silence every consumer. Here they are decoded as far as they go.
"""

from typing import Any

from nats.aio.client import Client

_NO_HEADERS: dict[str, str] = {}


def install(nc: Client) -> None:
    """Make this connection hand over every message: bytes of a subject that are not UTF-8 appear as `\\xff`, a header block
    that cannot be parsed as no headers."""
    process_headers = nc._process_headers

    async def headers_or_none(block: bytes) -> dict[str, str] | None:
        try:
            return await process_headers(block)
        except (ValueError, IndexError):
            return _NO_HEADERS.copy()

    def build(sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None) -> Any:
        return nc.msg_class(
            subject=subject.decode(errors="backslashreplace"),
            reply=reply.decode(errors="backslashreplace"),
            data=data,
            headers=headers,
            _client=nc,
            _sid=sid,
        )

    nc._process_headers = headers_or_none  # type: ignore[method-assign, assignment]
    nc._build_message = build  # type: ignore[method-assign]
