"""Header blocks: what nats-py accepts we read the same; what it stumbles over is no headers; ours it reads as they were."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from adapters.nats import tolerant
from schemas.wire_headers import encode_headers, header_value
from tests.fuzz.mangling import cut, examples

STATUS = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1016\r\nNats-Last-Stream: 1024\r\n\r\n"
BLOCKS = (
    b"NATS/1.0\r\nNats-Msg-Id: 0b9d1c1e-6d0a-4f7a-9f5e-2b8f0c1d2e3f\r\nBilling-Actor: till\r\n\r\n",
    b"NATS/1.0\r\na: 1\r\na: 2\r\n: 3\r\nb\r\n\tc: d\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    STATUS,
)
blocks = st.one_of(
    st.sampled_from(BLOCKS).flatmap(cut),
    st.binary(max_size=60).map(lambda rest: b"NATS/1.0" + rest),
    st.binary(max_size=60),
)
names = st.text("!#$%&'*+.^_`|~-ABCZabcz059", min_size=1, max_size=20)
values = st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=40)


def _installed() -> Any:
    nc = Client()
    tolerant.install(nc)
    return nc


async def _as_nats_py_reads(block: bytes) -> Any:
    try:
        return await Client()._process_headers(block)
    except Exception as error:
        return error


@examples(400)
@given(blocks)
async def test_every_block_is_headers_or_none_and_the_same_as_nats_py_has_it(block: bytes) -> None:
    theirs = await _as_nats_py_reads(block)
    ours = await _installed()._process_headers(block)
    if isinstance(theirs, Exception):
        assert ours == {}
    else:
        assert ours == theirs
    assert ours is None or all(isinstance(each, str) for pair in ours.items() for each in pair)


@examples(100)
@given(st.binary(max_size=40), st.binary(max_size=20))
def test_every_subject_is_text(subject: bytes, reply: bytes) -> None:
    found = _installed()._build_message(1, subject, reply, b"", None)
    found.subject.encode()
    found.reply.encode()
    try:
        assert subject.decode() == found.subject
    except UnicodeDecodeError:
        assert "\\x" in found.subject


@examples(200)
@given(st.dictionaries(names, values, max_size=4))
async def test_what_we_write_nats_py_reads(fields: dict[str, str]) -> None:
    block = encode_headers(fields)
    read = await Client()._process_headers(block) or {}
    trimmed = {name: value.strip() for name, value in fields.items()}
    assert {name: (value or "").strip() for name, value in read.items()} == trimmed
    for name, value in fields.items():
        assert header_value(block, name) == value


@examples(200)
@given(st.text(max_size=20), st.text(max_size=20))
def test_no_name_or_value_forges_another_header(name: str, value: str) -> None:
    try:
        block = encode_headers({name: value})
    except ValueError:
        return
    assert block.count(b"\r\n") == 3 and block.count(b"\n") == 3 and b"\x00" not in block


async def test_a_large_block_takes_no_longer_than_it_is_large() -> None:
    """Bounded: a megabyte of header lines is read or given up, not chewed on."""
    for line in (b"a: b\r\n", b":\r\n", b" x\r\n", b"\xff\r\n", b"a" * 60 + b"\r\n"):
        block = b"NATS/1.0\r\n" + line * (1_000_000 // len(line)) + b"\r\n"
        async with asyncio.timeout(20):
            await _installed()._process_headers(block)
