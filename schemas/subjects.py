"""Subjects on the wire (docs/decisions/0002): built here, parsed here, nowhere else."""

import re
from functools import lru_cache
from typing import NamedTuple

TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
COMMAND_PREFIX = "billing.v1.cmd"
# Where the broker's weighted mapping sends its share of the commands (docs/decisions/0040).
CANARY_PREFIX = "billing.v1.canary"
EVENT_PREFIX = "billing.v1.evt"
QUERY_PREFIX = "billing.v1.qry"
JOB_PREFIX = "billing.v1.job"
DLQ_PREFIX = "billing.v1.dlq"
REPLAY_PREFIX = "billing.v1.replay"
ATTEMPT_PREFIX = "billing.v1.attempt"
AUDIT_PREFIX = "audit.v1.billing"


class Address(NamedTuple):
    """Where a command or query was sent: the tenant and `<aggregate>.<verb>`."""

    tenant_id: str
    name: str


def command_subject(tenant_id: str, name: str) -> str:
    return f"{COMMAND_PREFIX}.{tenant_id}.{name}"


def command_of(subject: str) -> str:
    """The subject a command was published to, whichever group the broker gave it to: a canary subject stands for it.
    Every other subject is its own. Whatever shows, keeps or sends on a command's subject goes through here."""
    return COMMAND_PREFIX + subject.removeprefix(CANARY_PREFIX) if subject.startswith(f"{CANARY_PREFIX}.") else subject


def both_ways(pattern: str) -> tuple[str, ...]:
    """A command's subject, or a filter for some, with the canary's beside it: what a reader of all commands has to ask for."""
    if not (command := command_of(pattern)).startswith(f"{COMMAND_PREFIX}."):
        return (pattern,)
    return command, CANARY_PREFIX + command.removeprefix(COMMAND_PREFIX)


def event_subject(tenant_id: str, name: str) -> str:
    return f"{EVENT_PREFIX}.{tenant_id}.{name}"


def job_subject(tenant_id: str, kind: str) -> str:
    return f"{JOB_PREFIX}.{tenant_id}.{kind}"


def query_subject(tenant_id: str, name: str) -> str:
    return f"{QUERY_PREFIX}.{tenant_id}.{name}"


def dlq_subject(consumer: str, tenant_id: str) -> str:
    """The subject of a dead letter; `tenant_id` is `_` where the original subject names none that is valid."""
    return f"{DLQ_PREFIX}.{consumer}.{tenant_id if TENANT.fullmatch(tenant_id) else '_'}"


def attempt_subject(group: str, stream: str, sequence: int) -> str:
    """Where the marker of a suspect's try is kept (docs/decisions/0020)."""
    return f"{ATTEMPT_PREFIX}.{group}.{stream}.{sequence}"


def replay_subject(consumer: str, tenant_id: str, name: str) -> str:
    return f"{REPLAY_PREFIX}.{consumer}.{tenant_id}.{name}"


def audit_subject(tenant_id: str, name: str) -> str:
    """Where what became of a command, query or push is told; `tenant_id` may be `_`, as in a dead letter's subject."""
    return f"{AUDIT_PREFIX}.{tenant_id}.{name}"


@lru_cache(maxsize=4_096)  # of a tenant few subjects ever come; about 1 MB when full
def parse(subject: str) -> Address | None:
    """The address in a command, canary, query or replay subject; None where it is not of that form or names no valid tenant."""
    tokens = subject.split(".")
    if len(tokens) == 7 and subject.startswith(REPLAY_PREFIX + "."):
        tokens = [*tokens[:3], *tokens[4:]]
    if len(tokens) != 6 or not TENANT.fullmatch(tokens[3]):
        return None
    return Address(tokens[3], f"{tokens[4]}.{tokens[5]}")
