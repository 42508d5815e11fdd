"""Who may publish and subscribe to what on NATS: one table per role, shared by the dev stack and the Helm chart.

Inboxes: roles use the client's default `_INBOX.<random>`; a tenant may only listen below `_INBOX.<tenant>.`
(nats-py: `inbox_prefix=b"_INBOX.<tenant>"`), so that no tenant can hear another's outcomes.

Events: a tenant may make and read exactly one consumer of BILLING_EVENTS, the durable `tenant-<tenant>`. JetStream
carries the consumer's name and filter subject in the API subject and refuses a body that says otherwise, so these
permissions bind both.
"""

from typing import NamedTuple

from adapters.gateways.facts import WEBHOOK_COMMANDS
from schemas.registry import COMMANDS
from schemas.subjects import COMMAND_PREFIX, both_ways

CONSUMED_BY_HANDLERS = ("BILLING_COMMANDS", "BILLING_REPLAY", "BILLING_JOBS")
CONSUMED_BY_WORKER = ("BILLING_JOBS", "BILLING_REPLAY", "BILLING_EVENTS")

_LOOK = ("$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.INFO.>")


# Workers write through these (docs/decisions/0010); nobody else may.
INTERNAL_COMMANDS = tuple(
    subject for spec in COMMANDS.values() if spec.internal for subject in both_ways(f"{COMMAND_PREFIX}.*.{spec.name}")
)
# NATS checks what a subject mapping made of a subject: whoever sends commands needs the canary's subjects too, and whoever may
# not send some must be refused both.
_COMMANDS = both_ways(f"{COMMAND_PREFIX}.>")


# What gateways tell by webhook comes through the shim: these internal commands, and no others.
_NOT_BY_WEBHOOK = tuple(
    subject for subject in INTERNAL_COMMANDS if not subject.endswith(tuple(f".{name}" for name in WEBHOOK_COMMANDS))
)


class Permissions(NamedTuple):
    """Subjects a user may publish to and subscribe to; everything else is refused, and `publish_denied` from what is allowed."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publish_denied: tuple[str, ...] = ()


def _consume(*streams: str) -> tuple[str, ...]:
    return tuple(
        subject for stream in streams for subject in (f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>", f"$JS.ACK.{stream}.>")
    )


ROLES: dict[str, Permissions] = {
    # `billing migrate`: declares streams and durables.
    "admin": Permissions(publish=(">",), subscribe=(">",)),
    "handlers": Permissions(
        publish=(
            *_LOOK,
            *_consume(*CONSUMED_BY_HANDLERS),
            "$JS.API.DIRECT.GET.BILLING_COMMANDS",  # the age of the oldest command
            "$JS.API.DIRECT.GET.BILLING_REPLAY",
            "$JS.API.STREAM.MSG.GET.BILLING_ATTEMPTS",  # whether a suspect came back from its last try
            "_INBOX.>",
            "audit.v1.billing.>",  # of dead letters and queries, while PostgreSQL is away
            "billing.v1.attempt.>",
            "billing.v1.dlq.>",
        ),
        subscribe=("billing.v1.qry.>", "_INBOX.>"),
    ),
    "worker": Permissions(
        publish=(
            *_LOOK,
            *_consume(*CONSUMED_BY_WORKER),
            "$JS.API.DIRECT.GET.BILLING_JOBS",  # the age of the oldest job
            "$JS.API.DIRECT.GET.BILLING_EVENTS",  # and of the oldest event that was not pushed
            "billing.v1.evt.>",
            "billing.v1.job.>",
            *INTERNAL_COMMANDS,
            "audit.v1.billing.>",
            "billing.v1.dlq.>",
            "_INBOX.>",
        ),
        subscribe=("_INBOX.>",),
    ),
    "shim": Permissions(
        publish=(*_COMMANDS, "billing.v1.qry.>"), subscribe=("_INBOX.>",), publish_denied=_NOT_BY_WEBHOOK
    ),
    # A person at the command line: reads every stream, replays, sends commands; changes no stream.
    "operator": Permissions(
        publish=(
            *_LOOK,
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.MSG.GET.*",
            "$JS.API.DIRECT.GET.>",
            "$JS.API.CONSUMER.>",
            "$JS.ACK.>",
            *_COMMANDS,
            "billing.v1.qry.>",
            "billing.v1.replay.>",
            "billing.v1.dlq._resolved.>",  # what became of a dead letter; the letters themselves are the handlers'
            "audit.v1.billing.>",  # every run leaves its audit event
        ),
        subscribe=("_INBOX.>", "billing.v1.evt.>", "billing.v1.dlq.>"),
    ),
}


def tenant_user(tenant: str) -> str:
    return f"tenant-{tenant}"


def tenant_inbox_prefix(tenant: str) -> str:
    """The inbox prefix a tenant's client must be given."""
    return f"_INBOX.{tenant}"


def tenant_consumer(tenant: str) -> str:
    """The one consumer of BILLING_EVENTS that is the tenant's."""
    return f"tenant-{tenant}"


def tenant_permissions(tenant: str) -> Permissions:
    consumer = f"BILLING_EVENTS.{tenant_consumer(tenant)}"
    return Permissions(
        publish=(
            *both_ways(f"{COMMAND_PREFIX}.{tenant}.>"),
            f"billing.v1.qry.{tenant}.>",
            f"$JS.API.CONSUMER.CREATE.{consumer}.billing.v1.evt.{tenant}.>",
            f"$JS.API.CONSUMER.INFO.{consumer}",
            f"$JS.API.CONSUMER.DELETE.{consumer}",
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
            f"$JS.ACK.{consumer}.>",
            f"$JS.FC.{consumer}.>",
        ),
        subscribe=(f"{tenant_inbox_prefix(tenant)}.>", f"billing.v1.evt.{tenant}.>"),
        publish_denied=INTERNAL_COMMANDS,
    )
