"""Commands and queries of one tenant, for the operator's commands that are more than one message."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uuid_utils
from nats.aio.client import Client
from nats.errors import NoRespondersError

from schemas.outcome import Answer, Problem
from schemas.subjects import TENANT, command_subject, query_subject
from tools.cli.command_client import CommandClient
from tools.cli.errors import UNAVAILABLE, USAGE, CliError
from tools.cli.servers import nats_client

TIMEOUT_SECONDS = 10.0


class MeshClient:
    """Raises CliError where nobody answers or the answer is no."""

    def __init__(self, connection: Client, commands: CommandClient, tenant: str) -> None:
        self.connection, self.tenant = connection, tenant
        self._commands = commands

    @classmethod
    @asynccontextmanager
    async def of(cls, tenant: str) -> AsyncIterator["MeshClient"]:
        """A client of a tenant, over the operator's connection."""
        if not TENANT.fullmatch(tenant):
            raise CliError(f"{tenant}: a tenant id is 1 to 64 letters, digits, _ or -", USAGE)
        async with nats_client() as connection, CommandClient.on(connection) as commands:
            yield cls(connection, commands, tenant)

    async def send(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a command that was applied."""
        published = await self._commands.send(
            command_subject(self.tenant, name),
            orjson.dumps(body, default=str),
            str(uuid_utils.uuid7()),
            actor=None,
            wait_seconds=TIMEOUT_SECONDS,
        )
        outcome = published.outcome
        if outcome is not None and outcome.error is not None:
            raise _refused(outcome.error)
        return (outcome.result if outcome is not None else None) or {}

    async def ask(self, name: str, **fields: Any) -> dict[str, Any]:
        """The result of a query."""
        subject = query_subject(self.tenant, name)
        given = {field: value for field, value in fields.items() if value is not None}
        try:
            reply = await self.connection.request(subject, orjson.dumps(given, default=str), timeout=TIMEOUT_SECONDS)
        except NoRespondersError:
            raise CliError(f"{subject}: nobody answers; `billing handlers` serves the queries", UNAVAILABLE) from None
        except TimeoutError:
            raise CliError(f"{subject}: no answer within {TIMEOUT_SECONDS:g} s", UNAVAILABLE) from None
        answer = Answer.model_validate_json(reply.data)
        if answer.error is not None:
            raise _refused(answer.error)
        return answer.result or {}


def _refused(error: Problem) -> CliError:
    details = f" {json.dumps(error.details)}" if error.details else ""
    return CliError(f"{error.code}: {error.message}{details}")
