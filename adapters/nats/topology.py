"""Every stream and durable there is, and the reconciler that makes a server match. Subscribers declare nothing.

The JetStream API is spoken in its own JSON, not through nats-py's dataclasses: an update sends the whole configuration,
and a field that a client library does not know yet would be reset by a round trip through it.
"""

import json
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client

from schemas.registry import GROUPS
from schemas.subjects import (
    ATTEMPT_PREFIX,
    AUDIT_PREFIX,
    CANARY_PREFIX,
    COMMAND_PREFIX,
    DLQ_PREFIX,
    EVENT_PREFIX,
    JOB_PREFIX,
    REPLAY_PREFIX,
)

COMMANDS_STREAM = "BILLING_COMMANDS"
EVENTS_STREAM = "BILLING_EVENTS"
JOBS_STREAM = "BILLING_JOBS"
DLQ_STREAM = "BILLING_DLQ"
REPLAY_STREAM = "BILLING_REPLAY"
ATTEMPTS_STREAM = "BILLING_ATTEMPTS"
AUDIT_STREAM = "AUDIT"

_SECOND = 1_000_000_000  # JetStream durations are nanoseconds
_MINUTE = 60 * _SECOND
_DAY = 24 * 60 * _MINUTE

# How long a stream keeps its messages. At one million commands a day (12/s) of 1.2 kB, 14 days are 17 GB a replica:
# longer than any outage of the handlers, and long enough to replay a month-end's first half after the second.
COMMANDS_MAX_AGE = 14 * _DAY
# Events are read by others at their own pace; about as many as commands, so 30 days are 36 GB a replica.
EVENTS_MAX_AGE = 30 * _DAY
JOBS_MAX_AGE = 7 * _DAY
REPLAY_MAX_AGE = 7 * _DAY
# A dead letter waits for a person; a quarter covers a reporting period and its closing.
DLQ_MAX_AGE = 90 * _DAY
# A suspect is tried again within minutes; a day also covers a mesh that is stopped over night.
ATTEMPTS_MAX_AGE = _DAY
AUDIT_MAX_AGE = 7 * _DAY  # dev only; the audit service keeps its own

# The server holds every message id of the window in memory, about DEDUPE_BYTES_PER_ID each.
# Commands: the inbox is what makes a command's effect single (docs/decisions/0002); the window only spares the work of
# a publisher's quick retry. 2 minutes at a sustained 2,000/s are 240,000 ids, 55 MB.
COMMANDS_DUPLICATE_WINDOW = 2 * _MINUTE
# Events and audit: the window is what keeps a re-publish after a lost PubAck from doubling, so it must outlast the
# longest usual stall of a relay: a leader election (8 s), a rolling restart, a failover to another relay. 5 minutes at
# 2,000/s are 600,000 ids, 138 MB; after a longer outage consumers' own dedupe on event id takes over.
EVENTS_DUPLICATE_WINDOW = 5 * _MINUTE
# Dead letters and jobs are published by handlers that may be redelivered after ack_wait: a few times that.
OTHERS_DUPLICATE_WINDOW = 2 * _MINUTE
DEDUPE_BYTES_PER_ID = 230  # measured: 400,000 UUIDs, nats-server 2.15.1

# A batch is answered well inside a second; 30 s leave room for a PostgreSQL failover.
ACK_WAIT = 30 * _SECOND
# Jobs take seconds to hours, under a heartbeat: this is how long a job waits whose worker was killed.
JOBS_ACK_WAIT = 15 * _SECOND
# Unlimited: a long PostgreSQL outage must not use deliveries up. Poison is found and dead-lettered by the pipeline.
MAX_DELIVER = -1
# Above two fetches (one in hand, one asked for ahead) × replicas, where there are so many tenants that fetches are largest:
# 2 × 10,000 × 8. When it is reached, replicas starve while others hold messages.
MAX_ACK_PENDING = 160_000

# Job messages in hand of all workers: 100 workers with a handful of slots each.
JOBS_MAX_ACK_PENDING = 1_000

# The durables of the job stream, each a queue that scales by itself, and the kind of message each takes.
JOB_QUEUES = {
    "statements": "statements",
    "statements-items": "statements-items",
    "gl-export": "gl_export",
    "gateway": "gateway",
}
# What of a tenant whose gateway stalls waits for its turn counts as in hand: a queue's room for it. Until its circuit opens, some
# 15 s, that is what its charges come to, 1,000/s at most; when this is reached, every tenant waits.
GATEWAY_MAX_ACK_PENDING = 20_000

# The durable that pushes documents to the FHIR gateway, what it takes of the events, and its queue of dead letters sent again.
FHIR = "fhir"
FHIR_REPLAY = f"{FHIR}-replay"
FHIR_AGGREGATES = ("account", "charge", "invoice", "credit_note", "payment")
# Events in hand of all workers: 16 workers with 64 of one tenant each.
FHIR_MAX_ACK_PENDING = 2_000

# Headers and body of a command. A dead letter carries the whole command and its own story (reason 2 kB, subject 4 kB, ids) and
# must still fit the server's max_payload of 1 MiB: 16 kB below it. A publisher of more is told so by the server at once.
COMMANDS_MAX_MESSAGE_BYTES = 2**20 - 16 * 2**10

_API_TIMEOUT_SECONDS = 10.0
_NOT_FOUND = 404

# What the server or sanity forbids to change on something that exists.
_FIXED_OF_STREAM = ("storage", "retention")
_FIXED_OF_DURABLE = ("ack_policy", "deliver_policy")


class TopologyError(Exception):
    """A stream or durable cannot be brought to what is declared; nothing says so but a person's decision can fix it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What `reconcile` did; `fields` has, for an update, each drifted field's (before, after)."""

    action: str
    kind: str
    name: str
    fields: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        drift = ", ".join(f"{field}: {before!r} → {after!r}" for field, (before, after) in self.fields.items())
        return f"{self.action} {self.kind} {self.name}" + (f" ({drift})" if drift else "")


@dataclass(frozen=True, slots=True)
class _Declared:
    """A stream or durable as it should be, in the API's own names."""

    kind: str
    name: str
    info: str
    create: str
    update: str
    config: dict[str, Any]
    fixed: tuple[str, ...]

    def request(self, config: dict[str, Any], action: str) -> dict[str, Any]:
        if self.kind == "stream":
            return config
        return {"stream_name": self.name.split("/")[0], "config": config, "action": action}


def durable(group: str) -> str:
    """The durable of a consumer group on the command stream."""
    return group


def replay_durable(group: str) -> str:
    """The durable of a consumer group on the replay stream."""
    return f"{group}-replay"


def canary_durable(group: str) -> str:
    """The durable of a consumer group on the canary's subjects of the command stream."""
    return f"{group}-canary"


def command_durables(group: str) -> tuple[str, str]:
    """Both durables that a group's commands wait in."""
    return durable(group), canary_durable(group)


def command_subjects(group: str) -> list[str]:
    """What a consumer group consumes: `billing.v1.cmd.*.<aggregate>.*` for each of its aggregates."""
    return [f"{COMMAND_PREFIX}.*.{aggregate}.*" for aggregate in GROUPS[group]]


def canary_subjects(group: str) -> list[str]:
    """What the canary of a consumer group consumes: `billing.v1.canary.*.<aggregate>.*`."""
    return [f"{CANARY_PREFIX}.*.{aggregate}.*" for aggregate in GROUPS[group]]


def canary_mappings(weight_percent: int) -> dict[str, list[dict[str, str]]]:
    """The account's weighted subject mapping, as nats-server's configuration spells it; {} for a weight of 0.

    It works on what clients publish, before the stream: the publisher sees an ordinary PubAck, and duplicates are found
    whichever way each copy went. NATS checks permissions on the subject *after* the mapping.
    """
    if not weight_percent:
        return {}
    shares = {COMMAND_PREFIX: 100 - weight_percent, CANARY_PREFIX: weight_percent}
    destinations = [{"destination": f"{to}.$1.$2.$3", "weight": f"{share}%"} for to, share in shares.items()]
    return {f"{COMMAND_PREFIX}.*.*.*": destinations}


def stream_configs(*, replicas: int, dev: bool = False) -> dict[str, dict[str, Any]]:
    """Every stream's declared configuration by name, as the JetStream API spells it."""
    commands = [subject for group in GROUPS for subject in (*command_subjects(group), *canary_subjects(group))]
    streams = {
        COMMANDS_STREAM: _stream(commands, COMMANDS_MAX_AGE, COMMANDS_DUPLICATE_WINDOW, "Commands"),
        EVENTS_STREAM: _stream([f"{EVENT_PREFIX}.>"], EVENTS_MAX_AGE, EVENTS_DUPLICATE_WINDOW, "Events"),
        JOBS_STREAM: _stream([f"{JOB_PREFIX}.>"], JOBS_MAX_AGE, OTHERS_DUPLICATE_WINDOW, "Background jobs"),
        DLQ_STREAM: _stream([f"{DLQ_PREFIX}.>"], DLQ_MAX_AGE, OTHERS_DUPLICATE_WINDOW, "Dead letters with bodies"),
        REPLAY_STREAM: _stream([f"{REPLAY_PREFIX}.>"], REPLAY_MAX_AGE, OTHERS_DUPLICATE_WINDOW, "Replayed commands"),
    }
    streams[COMMANDS_STREAM]["max_msg_size"] = COMMANDS_MAX_MESSAGE_BYTES
    attempts = _stream([f"{ATTEMPT_PREFIX}.>"], ATTEMPTS_MAX_AGE, OTHERS_DUPLICATE_WINDOW, "Tries of suspects")
    streams[ATTEMPTS_STREAM] = attempts | {"max_msgs_per_subject": 1}  # only the last state of each counts
    if dev:
        audit = _stream([f"{AUDIT_PREFIX}.>"], AUDIT_MAX_AGE, EVENTS_DUPLICATE_WINDOW, "Audit, in dev only")
        streams[AUDIT_STREAM] = audit
    return {name: config | {"name": name, "num_replicas": replicas} for name, config in streams.items()}


def durable_configs() -> dict[tuple[str, str], dict[str, Any]]:
    """Every durable's declared configuration by (stream, durable), as the JetStream API spells it."""
    configs = {}
    for group in GROUPS:
        configs[COMMANDS_STREAM, durable(group)] = _durable(durable(group), command_subjects(group))
        configs[COMMANDS_STREAM, canary_durable(group)] = _durable(canary_durable(group), canary_subjects(group))
        replays = [f"{REPLAY_PREFIX}.{group}.>"]
        configs[REPLAY_STREAM, replay_durable(group)] = _durable(replay_durable(group), replays)
    for queue, kind in JOB_QUEUES.items():
        config = _durable(queue, [f"{JOB_PREFIX}.*.{kind}"])
        in_hand = GATEWAY_MAX_ACK_PENDING if queue == "gateway" else JOBS_MAX_ACK_PENDING
        configs[JOBS_STREAM, queue] = config | {"ack_wait": JOBS_ACK_WAIT, "max_ack_pending": in_hand}
    events = [f"{EVENT_PREFIX}.*.{aggregate}.*" for aggregate in FHIR_AGGREGATES]
    for stream, name, subjects in (
        (EVENTS_STREAM, FHIR, events),
        (REPLAY_STREAM, FHIR_REPLAY, [f"{REPLAY_PREFIX}.{FHIR}.>"]),
    ):
        config = _durable(name, subjects)
        configs[stream, name] = config | {"ack_wait": JOBS_ACK_WAIT, "max_ack_pending": FHIR_MAX_ACK_PENDING}
    return configs


async def reconcile(nc: Client, *, replicas: int, dev: bool = False) -> list[Change]:
    """Create what is missing and update what drifted; only declared fields are compared, all others are kept.

    Streams come first, then durables. Idempotent: the second run returns []. Raises TopologyError, before anything is
    changed, where a fixed field drifted; and when the server refuses a change, with its reason.
    """
    declared = _declared(replicas, dev)
    found = {item.name: await _found(nc, item) for item in declared}
    problems = [problem for item in declared for problem in _unchangeable(item, found[item.name])]
    if problems:
        raise TopologyError("; ".join(problems))
    changes = [await _apply(nc, item, found[item.name]) for item in declared]
    return [change for change in changes if change is not None]


async def _apply(nc: Client, item: _Declared, found: dict[str, Any] | None) -> Change | None:
    if found is None:
        await _changed(nc, item, item.create, item.request(item.config, "create"))
        return Change("created", item.kind, item.name, {})
    drift = _drift(item, found)
    if not drift:
        return None
    await _changed(nc, item, item.update, item.request(found | item.config, "update"))
    return Change("updated", item.kind, item.name, drift)


async def _found(nc: Client, item: _Declared) -> dict[str, Any] | None:
    response = await _api(nc, item.info, {})
    error = response.get("error")
    if error is not None and error["code"] == _NOT_FOUND:
        return None
    if error is not None:
        raise TopologyError(f"{item.kind} {item.name}: {error['description']}")
    config: dict[str, Any] = response["config"]
    if item.kind == "durable" and (single := config.pop("filter_subject", None)):
        config["filter_subjects"] = [single]  # one filter has two spellings; sending both is refused
    return config


async def _changed(nc: Client, item: _Declared, subject: str, body: dict[str, Any]) -> None:
    response = await _api(nc, subject, body)
    if error := response.get("error"):
        raise TopologyError(f"{item.kind} {item.name}: the server refuses: {error['description']}")


async def _api(nc: Client, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await nc.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=_API_TIMEOUT_SECONDS)
    response: dict[str, Any] = json.loads(answer.data)
    return response


def _drift(item: _Declared, found: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        field: (found.get(field), wanted)
        for field, wanted in item.config.items()
        if _comparable(found.get(field)) != _comparable(wanted)
    }


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _unchangeable(item: _Declared, found: dict[str, Any] | None) -> list[str]:
    drift = _drift(item, found) if found is not None else {}
    return [
        f"{item.kind} {item.name}: {field} is {drift[field][0]!r}, must be {drift[field][1]!r}, and cannot be changed "
        "in place: move its messages or delete it by hand"
        for field in item.fixed
        if field in drift
    ]


def _declared(replicas: int, dev: bool) -> list[_Declared]:
    streams = [
        _Declared(
            kind="stream",
            name=name,
            info=f"STREAM.INFO.{name}",
            create=f"STREAM.CREATE.{name}",
            update=f"STREAM.UPDATE.{name}",
            config=config,
            fixed=_FIXED_OF_STREAM,
        )
        for name, config in stream_configs(replicas=replicas, dev=dev).items()
    ]
    durables = [
        _Declared(
            kind="durable",
            name=f"{stream}/{name}",
            info=f"CONSUMER.INFO.{stream}.{name}",
            create=f"CONSUMER.CREATE.{stream}.{name}",
            update=f"CONSUMER.CREATE.{stream}.{name}",
            config=config,
            fixed=_FIXED_OF_DURABLE,
        )
        for (stream, name), config in durable_configs().items()
    ]
    return streams + durables


def _stream(subjects: list[str], max_age: int, duplicate_window: int, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "subjects": subjects,
        "storage": "file",
        # Not a work queue: that refuses a second overlapping consumer, so it could not be replayed, and forgets bodies.
        "retention": "limits",
        "discard": "new",
        "max_age": max_age,
        "duplicate_window": duplicate_window,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "allow_atomic": True,
    }


def _durable(name: str, filter_subjects: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "durable_name": name,
        "filter_subjects": filter_subjects,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT,
        "max_deliver": MAX_DELIVER,
        "max_ack_pending": MAX_ACK_PENDING,
    }
