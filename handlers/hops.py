"""What a trace and a log line say of a message: which command, whose, and what it came to. Ids and codes only."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from adapters.telemetry import tracing
from handlers.inbound import Inbound, Malformed
from schemas.registry import COMMANDS

# A name nobody registered is the publisher's choice of words.
UNKNOWN = "unknown"


def ids(letter: Inbound | Malformed) -> dict[str, str | None]:
    """For log lines."""
    return {
        "tenant_id": letter.tenant_id,
        "command": known_name(letter.name),
        "command_id": str(letter.command_id),
        "trace_id": tracing.trace_id(letter.traceparent),
    }


def known_name(name: str) -> str:
    return name if name in COMMANDS else UNKNOWN


def begun(letter: Inbound | Malformed) -> Inbound | Malformed:
    """With a span of its own, where its trace is kept; what the command causes is then a child of that."""
    hop = tracing.hop(
        known_name(letter.name),
        "consumer",
        traceparent=letter.traceparent,
        attributes=lambda: _attributes(letter),
    )
    return letter if hop is None else letter._replace(hop=hop, traceparent=hop.traceparent)


def ended(letter: Inbound | Malformed, outcome: str, code: str | None = None, *, failed: bool = False) -> None:
    """A refusal is an answer; `failed` is for what went wrong with us or with the message."""
    if letter.hop is not None:
        said = {"billing.outcome": outcome} | ({"billing.code": code} if code else {})
        letter.hop.end(said, (code or outcome) if failed else None)


@contextmanager
def together(share: Sequence[Inbound], group: str) -> Iterator[None]:
    """The span of one transaction. It serves many commands: it is in the trace of the first that is kept, linked with each."""
    hops = [inbound.hop for inbound in share if inbound.hop is not None]
    if not hops:
        yield
        return
    attributes: dict[str, str | int] = {"billing.commands": len(share), "billing.group": group}
    with tracing.span("billing.batch", traceparent=hops[0].traceparent, attributes=attributes, links=hops):
        yield


def _attributes(letter: Inbound | Malformed) -> Mapping[str, str | int]:
    return {
        "messaging.system": "nats",
        "messaging.message.id": str(letter.command_id),
        "billing.tenant_id": letter.tenant_id,
        "billing.command_id": str(letter.command_id),
        "billing.delivered": letter.delivery.delivered,
    }
