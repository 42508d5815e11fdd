"""The command stream applied to an empty database, in the order in which the live system executed it.

Stream order is not that order: consumer groups run beside each other, and a message that was given back came later. The live
inbox has it (`sequence`), and where each command stands in the stream (`stream_sequence`). What outside services said at
the time (entitlement, charge codes) is not in the stream: it is taken from the stored outcome.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from sqlalchemy import bindparam, select

from adapters.nats.topology import COMMANDS_STREAM
from adapters.postgres.database import Database
from adapters.postgres.load import load
from adapters.postgres.save import save
from adapters.postgres.tables import inbox
from domain import engine
from domain.decision import Command
from handlers.inbound import Inbound, decode
from handlers.prepare import Preparation
from handlers.waits import Waits
from schemas.codes import Code, Stage
from schemas.outcome import Problem
from schemas.subjects import command_of
from schemas.tenant import TenantProfile
from tools.replay.errors import ReplayAway, ReplayError
from tools.replay.stored import Stored

BATCH = 500
GET_TIMEOUT_SECONDS = 5.0
_SERVER_HEADERS = ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp")

# Sequences of the command stream to messages, in any order; what it no longer holds is left out.
Fetch = Callable[[Sequence[int]], Awaitable[list[Stored]]]

_ORDER = (
    select(
        inbox.c.sequence,
        inbox.c.stream_sequence,
        inbox.c.command_id,
        inbox.c.status,
        inbox.c.error,
        inbox.c.payload_hash,
    )
    .where(inbox.c.sequence > bindparam("after"), inbox.c.sequence <= bindparam("last"))
    .order_by(inbox.c.sequence)
    .limit(BATCH)
)


class Executed(NamedTuple):
    """A row of the live inbox."""

    sequence: int
    stream_sequence: int
    command_id: Any
    status: str
    error: str | None
    payload_hash: bytes


class Rebuilder:
    """Of one tenant at a time. `outside` counts refusals that were taken over from stored outcomes."""

    def __init__(self, nc: Client, live: Database, target: Database, preparation: Preparation, fetch: Fetch) -> None:
        self._nc, self._live, self._target = nc, live, target
        self._preparation, self._fetch = preparation, fetch
        self.outside = 0

    async def tenant(self, tenant_id: str, commands: int, progress: Callable[[int], None]) -> None:
        """Applies the tenant's first `commands` commands. Raises ReplayError naming the first that cannot be had."""
        done = 0
        while done < commands:
            rows = await self._order(tenant_id, done, commands)
            if not rows or rows[0].sequence != done + 1:
                raise ReplayError(f"{tenant_id}: the live inbox has no command {done + 1}")
            await self._apply(tenant_id, rows)
            done = rows[-1].sequence
            progress(done)

    async def _order(self, tenant_id: str, after: int, last: int) -> list[Executed]:
        async with self._live.reading(tenant_id) as connection:
            found = await connection.execute(_ORDER, {"after": after, "last": last})
            return [Executed(*row) for row in found]

    async def _apply(self, tenant_id: str, rows: Sequence[Executed]) -> None:
        messages = {each.sequence: each for each in await self._fetch([row.stream_sequence for row in rows])}
        missing = [row for row in rows if row.stream_sequence not in messages]
        if missing:
            raise ReplayError(
                f"{tenant_id}: command {missing[0].sequence} is message {missing[0].stream_sequence:,} of {COMMANDS_STREAM}, "
                f"which no longer holds it ({len(missing)} of these {len(rows)} are gone); rebuild with --archive from an export"
            )
        share = [self._inbound(tenant_id, row, messages[row.stream_sequence]) for row in rows]
        prepared = await self._preparation.commands(tenant_id, share, Waits())
        commands = [self._as_executed(row, command) for row, command in zip(rows, prepared, strict=True)]
        async with self._target.transaction(tenant_id) as transaction:
            snapshot = await load(transaction.connection, tenant_id, engine.needs(commands))
            for row, verdict in zip(rows, engine.execute(snapshot, commands), strict=True):
                if verdict.status != row.status:
                    raise ReplayError(
                        f"{tenant_id}: command {row.sequence} ({row.command_id}) was {row.status}, and is "
                        f"{verdict.status} {verdict.code or ''} in the rebuild"
                    )
            await save(transaction.connection, tenant_id, snapshot.changes())

    def _inbound(self, tenant_id: str, row: Executed, message: Stored) -> Inbound:
        decoded = decode(_as_delivered(self._nc, message))
        if not isinstance(decoded, Inbound):
            raise ReplayError(
                f"{tenant_id}: command {row.sequence} does not decode any more: {decoded.problem.message}"
            )
        if (decoded.command_id, decoded.payload_hash, decoded.tenant_id) != (
            row.command_id,
            row.payload_hash,
            tenant_id,
        ):
            body = "the same" if decoded.payload_hash == row.payload_hash else "another"
            raise ReplayError(
                f"{tenant_id}: command {row.sequence} is {row.command_id} in the inbox, and message {row.stream_sequence:,} of "
                f"the stream is {decoded.command_id} with {body} body"
            )
        return decoded

    def _as_executed(self, row: Executed, command: Command[Any]) -> Command[Any]:
        """With what the outside services said then, not now; nothing has to be waited for, the order is known."""
        problem = Problem.model_validate_json(row.error) if row.error else None
        refusal = problem if problem is not None and _from_outside(problem.code) else None
        self.outside += refusal is not None
        return command._replace(refusal=refusal, may_wait=False)


def _from_outside(code: Code) -> bool:
    return code == Code.CHARGE_CODE_UNKNOWN or (
        code.meaning.stage == Stage.AUTHORISATION and code not in (Code.TENANT_MISMATCH, Code.SCOPE_MISSING)
    )


async def known(preparation_directory: Any, tenant_id: str) -> TenantProfile:
    """Raises ReplayError for a tenant the directory does not know: its calendar and tax rules would be guesses."""
    profile = await preparation_directory.profile(tenant_id)
    if not isinstance(profile, TenantProfile):
        raise ReplayError(f"{tenant_id}: the tenant directory does not know it ({profile.code})")
    return profile


def from_live(nc: Client) -> Fetch:
    """By sequence, so that any order is as good as the stream's."""

    async def fetch(sequences: Sequence[int]) -> list[Stored]:
        found = await asyncio.gather(*(_message(nc, sequence) for sequence in sequences))
        return [each for each in found if each is not None]

    return fetch


def from_messages(messages: dict[int, Stored]) -> Fetch:
    """From an export held in memory."""

    async def fetch(sequences: Sequence[int]) -> list[Stored]:
        return [messages[sequence] for sequence in sequences if sequence in messages]

    return fetch


async def _message(nc: Client, sequence: int) -> Stored | None:
    request = orjson.dumps({"seq": sequence})
    try:
        answer = await nc.request(f"$JS.API.DIRECT.GET.{COMMANDS_STREAM}", request, timeout=GET_TIMEOUT_SECONDS)
    except (NatsError, TimeoutError) as error:
        raise ReplayAway(f"{COMMANDS_STREAM} does not answer ({type(error).__name__})") from None
    fields = dict(answer.headers or {})
    if "Nats-Time-Stamp" not in fields:
        return None
    return Stored(
        position=sequence,
        stream=COMMANDS_STREAM,
        sequence=sequence,
        subject=command_of(fields["Nats-Subject"]),
        headers={name: value for name, value in fields.items() if name not in _SERVER_HEADERS},
        data=answer.data,
        recorded_at=datetime.fromisoformat(fields["Nats-Time-Stamp"]),
    )


def _as_delivered(nc: Client, message: Stored) -> Msg:
    """As the durable would deliver it, so that it is decoded by the same code."""
    nanoseconds = int(message.recorded_at.timestamp()) * 1_000_000_000 + message.recorded_at.microsecond * 1_000
    reply = f"$JS.ACK.{COMMANDS_STREAM}.rebuild.1.{message.sequence}.{message.sequence}.{nanoseconds}.0"
    return Msg(_client=nc, subject=message.subject, reply=reply, data=message.data, headers=message.headers)
