"""How many replicas a workload's queues call for: KEDA's formula, with the chart's numbers (charts/billing/values.yaml).

KEDA reports each durable's depth (waiting and in hand) and the HPA it makes wants one replica per `lag_per_replica` of it, takes
the largest over all durables of the workload, and keeps that between the bounds.
"""

from collections.abc import Mapping
from typing import NamedTuple

from adapters.nats.topology import (
    COMMANDS_STREAM,
    EVENTS_STREAM,
    FHIR,
    FHIR_REPLAY,
    JOB_QUEUES,
    JOBS_STREAM,
    REPLAY_STREAM,
    canary_durable,
    durable,
)
from adapters.nats.topology import replay_durable as replays
from schemas.registry import GROUPS


class Queue(NamedTuple):
    """A durable; `group` is what people call it: a consumer group, or a queue of jobs."""

    group: str
    stream: str
    durable: str


class Workload(NamedTuple):
    """What scales together: messages of depth that one replica is for, by queue."""

    min_replicas: int
    max_replicas: int
    lag_per_replica: Mapping[Queue, int]

    def wanted(self, depths: Mapping[Queue, int]) -> int:
        """Replicas for these depths; a queue whose depth is not known asks for none."""
        asked = [_ceiling(depth, self.lag_per_replica[queue]) for queue, depth in depths.items()]
        return min(self.max_replicas, max(self.min_replicas, *asked, 0))

    def with_lag(self, lag_per_replica: int) -> "Workload":
        return self._replace(lag_per_replica=dict.fromkeys(self.lag_per_replica, lag_per_replica))


# A replica applies a few thousand commands a second (docs/benchmarks.md): 1,000 waiting are a second's work or less.
COMMANDS_LAG_PER_REPLICA = 1_000
# Runs and exports take minutes to hours, chunks of statements seconds; a charge at a payment gateway about one, many at a time.
_JOBS_LAG_PER_REPLICA = {"statements": 2, "statements-items": 4, "gl-export": 2, "gateway": 100}
# Pushes take some 20 ms each, 16 at a time: a thousand are about two seconds.
FHIR_LAG_PER_REPLICA = 1_000

COMMANDS = tuple(Queue(group, COMMANDS_STREAM, durable(group)) for group in GROUPS)
REPLAYS = tuple(Queue(group, REPLAY_STREAM, replays(group)) for group in GROUPS)
CANARY = tuple(Queue(canary_durable(group), COMMANDS_STREAM, canary_durable(group)) for group in GROUPS)
JOBS = tuple(Queue(name, JOBS_STREAM, name) for name in JOB_QUEUES)
PUSHES = (Queue(FHIR, EVENTS_STREAM, FHIR), Queue(FHIR_REPLAY, REPLAY_STREAM, FHIR_REPLAY))

WORKLOADS: dict[str, Workload] = {
    "handlers": Workload(3, 10, dict.fromkeys((*COMMANDS, *REPLAYS), COMMANDS_LAG_PER_REPLICA)),
    "handlers-canary": Workload(1, 3, dict.fromkeys(CANARY, COMMANDS_LAG_PER_REPLICA)),
    "worker": Workload(
        2,
        6,
        {queue: _JOBS_LAG_PER_REPLICA[queue.durable] for queue in JOBS} | dict.fromkeys(PUSHES, FHIR_LAG_PER_REPLICA),
    ),
}


def workload_of(queue: Queue) -> str:
    return next(name for name, workload in WORKLOADS.items() if queue in workload.lag_per_replica)


def _ceiling(depth: int, lag: int) -> int:
    return -(-depth // lag)
