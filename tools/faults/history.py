"""What was done to the mesh and what it said, in order, as JSON Lines: the checker's only other source than the servers."""

import time
from collections import Counter
from pathlib import Path
from typing import IO, Any, NamedTuple, Self
from uuid import UUID

import orjson


class Sent(NamedTuple):
    """A command whose PubAck came. `reference` is its number in a place that its effect carries, where it has one.

    `malformed` ones end as dead letters under their `message_id`; those with a `refused` are refused with that code; all others
    are to be applied. One that `follows` was sent before the command it names was answered: where a process died with that one,
    it may be refused as too early (handlers/waits.py).
    """

    tenant: str
    name: str
    command_id: UUID
    reference: str | None
    malformed: bool = False
    follows: bool = False
    refused: str = ""
    message_id: str = ""


class History:
    """`path` None keeps it in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self.sent: list[Sent] = []
        self.answers: dict[UUID, list[str]] = {}
        self.faults: Counter[str] = Counter()
        self.repeated = self.witnessed = self.over_http = 0
        self.reused: list[UUID] = []
        self.reuse_answers: list[tuple[UUID, str, str]] = []
        self.surprises: list[str] = []
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

    def sent_with_another_body(self, command_id: UUID) -> None:
        """After its first body was heard to be applied."""
        self.reused.append(command_id)
        self._write("sent_with_another_body", {"command_id": command_id})

    def reuse_answered(self, command_id: UUID, status: str, code: str) -> None:
        """What was said of another body under a command id."""
        self.reuse_answers.append((command_id, status, code))
        self._write("reuse_answered", {"command_id": command_id, "status": status, "code": code})

    def looked(self, command_id: UUID, committed: bool) -> None:
        """Whether a command was in PostgreSQL when somebody had just heard that it is."""
        self.witnessed += 1
        if not committed:
            self.surprise(f"{command_id} was called applied before it was committed")

    def surprise(self, what: str) -> None:
        """Something a client must never see."""
        self.surprises.append(what)
        self._write("surprise", {"what_happened": what})

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
