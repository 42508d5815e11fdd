"""Subjects on the wire (docs/decisions/0002): built here, parsed here, nowhere else."""

import re
from typing import NamedTuple

TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
COMMAND_PREFIX = "billing.v1.cmd"
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


def parse(subject: str) -> Address | None:
    """The address in a command, query or replay subject; None where it is not of that form or names no valid tenant."""
    tokens = subject.split(".")
    if len(tokens) == 7 and subject.startswith(REPLAY_PREFIX + "."):
        tokens = [*tokens[:3], *tokens[4:]]
    if len(tokens) != 6 or not TENANT.fullmatch(tokens[3]):
        return None
    return Address(tokens[3], f"{tokens[4]}.{tokens[5]}")
