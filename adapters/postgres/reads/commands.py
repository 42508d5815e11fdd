"""The stored outcome of a command."""

import json
from typing import Any

from sqlalchemy import bindparam, select

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.tables import inbox
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.report import CommandView, GetCommand

_COMMAND = select(inbox).where(owned(inbox), inbox.c.command_id == bindparam("command_id"))


async def get(asking: Asking, query: GetCommand) -> CommandView | Problem:
    """A command that was not applied yet, and one whose refusal was retryable, have no stored outcome."""
    parameters = {**asking.parameters, "command_id": query.command_id}
    row = (await asking.connection.execute(_COMMAND, parameters)).one_or_none()
    if row is None:
        return problem(Code.COMMAND_NOT_FOUND)
    return CommandView(
        command_id=row.command_id,
        name=row.name,
        status=row.status,
        result=_json(row.result),
        error=Problem.model_validate_json(row.error) if row.error is not None else None,
        payload_hash=row.payload_hash.hex(),
        sequence=row.sequence,
    )


def _json(text: str | None) -> dict[str, Any] | None:
    return None if text is None else dict(json.loads(text))
