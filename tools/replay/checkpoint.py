"""How far a run has come: a message in BILLING_REPLAY, stored in the same atomic batch as the messages it counts.

So it can neither run ahead of them nor lag behind, whatever dies when, and any machine may go on where another stopped. Each
checkpoint names the one it follows (`Nats-Expected-Last-Subject-Sequence`): two processes cannot continue one run.
"""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from nats.aio.client import Client

from adapters.nats.batch_publish import Row
from adapters.nats.topology import REPLAY_STREAM
from schemas import headers
from schemas.subjects import REPLAY_PREFIX
from schemas.wire_headers import encode_headers
from tools.replay.errors import ReplayError
from tools.replay.source import api

RUN_PREFIX = f"{REPLAY_PREFIX}._run"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
# JetStream's errors where somebody was faster: the subject's last sequence is another; the batch's message ids are known.
STALE = (10071, 10201)

Mode = Literal["redeliver", "new_ids", "import"]
State = Literal["running", "stopped", "done"]


@dataclass(frozen=True)
class Options:
    """The rails. `rate_per_second` None is as fast as it goes; `pace` N replays N times as fast as it once happened."""

    rate_per_second: float | None = None
    pace: float | None = None
    max_count: int | None = None
    max_lag: int = 10_000
    max_refused_percent: float = 5.0
    allow_money: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """`following` is the first position not handled yet; `revision` this checkpoint's own sequence, 0 before the first."""

    replay_id: str
    mode: Mode
    selection: dict[str, Any]
    first: int
    last: int
    total: int
    reason: str
    actor: str
    environment: str
    started_at: str
    following: int
    published: int = 0
    skipped: int = 0
    applied: int = 0
    duplicate: int = 0
    rejected: int = 0
    unheard: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    options: Options = Options()
    state: State = "running"
    stopped_by: str = ""
    revision: int = 0

    @property
    def subject(self) -> str:
        return f"{RUN_PREFIX}.{self.replay_id}"

    def row(self) -> Row:
        body = asdict(self) | {"at": datetime.now(UTC).isoformat()}
        body.pop("revision")
        fields = {EXPECTED: str(self.revision), headers.CONTENT_TYPE: "application/json"}
        return Row(self.subject, encode_headers(fields), orjson.dumps(body))


async def load(nc: Client, replay_id: str) -> Checkpoint | None:
    """The run's last checkpoint, asked of the stream's leader. Raises ReplayError for an id that is none."""
    if not headers.REPLAY_ID_VALUE.fullmatch(replay_id):
        raise ReplayError(f"{replay_id!r}: not a replay id; 1 to 64 letters, digits or -")
    request = {"last_by_subj": f"{RUN_PREFIX}.{replay_id}"}
    try:
        found = (await api(nc, f"STREAM.MSG.GET.{REPLAY_STREAM}", request))["message"]
    except ReplayError as error:
        if "no message found" in str(error):
            return None
        raise
    return _decoded(found)


async def runs(nc: Client) -> list[Checkpoint]:
    """Every run that the stream still knows, the latest first."""
    info = await api(nc, f"STREAM.INFO.{REPLAY_STREAM}", {"subjects_filter": f"{RUN_PREFIX}.*"})
    found = [await load(nc, subject.rsplit(".", 1)[1]) for subject in info["state"].get("subjects") or {}]
    return sorted((each for each in found if each), key=lambda each: each.started_at, reverse=True)


def _decoded(message: dict[str, Any]) -> Checkpoint:
    from base64 import b64decode

    body = orjson.loads(b64decode(message["data"]))
    body.pop("at")
    return Checkpoint(**body | {"options": Options(**body["options"]), "revision": message["seq"]})
