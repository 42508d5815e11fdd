"""The database-only ceiling: the mesh's own transactions, set-based SQL and all, with no NATS in front and no relay behind."""

import asyncio
import os
import time
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any
from uuid import UUID

import uvloop

from adapters.postgres.database import Database
from adapters.postgres.load import load
from adapters.postgres.save import save
from domain.decision import Command
from domain.engine import execute, needs
from handlers.pipeline import TRANSACTION_COMMANDS
from schemas import headers
from schemas.registry import COMMANDS
from schemas.subjects import parse
from schemas.tenant import TenantProfile
from tools.bench.observe import BenchError
from tools.bench.rig import TEMPLATE
from tools.bench.workload import Message, Workload, payments
from tools.stack import Stack

_DATABASE = f"bench_ceiling_{os.getpid()}"
_POOL_SIZE = 10
_WARM_UP_BATCHES = 3


def measure(stack: Stack, profiles: list[TenantProfile], work: Workload, fetch: int) -> float:
    """Payments per second: each tenant's in transactions of its share of `fetch`, as the mesh has them, tenants side by side."""
    stack.postgres.create_database(_DATABASE, TEMPLATE)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(stack.postgres.dsn("billing_app", _DATABASE), profiles, work, fetch))
    finally:
        stack.postgres.drop_database(_DATABASE)


async def _measure(dsn: str, profiles: list[TenantProfile], work: Workload, fetch: int) -> float:
    size = max(1, min(TRANSACTION_COMMANDS, fetch // work.tenants))
    shares: dict[str, list[Command[Any]]] = {}
    known = {profile.tenant_id: profile for profile in profiles}
    warm_up = _WARM_UP_BATCHES * size * work.tenants
    for number, message in enumerate(islice(payments(work), warm_up + work.payments)):
        command = _command(known, message, number + 1)
        shares.setdefault(command.tenant.tenant_id, []).append(command)
    first = _WARM_UP_BATCHES * size
    database = Database(dsn, application_name="bench-ceiling", pool_size=_POOL_SIZE)
    try:
        await _apply_all(database, {tenant: commands[:first] for tenant, commands in shares.items()}, size)
        started = time.perf_counter()
        await _apply_all(database, {tenant: commands[first:] for tenant, commands in shares.items()}, size)
        return work.payments / (time.perf_counter() - started)
    finally:
        await database.close()


async def _apply_all(database: Database, shares: dict[str, list[Command[Any]]], size: int) -> None:
    free = asyncio.Semaphore(_POOL_SIZE)
    async with asyncio.TaskGroup() as tasks:
        for tenant_id, commands in shares.items():
            tasks.create_task(_apply(database, free, tenant_id, commands, size))


async def _apply(
    database: Database, free: asyncio.Semaphore, tenant_id: str, commands: list[Command[Any]], size: int
) -> None:
    for start in range(0, len(commands), size):
        batch = commands[start : start + size]
        async with free, database.transaction(tenant_id) as transaction:
            snapshot = await load(transaction.connection, tenant_id, needs(batch))
            verdicts = execute(snapshot, batch)
            await save(transaction.connection, tenant_id, snapshot.changes())
        if any(verdict.status != "applied" for verdict in verdicts):
            raise BenchError("a payment of the ceiling was not applied")


def _command(known: dict[str, TenantProfile], message: Message, number: int) -> Command[Any]:
    address = parse(message.subject)
    if address is None:
        raise BenchError(f"not a command's subject: {message.subject}")
    return Command(
        tenant=known[address.tenant_id],
        name=address.name,
        command_id=UUID(message.headers[headers.MESSAGE_ID]),
        body=COMMANDS[address.name].payload.model_validate_json(message.body),
        payload_hash=sha256(message.body).digest(),
        recorded_at=datetime.now(UTC),
        stream_sequence=number,
        actor=message.headers[headers.ACTOR],
        correlation_id=message.headers[headers.CORRELATION_ID],
    )
