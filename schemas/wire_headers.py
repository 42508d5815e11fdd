"""A NATS header block as bytes, built once where the message is decided and published as it is."""

import re
from collections.abc import Mapping
from functools import lru_cache

PREAMBLE = b"NATS/1.0\r\n"
END = b"\r\n"

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# A line break would let a value forge headers; other control characters are dropped or mangled by some clients.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The complete block as it goes on the wire, from `NATS/1.0` to the empty line; values are UTF-8.

    Raises ValueError, naming the header, for a name that is not an HTTP token or a value with a control character.
    Clients trim spaces around values, so leading and trailing spaces do not survive.
    """
    # All values at once, and printable ASCII (which nearly all are) without a search: every event passes here.
    values = "".join(headers.values())
    if not (values.isascii() and values.isprintable()) and _CONTROL.search(values):
        culprit = next(name for name, value in headers.items() if _CONTROL.search(value))
        raise ValueError(f"header {culprit} holds a control character")
    lines = "".join([f"{_label(name)}{value}\r\n" for name, value in headers.items()])
    return b"%b%b%b" % (PREAMBLE, lines.encode(), END)


@lru_cache(maxsize=256)
def _label(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    return f"{name}: "


def header_value(block: bytes, name: str) -> str | None:
    """The value of a header in a block that `encode_headers` made."""
    begins = b"\r\n%b: " % name.encode()
    at = block.find(begins)
    if at < 0:
        return None
    at += len(begins)
    return block[at : block.index(b"\r\n", at)].decode()
