"""The answer to a command: what the reply inbox, `command.get` and the HTTP shim all return."""

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from schemas.base import WireModel
from schemas.codes import Code


class Problem(WireModel):
    """A refusal. `details` holds ids, amounts and field paths, never names or notes of a patient."""

    code: Code
    message: str
    retryable: bool
    details: dict[str, Any] = Field(default_factory=dict)


class Outcome(WireModel):
    """`position` is the commit's WAL position (pg_lsn text): a query that carries it reads its own write."""

    command_id: UUID | None
    status: Literal["applied", "duplicate", "rejected"]
    result: dict[str, Any] | None = None
    error: Problem | None = None
    position: str | None = None


class Answer(WireModel):
    """The answer to a query: `result` or `error`."""

    result: dict[str, Any] | None = None
    error: Problem | None = None
    position: str | None = None


def problem(code: Code, message: str | None = None, /, **details: Any) -> Problem:
    """A refusal with its code's fixed `retryable` flag and, unless given, its standard text."""
    return Problem(code=code, message=message or code.meaning.text, retryable=code.retryable, details=details)
