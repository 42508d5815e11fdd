"""What a replay would send: counted by reading the range's headers once, before anything is sent."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client

from adapters.nats.topology import DLQ_STREAM
from schemas import headers
from tools.replay.errors import ReplayError
from tools.replay.messages import group_of, moves_money, why_not
from tools.replay.selection import Selection
from tools.replay.source import Range, read
from tools.replay.stored import Stored, original

SAMPLE = 5


@dataclass
class Plan:
    """`skipped` counts by reason what is selected and cannot be sent; `positions` are given for dead letters only."""

    bounds: Range
    count: int = 0
    by_subject: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    tenants: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    money_moving: int = 0
    first: Stored | None = None
    last: Stored | None = None
    sample: list[Stored] = field(default_factory=list)
    missing_ids: tuple[str, ...] = ()
    limited: bool = False

    def add(self, message: Stored) -> None:
        self.count += 1
        self.by_subject[message.subject] += 1
        self.groups[group_of(message)] += 1
        self.tenants.add(message.subject.split(".")[3])
        self.money_moving += moves_money(message)
        self.first = self.first or message
        self.last = message
        if self.by_subject[message.subject] == 1 and len(self.sample) < SAMPLE:
            self.sample.append(message)

    def as_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "first_sequence": self.bounds.first,
            "last_sequence": self.bounds.last,
            "by_subject": dict(sorted(self.by_subject.items())),
            "groups": dict(sorted(self.groups.items())),
            "tenants": sorted(self.tenants),
            "money_moving": self.money_moving,
            "skipped": dict(self.skipped),
            "first": brief(self.first) if self.first else None,
            "last": brief(self.last) if self.last else None,
            "sample": [brief(each) for each in self.sample],
            "missing_ids": list(self.missing_ids),
            "limited": self.limited,
            "remarks": self.bounds.remarks,
        }


def brief(message: Stored) -> dict[str, Any]:
    return {
        "sequence": message.sequence,
        "position": message.position,
        "subject": message.subject,
        "message_id": message.message_id,
        "recorded_at": message.recorded_at.isoformat(),
        "bytes": message.size,
    }


async def selected(
    nc: Client, selection: Selection, bounds: Range, *, bodies: bool = True
) -> AsyncIterator[tuple[int, list[Stored]]]:
    """(position the reading has come to, the selected messages up to there as the commands they were), batch by batch."""
    async for batch in read(nc, selection, bounds, bodies=bodies or selection.needs_bodies):
        messages = batch
        if selection.stream == DLQ_STREAM:
            # The tenant in the letter's own subject is `_` where the original named none.
            messages = [command for each in batch if (command := _as_command(each)) is not None]
        yield batch[-1].position, [each for each in messages if selection.matches(each)]


async def make_plan(
    nc: Client,
    selection: Selection,
    bounds: Range,
    *,
    max_count: int | None = None,
    progress: Callable[[int], None] = lambda _position: None,
    without: frozenset[int] = frozenset(),
) -> Plan:
    """Reads headers (bodies only where a predicate asks for them) and sends nothing. `without` are positions to leave out."""
    plan = Plan(bounds)
    wanted = {each.split(":")[0] for each in selection.ids}
    async for position, messages in selected(nc, selection, bounds, bodies=False):
        for message in messages:
            if message.position in without:
                continue
            wanted.discard(str(headers.command_id(message.message_id)))
            if reason := why_not(message):
                plan.skipped[reason] += 1
            elif max_count is not None and plan.count >= max_count:
                plan.limited = True
            else:
                plan.add(message)
        progress(position)
        if plan.limited:
            break
    plan.missing_ids = tuple(sorted(wanted))
    return plan


def refuse_money(plan: Plan, *, allow_money: bool) -> None:
    """Raises ReplayError where money would move and nobody said it may."""
    if plan.money_moving and not allow_money:
        raise ReplayError(
            f"{plan.money_moving:,} of the {plan.count:,} messages move money; add --allow-money if that is meant"
        )


def _as_command(letter: Stored) -> Stored | None:
    try:
        return original(letter)
    except ValueError:
        return None
