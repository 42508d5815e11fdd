"""Which messages of a stream are meant. What the server can decide (range, subjects) it decides; the rest is looked at here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from adapters.nats.topology import COMMANDS_STREAM, DLQ_STREAM, FHIR
from schemas import headers
from schemas.registry import GROUPS
from schemas.subjects import COMMAND_PREFIX, DLQ_PREFIX, TENANT, both_ways, parse
from tools.replay.errors import ReplayError
from tools.replay.predicates import Predicate
from tools.replay.stored import Stored


@dataclass(frozen=True)
class Selection:
    """Bounds are inclusive; None is the stream's own end. Empty lists select everything."""

    stream: str = COMMANDS_STREAM
    from_sequence: int | None = None
    to_sequence: int | None = None
    from_time: datetime | None = None
    to_time: datetime | None = None
    subjects: tuple[str, ...] = ()
    tenant: str | None = None
    group: str | None = None
    ids: tuple[str, ...] = ()
    header_predicates: tuple[str, ...] = ()
    body_predicates: tuple[str, ...] = ()
    sequences: tuple[int, ...] = ()
    _header: tuple[Predicate, ...] = field(default=(), init=False, repr=False, compare=False)
    _body: tuple[Predicate, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ReplayError naming what cannot be meant."""
        object.__setattr__(self, "_header", tuple(map(Predicate.parse, self.header_predicates)))
        object.__setattr__(self, "_body", tuple(map(Predicate.parse, self.body_predicates)))
        if self.tenant is not None and not TENANT.fullmatch(self.tenant):
            raise ReplayError(f"--tenant {self.tenant!r}: not a tenant id; 1 to 64 letters, digits, _ or -")
        # The FHIR push leaves dead letters too; commands it has none.
        groups = (*GROUPS, FHIR) if self.stream == DLQ_STREAM else tuple(GROUPS)
        if self.group is not None and self.group not in groups:
            raise ReplayError(f"there is no consumer group {self.group!r}; there are {', '.join(groups)}")
        if bad := [each for each in self.ids if headers.command_id(each) is None]:
            raise ReplayError(f"not command ids (<uuid>, lower case): {', '.join(bad[:3])}")
        if (self.from_sequence and self.from_time) or (self.to_sequence and self.to_time):
            raise ReplayError("a bound is a sequence or a time, not both")
        if self.from_sequence and self.to_sequence and self.from_sequence > self.to_sequence:
            raise ReplayError(f"sequences {self.from_sequence} to {self.to_sequence}: the end is before the start")
        if self.from_time and self.to_time and self.from_time > self.to_time:
            raise ReplayError(f"{self.from_time} to {self.to_time}: the end is before the start")

    @property
    def server_subjects(self) -> tuple[str, ...]:
        """The filters a consumer of the stream gets; () for all subjects."""
        if self.stream == COMMANDS_STREAM:
            # A command is meant wherever the broker stored it.
            asked = self.subjects or self._command_filters
            return tuple(dict.fromkeys(subject for pattern in asked for subject in both_ways(pattern)))
        if self.subjects:
            return self.subjects
        if self.stream == DLQ_STREAM:
            return (f"{DLQ_PREFIX}.{self.group or '*'}.{self.tenant or '*'}",)
        return ()

    @property
    def _command_filters(self) -> tuple[str, ...]:
        aggregates = GROUPS[self.group] if self.group else ("*",)
        return tuple(f"{COMMAND_PREFIX}.{self.tenant or '*'}.{aggregate}.*" for aggregate in aggregates)

    @property
    def needs_bodies(self) -> bool:
        return bool(self._body)

    def matches(self, stored: Stored) -> bool:
        """Whether a message that the server found is meant. Without a body, predicates on it do not hold."""
        address = parse(stored.subject)
        if self.tenant is not None and (address is None or address.tenant_id != self.tenant):
            return False
        if self.group is not None and self.stream == COMMANDS_STREAM:
            aggregate = address.name.partition(".")[0] if address else ""
            if aggregate not in GROUPS[self.group]:
                return False
        if self.sequences and stored.position not in self.sequences:
            return False
        if self.ids and str(headers.command_id(stored.message_id)) not in {each.split(":")[0] for each in self.ids}:
            return False
        return all(each.holds_for_header(stored.headers) for each in self._header) and all(
            each.holds_for_body(stored.data) for each in self._body
        )

    def as_json(self) -> dict[str, Any]:
        """Only what was given, for the checkpoint and the audit event."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
            if value not in (None, ()) and not name.startswith("_")
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Selection":
        given: dict[str, Any] = dict(data)
        for name in ("from_time", "to_time"):
            if name in given:
                given[name] = datetime.fromisoformat(given[name])
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**given)
