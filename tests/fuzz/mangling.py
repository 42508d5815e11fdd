"""Input that was valid once: values swapped for nasty ones, fields lost and found, bytes cut, doubled and forged."""

import os
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg

LONG = bool(os.environ.get("BILLING_LONG"))
_TIMES_LONGER = 20

# What parsers of JSON, numbers, times, UUIDs and headers have stumbled over.
NASTY_NUMBERS = (0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1.5, -0.0, 1e308, 5e-324)
NASTY_TEXTS = (
    "",
    " ",
    "\x00",
    "a\x1bb",
    "\r\nNats-Msg-Id: x",
    "\u202e",
    "\ufeff",
    "９",
    "٣",
    "1e5",
    "NaN",
    "-0",
    "null",
    "é" * 300,
    "x" * 5_000,
    "9" * 5_000,
    "2026-02-30",
    "9999-12-31",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-01-01T00:00:00",
    "00000000-0000-0000-0000-000000000000",
    "{00000000-0000-0000-0000-00000000000A}",
    "urn:uuid:00000000-0000-0000-0000-000000000001",
    "__proto__",
    "a.b",
    "*",
    ">",
)
TOKENS = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"1e999",
    b"NaN",
    b"-",
    b"-0",
    b"0" * 400,
    b"9" * 5_000,
    b"18446744073709551616",
    b"null",
    b"\r\n",
    b"\n",
    b" ",
    b"[" * 300,
    b"[" * 1_000,
    b"[" * 100_000,
    b'{"a":' * 1_000,
)

nasty = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NASTY_NUMBERS),
    st.sampled_from(NASTY_TEXTS),
    st.text(max_size=20),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just([]),
    st.just({}),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=8), st.integers(0, 9), max_size=3),
)


def examples(count: int) -> settings:
    """So many in an ordinary run, the same each time; twenty times as many with BILLING_LONG=1."""
    return settings(
        max_examples=count * (_TIMES_LONGER if LONG else 1),
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


@st.composite
def mangled(draw: st.DrawFn, value: Any) -> Any:
    """A copy of a JSON value with up to three changes anywhere in it."""
    changed = orjson.loads(orjson.dumps(value))
    for _ in range(draw(st.integers(0, 3))):
        changed = _changed(draw, changed)
    return changed


def _changed(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        what = draw(st.sampled_from(("inside", "inside", "lost", "named", "added")))
        if what == "inside":
            return value | {key: _changed(draw, value[key])}
        rest = {name: each for name, each in value.items() if name != key}
        if what == "named":
            return rest | {draw(st.sampled_from(NASTY_TEXTS)): value[key]}
        return rest if what == "lost" else value | {draw(st.text(max_size=12)): draw(nasty)}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _changed(draw, value[at]), *value[at + draw(st.integers(0, 1)) :]]
    return draw(nasty)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with up to three pieces lost, doubled, or replaced by what parsers dislike."""
    for _ in range(draw(st.integers(0, 3))):
        begin, size = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        piece = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4), st.just(data[begin : begin + 40])))
        data = data[:begin] + piece + data[begin + size :]
    return data


@st.composite
def json_bytes(draw: st.DrawFn, *values: Any) -> bytes:
    """One of the values as JSON, mangled as a value, as bytes, or both."""
    value = draw(mangled(draw(st.sampled_from(values))))
    return draw(st.one_of(st.just(orjson.dumps(value)), cut(orjson.dumps(value)), st.binary(max_size=40)))


def message(subject: str, data: bytes, headers: dict[str, str] | None, *, stream: str = "BILLING_COMMANDS") -> Msg:
    """As JetStream delivers it."""
    reply = f"$JS.ACK.{stream}.payments.1.17.9.1764000000123456789.0"
    return Msg(_client=None, subject=subject, reply=reply, data=data, headers=headers)  # type: ignore[arg-type]
