"""What is said of a command, an event and a query, and which consumer group a command belongs to."""

from dataclasses import dataclass

from schemas.base import CommandBody, QueryBody, WireModel

# Consumer groups: one durable, one batch subscriber and one scaling rule each.
GROUPS: dict[str, tuple[str, ...]] = {
    "accounts": ("account", "pricelist", "period", "ledger"),
    "charges": ("charge",),
    "invoices": ("invoice", "credit_note"),
    "payments": ("payment",),
    "jobs": ("statement", "gl", "job"),
}


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """`money_moving` commands need an Idempotency-Key over HTTP and `--allow-money` in a replay.

    `internal` commands are published by workers only: no HTTP route, and no tenant's NATS user may send them.
    """

    name: str
    payload: type[CommandBody]
    result: type[WireModel]
    scope: str
    events: tuple[str, ...]
    summary: str
    money_moving: bool = False
    internal: bool = False

    @property
    def group(self) -> str:
        aggregate = self.name.split(".")[0]
        return next(group for group, aggregates in GROUPS.items() if aggregate in aggregates)


@dataclass(frozen=True, slots=True)
class EventSpec:
    name: str
    data: type[WireModel]
    summary: str


@dataclass(frozen=True, slots=True)
class QuerySpec:
    name: str
    request: type[QueryBody]
    result: type[WireModel]
    scope: str
    summary: str
    # After which the handlers give up; whoever asks has to wait a little longer, or work is done for nobody.
    timeout_seconds: float = 5.0
