"""What was done to the mesh and what it said, in order, as JSON Lines: the checker's only other source than the servers."""

import time
from collections import Counter
from pathlib import Path
from typing import IO, Any, NamedTuple, Self
from uuid import UUID

import orjson


class Sent(NamedTuple):
    """A command whose PubAck came. `reference` is its number in a place that its effect carries, where it has one.

    `malformed` ones end as dead letters; all others are to be applied. One that `follows` was sent before the command it names
    was answered: where a process died with that one, it may be refused as too early (handlers/waits.py).
    """

    tenant: str
    name: str
    command_id: UUID
    reference: str | None
    malformed: bool = False
    follows: bool = False


class History:
    """`path` None keeps it in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self.sent: list[Sent] = []
        self.answers: dict[UUID, list[str]] = {}
        self.faults: Counter[str] = Counter()
        self.repeated = 0
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            self._file.close()

    def acknowledged(self, sent: Sent) -> None:
        self.sent.append(sent)
        self._write("sent", sent._asdict())

    def sent_again(self, command_id: UUID) -> None:
        self.repeated += 1
        self._write("sent_again", {"command_id": command_id})

    def answered(self, command_id: UUID, status: str) -> None:
        self.answers.setdefault(command_id, []).append(status)
        self._write("answered", {"command_id": command_id, "status": status})

    def fault(self, name: str, phase: str) -> None:
        """`phase` is begins or ends."""
        self.faults[name] += phase == "begins"
        self._write("fault", {"name": name, "phase": phase})

    def _write(self, what: str, fields: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps({"at": time.time(), "what": what, **fields}) + b"\n")
