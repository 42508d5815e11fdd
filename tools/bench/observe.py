"""What a run looks like from outside: JetStream's own counters and clock, and CPU seconds of processes."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import psutil
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM, EVENTS_STREAM
from tools.stack import PostgresServer

_API_TIMEOUT_SECONDS = 10.0
_NANOSECONDS = re.compile(r"(\.\d{6})\d+")


class BenchError(Exception):
    """A run did not do what it was to measure; its figures mean nothing."""


class Consumed(NamedTuple):
    """A durable: messages that were acknowledged (`last_at` is when the last was) and that were not yet."""

    acknowledged: int
    outstanding: int
    last_at: float | None


class Stored(NamedTuple):
    """A stream's messages, and when the last was stored."""

    messages: int
    last_at: float | None


async def consumed(nc: Client, durable: str) -> Consumed:
    info = await _api(nc, f"CONSUMER.INFO.{COMMANDS_STREAM}.{durable}")
    floor = info["ack_floor"]
    outstanding = int(info["num_pending"]) + int(info["num_ack_pending"])
    return Consumed(int(floor["consumer_seq"]), outstanding, _seconds(floor.get("last_active")))


async def events(nc: Client) -> Stored:
    state = (await _api(nc, f"STREAM.INFO.{EVENTS_STREAM}"))["state"]
    return Stored(int(state["messages"]), _seconds(state.get("last_ts")) if state["messages"] else None)


async def pause(nc: Client, durable: str) -> None:
    """The durable gives nothing out until `resume`: processes can be started and warmed before the clock runs."""
    await _api(nc, f"CONSUMER.PAUSE.{COMMANDS_STREAM}.{durable}", {"pause_until": "2200-01-01T00:00:00Z"})


async def resume(nc: Client, durable: str) -> None:
    await _api(nc, f"CONSUMER.PAUSE.{COMMANDS_STREAM}.{durable}", {})


async def _api(nc: Client, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await nc.request(f"$JS.API.{subject}", json.dumps(body or {}).encode(), timeout=_API_TIMEOUT_SECONDS)
    document: dict[str, Any] = json.loads(answer.data)
    if error := document.get("error"):
        raise BenchError(f"{subject}: {error['description']}")
    return document


def _seconds(moment: str | None) -> float | None:
    """Seconds since the epoch of nats-server's RFC 3339 time, to the microsecond."""
    if moment is None:
        return None
    return datetime.fromisoformat(_NANOSECONDS.sub(r"\1", moment).replace("Z", "+00:00")).timestamp()


async def stored_at(nc: Client, sequence: int) -> float:
    """When the event of that stream sequence was stored, by nats-server's clock."""
    message = await nc.jetstream().get_msg(EVENTS_STREAM, sequence)
    if message.time is None:
        raise BenchError(f"event {sequence} has no time")
    return message.time.timestamp()


def wal_bytes(postgres: PostgresServer) -> int:
    """Bytes of write-ahead log written so far."""
    return int(postgres.execute("SELECT pg_current_wal_insert_lsn() - '0/0'"))


def memory_mb(pid: int | None) -> float:
    """Resident memory of a process and its children, pages they share counted once where the kernel says (PSS)."""
    if pid is None:
        raise BenchError("a process to be measured does not run")
    process, total = psutil.Process(pid), 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def histogram(name: str, metrics: str) -> tuple[float, float]:
    """(count, sum) of a Prometheus histogram, over all its labels."""
    found = {"count": 0.0, "sum": 0.0}
    for kind in found:
        for value in re.findall(rf"^{name}_{kind}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE):
            found[kind] += float(value)
    return found["count"], found["sum"]


class CpuMeter:
    """User and system CPU seconds that named processes, with their children, use from `start` on."""

    def __init__(self, pids: dict[str, Callable[[], int | None]]) -> None:
        self._pids = pids
        self._at_start: dict[str, float] = {}

    def start(self) -> None:
        self._at_start = self._now()

    def seconds(self) -> dict[str, float]:
        return {name: used - self._at_start[name] for name, used in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: _cpu_seconds(pid()) for name, pid in self._pids.items()}


def _cpu_seconds(pid: int | None) -> float:
    if pid is None:
        raise BenchError("a process to be measured does not run")
    process = psutil.Process(pid)
    times = process.cpu_times()
    # Children that ended are in their parent's account: a PostgreSQL backend's time moves there, it is not lost.
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return float(total)
