"""Dead letters and what became of them. The stream denies deletes: a resolution is a message of its own, last one counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from nats.aio.client import Client

from adapters.nats.topology import DLQ_STREAM
from schemas import headers
from schemas.subjects import DLQ_PREFIX
from tools.replay.errors import ReplayError
from tools.replay.selection import Selection
from tools.replay.source import Range, read, resolve
from tools.replay.stored import Stored, original

RESOLVED_PREFIX = f"{DLQ_PREFIX}._resolved"


@dataclass(frozen=True)
class Letter:
    """`position` is its sequence in BILLING_DLQ and its name for an operator."""

    stored: Stored
    resolved: bool

    @property
    def position(self) -> int:
        return self.stored.position

    def header(self, name: str) -> str:
        return self.stored.headers.get(name, "")

    @property
    def code(self) -> str:
        return self.header(headers.DLQ_CODE) or "unknown"

    @property
    def reason(self) -> str:
        return self.header(headers.DLQ_REASON)

    @property
    def group(self) -> str:
        return self.header(headers.DLQ_CONSUMER)

    @property
    def subject(self) -> str:
        return self.header(headers.DLQ_SUBJECT)

    @property
    def tenant(self) -> str:
        return self.stored.subject.rpartition(".")[2]

    def command(self) -> Stored | None:
        """The command it was; None for a letter that does not say."""
        try:
            return original(self.stored)
        except ValueError:
            return None

    def as_json(self, *, body: bool = False) -> dict[str, Any]:
        found = {
            "position": self.position,
            "resolved": self.resolved,
            "code": self.code,
            "reason": self.reason,
            "group": self.group,
            "tenant": self.tenant,
            "subject": self.subject,
            "message_id": self.header(headers.DLQ_MESSAGE_ID) or None,
            "attempts": int(self.header(headers.DLQ_DELIVERIES) or 0),
            "stream": self.header(headers.DLQ_STREAM),
            "sequence": int(self.header(headers.DLQ_SEQUENCE) or 0),
            "recorded_at": self.header(headers.DLQ_RECORDED_AT),
            "dead_since": self.stored.recorded_at.isoformat(),
            "bytes": self.stored.size,
        }
        if body:
            found |= {"headers": self.stored.headers, "body": self.stored.data.decode(errors="backslashreplace")}
        return found


@dataclass(frozen=True)
class Filter:
    """Empty means any. `codes` are rejection codes."""

    positions: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    group: str | None = None
    tenant: str | None = None
    resolved: bool = False

    def selection(self) -> Selection:
        return Selection(stream=DLQ_STREAM, sequences=self.positions, group=self.group, tenant=self.tenant)

    def matches(self, letter: Letter) -> bool:
        if self.positions:
            return letter.position in self.positions
        return (self.resolved or not letter.resolved) and (not self.codes or letter.code in self.codes)


async def letters(nc: Client, wanted: Filter, *, bodies: bool = False) -> list[Letter]:
    """In the order they came. Raises ReplayError for positions that are no letters."""
    try:
        bounds = await resolve(nc, Selection(stream=DLQ_STREAM))
    except ReplayError as error:
        if "is empty" in str(error) and not wanted.positions:
            return []
        raise
    done = await resolved_positions(nc, bounds)
    if wanted.positions:
        inside = [each for each in wanted.positions if bounds.first <= each <= bounds.last]
        bounds = Range(min(inside, default=bounds.last), max(inside, default=bounds.last))
    found = []
    # The filter by tenant and group is the server's: it looks at the letter's subject.
    async for batch in read(nc, wanted.selection(), bounds, bodies=bodies):
        every = (Letter(each, each.position in done) for each in batch)
        found += [letter for letter in every if wanted.matches(letter)]
    if missing := sorted(set(wanted.positions) - {letter.position for letter in found}):
        raise ReplayError(
            f"no dead letter at {', '.join(str(each) for each in missing)}; `billing dlq list --all` lists them"
        )
    return found


async def resolved_positions(nc: Client, bounds: Range) -> set[int]:
    """From the markers' names and headers. A message without the header is no marker: a tenant can aim the PubAck of one of its
    commands here (docs/decisions/0002)."""
    found: set[int] = set()
    async for batch in read(
        nc, Selection(stream=DLQ_STREAM, subjects=(f"{RESOLVED_PREFIX}.*.*",)), bounds, bodies=False
    ):
        found |= {int(each.subject.rpartition(".")[2]) for each in batch if headers.DLQ_RESOLUTION in each.headers}
    return found


async def resolve_letter(nc: Client, letter: Letter, how: str, *, reason: str, actor: str, **more: Any) -> None:
    """Marks it; `how` is retried, edited or discarded."""
    body = {
        "resolution": how,
        "reason": reason,
        "actor": actor,
        "at": datetime.now(UTC).isoformat(),
        "code": letter.code,
        "command_id": str(headers.command_id(letter.header(headers.DLQ_MESSAGE_ID))),
        **more,
    }
    await nc.jetstream().publish(
        _marker(letter),
        orjson.dumps(body, default=str),
        stream=DLQ_STREAM,
        timeout=5,
        headers={headers.DLQ_RESOLUTION: how},
    )


async def resolution(nc: Client, letter: Letter) -> dict[str, Any] | None:
    """What the last marker says; None for an open letter."""
    bounds = await resolve(nc, Selection(stream=DLQ_STREAM))
    last: bytes | None = None
    async for batch in read(nc, Selection(stream=DLQ_STREAM, subjects=(_marker(letter),)), bounds):
        last = next((each.data for each in reversed(batch) if headers.DLQ_RESOLUTION in each.headers), last)
    body: dict[str, Any] | None = orjson.loads(last) if last is not None else None
    return body


def _marker(letter: Letter) -> str:
    """One token longer than a letter's own subject, so that no filter for letters finds it."""
    return f"{RESOLVED_PREFIX}.{letter.tenant}.{letter.position}"


def by_reason(found: Sequence[Letter]) -> dict[tuple[str, str, str], list[Letter]]:
    """Grouped by code, reason and consumer group, the largest group first."""
    groups: dict[tuple[str, str, str], list[Letter]] = {}
    for letter in found:
        groups.setdefault((letter.code, letter.reason, letter.group), []).append(letter)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
