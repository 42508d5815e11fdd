"""What a consumer group looks like from outside: how much waits, how much is in flight, how old the oldest is."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from nats import errors
from nats.aio.client import Client

TIMEOUT_SECONDS = 2.0


class ConsumerState(NamedTuple):
    """`oldest_recorded_at` is the oldest message not yet acknowledged; None when there is none, or it could not be read.

    `acknowledged` counts messages since the durable was made; `pulls` are fetch requests waiting at the server.
    """

    stream: str
    durable: str
    pending: int
    ack_pending: int
    redelivered: int
    acknowledged: int
    pulls: int
    paused: bool
    oldest_recorded_at: datetime | None

    @property
    def depth(self) -> int:
        """What the scaling rule looks at: waiting and in flight."""
        return self.pending + self.ack_pending

    def oldest_age_seconds(self, now: datetime) -> float:
        return max(0.0, (now - self.oldest_recorded_at).total_seconds()) if self.oldest_recorded_at else 0.0


class ConsumerMissing(LookupError):
    """There is no such stream or durable, or the server does not know it at the moment."""


async def consumer_state(nc: Client, stream: str, durable: str) -> ConsumerState:
    """Asks the server. Raises ConsumerMissing, or a nats error when it does not answer within TIMEOUT_SECONDS."""
    answer = await nc.request(f"$JS.API.CONSUMER.INFO.{stream}.{durable}", b"", timeout=TIMEOUT_SECONDS)
    info: dict[str, Any] = orjson.loads(answer.data)
    if "error" in info:
        raise ConsumerMissing(f"{stream}/{durable}: {info['error'].get('description', 'unknown')}")
    depth = info["num_pending"] + info["num_ack_pending"]
    return ConsumerState(
        stream=stream,
        durable=durable,
        pending=info["num_pending"],
        ack_pending=info["num_ack_pending"],
        redelivered=info["num_redelivered"],
        acknowledged=info["ack_floor"]["consumer_seq"],
        pulls=info["num_waiting"],
        paused=bool(info.get("paused")),
        oldest_recorded_at=await _oldest(nc, stream, info) if depth else None,
    )


async def _oldest(nc: Client, stream: str, info: dict[str, Any]) -> datetime | None:
    """When the first message above the acknowledgement floor was stored, over all subjects the durable filters."""
    config = info["config"]
    subjects = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
    first = info["ack_floor"]["stream_seq"] + 1
    found = [moment for subject in subjects if (moment := await _recorded_at(nc, stream, first, subject))]
    return min(found, default=None)


async def _recorded_at(nc: Client, stream: str, sequence: int, subject: str) -> datetime | None:
    request = orjson.dumps({"seq": sequence, "next_by_subj": subject})
    try:
        message = await nc.request(f"$JS.API.DIRECT.GET.{stream}", request, timeout=TIMEOUT_SECONDS)
    except errors.NoRespondersError:
        return None
    stamp = (message.headers or {}).get("Nats-Time-Stamp")
    # Nanoseconds are more than datetime holds: cut to microseconds.
    return datetime.fromisoformat(stamp[:26].rstrip("Z")).replace(tzinfo=UTC) if stamp else None
