"""A whole group back to an earlier message: pause, reset, resume. What was applied is answered from the inbox."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM, command_durables
from schemas.registry import COMMANDS, GROUPS
from tools.replay.errors import ReplayError
from tools.replay.selection import Selection
from tools.replay.source import api, resolve

# The pause ends by itself if this process dies between pause and resume.
PAUSE_SECONDS = 60


@dataclass(frozen=True)
class Reset:
    """`count` messages from `sequence` on will be delivered again, of which `delivered` have been before."""

    group: str
    sequence: int
    count: int
    pending: int
    remarks: tuple[str, ...] = ()

    @property
    def delivered(self) -> int:
        return self.count - self.pending

    @property
    def money_moving(self) -> bool:
        return any(spec.money_moving for spec in COMMANDS.values() if spec.group == self.group)


async def plan(nc: Client, selection: Selection) -> Reset:
    """Counts on the server, through a consumer that is made and dropped; changes nothing."""
    group = selection.group
    if group is None or group not in GROUPS:
        raise ReplayError(f"there is no consumer group {group!r}; there are {', '.join(GROUPS)}")
    bounds = await resolve(nc, selection)
    counts = [await _count(nc, name, bounds.first) for name in command_durables(group)]
    count, pending = map(sum, zip(*counts, strict=True))
    return Reset(group, bounds.first, count, pending, tuple(bounds.remarks))


async def _count(nc: Client, name: str, first: int) -> tuple[int, int]:
    """(messages of the durable from `first` on, those of them that it has not finished)"""
    info = await api(nc, f"CONSUMER.INFO.{COMMANDS_STREAM}.{name}")
    config = {
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 5_000_000_000,
        "filter_subjects": info["config"].get("filter_subjects") or [info["config"]["filter_subject"]],
    }
    made = await api(nc, f"CONSUMER.CREATE.{COMMANDS_STREAM}", {"stream_name": COMMANDS_STREAM, "config": config})
    await api(nc, f"CONSUMER.DELETE.{COMMANDS_STREAM}.{made['name']}")
    pending = info["num_pending"] + info["num_ack_pending"]
    return made["num_pending"], min(pending, made["num_pending"])


async def execute(nc: Client, reset: Reset) -> None:
    """The group's durable, and its canary's. Each pause is lifted whatever happens in between."""
    for name in command_durables(reset.group):
        await _reset(nc, f"{COMMANDS_STREAM}.{name}", reset.sequence)


async def _reset(nc: Client, name: str, sequence: int) -> None:
    until = (datetime.now(UTC) + timedelta(seconds=PAUSE_SECONDS)).isoformat().replace("+00:00", "Z")
    await api(nc, f"CONSUMER.PAUSE.{name}", {"pause_until": until})
    try:
        await api(nc, f"CONSUMER.RESET.{name}", {"seq": sequence})
    finally:
        # An empty body resumes.
        answer = await nc.request(f"$JS.API.CONSUMER.PAUSE.{name}", b"", timeout=5)
        if "error" in orjson.loads(answer.data):
            raise ReplayError(f"{name} could not be resumed; its pause ends by itself after {PAUSE_SECONDS} s")
