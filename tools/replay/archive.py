"""Messages in a file: JSON Lines under zstd. A first line says whose they are, a last one that nothing is missing.

{"format": "billing-replay/1", "stream": …, "region": …, "environment": …, "exported_at": …}
{"sequence": 17, "subject": …, "recorded_at": …, "headers": {…}, "data": "…"}      (or "data_base64")
{"end": true, "count": 1, "sha256": …}                                             (of all lines before it)
"""

import base64
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import zstandard

from schemas.subjects import command_of, parse
from tools.replay.errors import ReplayError
from tools.replay.stored import Stored

FORMAT = "billing-replay/1"
BATCH = 500
# A line is a message of at most 1 MiB, in JSON at most about six times that; a longer one is no export.
MAX_LINE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Archive:
    """A file that was read to its end and is whole."""

    path: Path
    stream: str
    region: str
    environment: str
    count: int
    tenants: frozenset[str]
    digest: str


async def write(
    path: Path, stream: str, region: str, environment: str, batches: AsyncIterator[tuple[int, list[Stored]]]
) -> int:
    """The number of messages written. The file appears under its name only when it is whole."""
    unfinished = path.with_name(f"{path.name}.partial")
    digest, count = sha256(), 0
    with unfinished.open("wb") as file, zstandard.ZstdCompressor(level=6).stream_writer(file) as out:

        def line(content: dict[str, Any]) -> None:
            text = orjson.dumps(content) + b"\n"
            digest.update(text)
            out.write(text)

        about = {"stream": stream, "region": region, "environment": environment}
        line({"format": FORMAT} | about | {"exported_at": datetime.now(UTC).isoformat()})
        async for _, messages in batches:
            for message in messages:
                line(_as_json(message))
            count += len(messages)
        line({"end": True, "count": count, "sha256": digest.hexdigest()})
    unfinished.replace(path)
    return count


def inspect(path: Path) -> Archive:
    """Reads the whole file. Raises ReplayError, naming the line, where it is not an export or not a whole one."""
    header: dict[str, Any] = {}
    tenants: set[str] = set()
    digest, count = sha256(), 0
    for number, text in _lines(path):
        content = _content(path, number, text)
        if number == 1:
            header = _header(path, content)
        elif content.get("end"):
            if content.get("count") != count or content.get("sha256") != digest.hexdigest():
                raise ReplayError(
                    f"{path}: line {number}: {count:,} messages do not match the export's own count and hash"
                )
            stream, region, environment = (str(header[name]) for name in ("stream", "region", "environment"))
            return Archive(path, stream, region, environment, count, frozenset(tenants), digest.hexdigest())
        else:
            message = _stored(path, number, content, str(header["stream"]))
            address = parse(message.subject)
            tenants |= {address.tenant_id} if address else set()
            count += 1
        digest.update(text)
    raise ReplayError(f"{path}: cut off after {count:,} messages: the last line of a whole export is missing")


def messages(archive: Archive, after_line: int = 0) -> Iterator[Stored]:
    """The messages from a line on; positions are line numbers."""
    for number, text in _lines(archive.path):
        content = _content(archive.path, number, text)
        if number > max(1, after_line) and not content.get("end"):
            yield _stored(archive.path, number, content, archive.stream)


async def batches(archive: Archive, after_line: int = 0) -> AsyncIterator[tuple[int, list[Stored]]]:
    batch: list[Stored] = []
    for message in messages(archive, after_line):
        batch.append(message)
        if len(batch) == BATCH:
            yield batch[-1].position, batch
            batch = []
    if batch:
        yield batch[-1].position, batch


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as raw:
            reader = io.BufferedReader(raw)
            number = 0
            while text := reader.readline(MAX_LINE_BYTES):
                number += 1
                if not text.endswith(b"\n"):
                    raise ReplayError(f"{path}: cut off in line {number}")
                yield number, text
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror or error}") from None
    except zstandard.ZstdError as error:
        raise ReplayError(f"{path}: not a zstd file, or a damaged one: {error}") from None


def _content(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ReplayError(f"{path}: line {number}: not JSON: {error.msg}") from None
    if not isinstance(content, dict):
        raise ReplayError(f"{path}: line {number}: not a JSON object")
    return content


def _header(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    if content.get("format") != FORMAT or not {"stream", "region", "environment"} <= content.keys():
        raise ReplayError(f"{path}: line 1: not an export of `billing replay export` ({FORMAT})")
    return content


def _as_json(message: Stored) -> dict[str, Any]:
    common = {
        "sequence": message.sequence,
        "subject": message.subject,
        "recorded_at": message.recorded_at.isoformat(timespec="microseconds"),
        "headers": message.headers,
    }
    try:
        return common | {"data": message.data.decode()}
    except UnicodeDecodeError:
        return common | {"data_base64": base64.b64encode(message.data).decode()}


def _stored(path: Path, number: int, content: dict[str, Any], stream: str) -> Stored:
    try:
        encoded = content.get("data_base64")
        return Stored(
            position=number,
            stream=stream,
            sequence=int(content["sequence"]),
            subject=command_of(str(content["subject"])),
            headers={str(name): str(value) for name, value in content["headers"].items()},
            data=base64.b64decode(encoded) if encoded is not None else str(content["data"]).encode(),
            recorded_at=datetime.fromisoformat(content["recorded_at"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReplayError(f"{path}: line {number}: not a message: {type(error).__name__} {error}") from None
