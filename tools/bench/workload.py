"""What is measured on: tenants with accounts, and payments of them waiting in the command stream."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID, uuid4, uuid5

import orjson
from nats.aio.client import Client

from adapters.postgres.database import Database
from adapters.postgres.load import load
from adapters.postgres.save import save
from domain.decision import Command
from domain.engine import execute, needs
from schemas import headers
from schemas.registry import COMMANDS
from schemas.subjects import command_subject
from schemas.tenant import TenantProfile

CURRENCY = "AFN"
PAYMENT = "payment.record"
_ACCOUNTS = UUID("6f0f5d0e-0d2b-5f6e-9d43-5d6d4c3b2a10")
_METHODS = ("cash", "bank", "mobile_money", "cheque")
# 4,000 unconfirmed publishes are nats-py's own limit; past 1,000 the server's fsync is the limit anyway (FACTS §2).
_PUBLISH_WINDOW = 1_000
_PUBLISH_TIMEOUT_SECONDS = 120.0


class Workload(NamedTuple):
    """`payments` spread evenly over `tenants` and over each one's `accounts`; neighbours in the stream differ in tenant.

    `hot`: nine of ten go to the first tenant's first account instead.
    """

    payments: int
    tenants: int
    accounts: int = 100
    hot: bool = False

    @property
    def tenant_ids(self) -> list[str]:
        return [f"hospital-{number:04}" for number in range(self.tenants)]


class Message(NamedTuple):
    """A command as it is published."""

    subject: str
    body: bytes
    headers: dict[str, str]


def payments(workload: Workload) -> Iterator[Message]:
    """Endless. Every payment is new; amounts, methods and accounts repeat."""
    tenant_ids, number = workload.tenant_ids, 0
    while True:
        is_hot = workload.hot and number % 10 > 0
        tenant_id = tenant_ids[0 if is_hot else number % workload.tenants]
        nth = 0 if is_hot else number // workload.tenants
        body = {
            "account_id": account_id(tenant_id, nth % workload.accounts),
            "amount": {"amount_minor": 1_000 + 37 * (number % 997), "currency": CURRENCY},
            "method": _METHODS[number // workload.tenants % len(_METHODS)],
            "reference": f"R-{number}",
        }
        fields = {headers.MESSAGE_ID: str(uuid4()), headers.ACTOR: "bench", headers.CORRELATION_ID: f"bench-{number}"}
        yield Message(command_subject(tenant_id, PAYMENT), orjson.dumps(body), fields)
        number += 1


async def prefill(nc: Client, workload: Workload, progress: Callable[[int], None]) -> None:
    """Publishes the payments asynchronously and waits until every one is stored. Raises what nats-py raises."""
    jetstream = nc.jetstream(publish_async_max_pending=_PUBLISH_WINDOW)
    async with asyncio.timeout(_PUBLISH_TIMEOUT_SECONDS + workload.payments / 500):
        acks = []
        for published, message in enumerate(islice(payments(workload), workload.payments), start=1):
            acks.append(await jetstream.publish_async(message.subject, message.body, headers=message.headers))
            if published % _PUBLISH_WINDOW == 0:
                progress(published)
        await asyncio.gather(*acks)
    progress(workload.payments)


async def seed(database: Database, profiles: list[TenantProfile], workload: Workload) -> None:
    """Opens every tenant's accounts, a tenant at a time, through the same load, execute and save as the mesh."""
    for profile in profiles:
        commands = [_open_account(profile, number) for number in range(workload.accounts)]
        async with database.transaction(profile.tenant_id) as transaction:
            snapshot = await load(transaction.connection, profile.tenant_id, needs(commands))
            execute(snapshot, commands)
            await save(transaction.connection, profile.tenant_id, snapshot.changes())


def account_id(tenant_id: str, number: int) -> UUID:
    return uuid5(_ACCOUNTS, f"{tenant_id}/{number}")


def _open_account(profile: TenantProfile, number: int) -> Command[Any]:
    body = {
        "account_id": account_id(profile.tenant_id, number),
        "patient": f"Patient/{number}",
        "currency": CURRENCY,
    }
    text = orjson.dumps(body)
    return Command(
        tenant=profile,
        name="account.open",
        command_id=uuid4(),
        body=COMMANDS["account.open"].payload.model_validate_json(text),
        payload_hash=sha256(text).digest(),
        recorded_at=datetime.now(UTC),
        stream_sequence=number + 1,
    )
