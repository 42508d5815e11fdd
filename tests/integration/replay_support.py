"""A mesh with payments in it, and `billing` as an operator runs it."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from adapters.nats.batch_publish import Publisher, Row
from adapters.nats.topology import COMMANDS_STREAM, REPLAY_STREAM
from schemas import headers
from schemas.registry import GROUPS
from schemas.subjects import command_subject
from schemas.wire_headers import encode_headers
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT

TIMEOUT_SECONDS = 90
_POLL_SECONDS = 0.05
_BATCH = 500
T = TypeVar("T")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Stdout as one JSON document: fails where anything else was printed."""
        return json.loads(self.out)


def arguments_of(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tools.cli", *arguments]


def environment(mesh: Mesh, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT_ROOT),
        "COLUMNS": "200",
        **mesh.env("operator"),
        **more,
    }


def billing(mesh: Mesh, *arguments: str, env: dict[str, str] | None = None) -> Result:
    result = subprocess.run(
        arguments_of(*arguments),
        env=environment(mesh, **(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return Result(result.returncode, result.stdout, result.stderr)


def act(mesh: Mesh, *arguments: str, env: dict[str, str] | None = None) -> Result:
    """`billing …` that is meant: executed, confirmed, with a reason, money allowed."""
    return billing(mesh, *arguments, "--execute", "--yes", "--allow-money", "--reason", "a test", "--json", env=env)


def on_nats(mesh: Mesh, use: Callable[[Client], Awaitable[T]]) -> T:
    """Runs `use(admin's connection)` from a synchronous test."""

    async def run() -> T:
        client = await nats.connect(mesh.nats_url("admin"))
        try:
            return await use(client)
        finally:
            await client.close()

    return in_thread(run())


def in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


async def publish(client: Client, tenant: str, name: str, bodies: list[dict[str, Any]], **more: str) -> list[str]:
    """In atomic batches; the command ids."""
    ids = [str(uuid.uuid4()) for _ in bodies]
    subject = command_subject(tenant, name)
    rows = [
        Row(subject, encode_headers({headers.MESSAGE_ID: each, **more}), json.dumps(body).encode())
        for each, body in zip(ids, bodies, strict=True)
    ]
    async with Publisher(client) as publisher:
        for start in range(0, len(rows), _BATCH):
            await publisher.publish_batch(rows[start : start + _BATCH])
    return ids


async def handled(client: Client, stream: str = COMMANDS_STREAM) -> None:
    """Until every group has handled everything in its queue: the server has no event for that."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for group in GROUPS:
            name = group if stream == COMMANDS_STREAM else f"{group}-replay"
            while True:
                info = await client.jetstream().consumer_info(stream, name)
                if not (info.num_pending or 0) + (info.num_ack_pending or 0):
                    break
                await asyncio.sleep(_POLL_SECONDS)


def account(account_id: str) -> dict[str, Any]:
    return {"account_id": account_id, "patient": "Patient/1", "currency": "AFN"}


def payment(account_id: str, amount_minor: int = 100, **more: Any) -> dict[str, Any]:
    amount = {"amount_minor": amount_minor, "currency": "AFN"}
    return {"account_id": account_id, "amount": amount, "method": "bank", **more}


async def paid(client: Client, tenant: str, count: int) -> list[str]:
    """An account with `count` payments of 1, 2, 3, … minor units; their command ids."""
    account_id = str(uuid.uuid4())
    await publish(client, tenant, "account.open", [account(account_id)])
    await handled(client)
    ids = await publish(client, tenant, "payment.record", [payment(account_id, 1 + each) for each in range(count)])
    await handled(client)
    return ids


def books(mesh: Mesh, *tenants: str) -> dict[str, tuple[int, str]]:
    """(ledger entries, head of the hash chain) by tenant; every check of `billing ledger verify` holds."""
    arguments = [argument for tenant in tenants for argument in ("--tenant", tenant)]
    verified = billing(mesh, "ledger", "verify", "--json", *arguments)
    assert verified.code == 0, verified.out
    return {row["tenant"]: (row["transfers"], row["head_hash"]) for row in verified.data["tenants"]}


def replayed(mesh: Mesh, run: str) -> list[Msg]:
    """What a run has put on the replay stream, checkpoints apart, in order."""
    found = on_nats(mesh, _replay_stream)
    return [message for message in found if (message.headers or {}).get(headers.REPLAY_ID) == run]


async def _replay_stream(client: Client) -> list[Msg]:
    """Read without acknowledgements: with them the server holds back what comes after the first thousand."""
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=60.0)
    subject = "billing.v1.replay.*.*.*.*"
    consumer = await client.jetstream().pull_subscribe(subject, stream=REPLAY_STREAM, config=config)
    waiting = (await consumer.consumer_info()).num_pending or 0
    messages: list[Msg] = []
    while len(messages) < waiting:
        messages += await consumer.fetch(min(_BATCH, waiting - len(messages)), timeout=TIMEOUT_SECONDS)
    return messages


def originals(messages: list[Msg]) -> list[int]:
    """The sequences in the command stream that replayed messages come from."""
    return [int((message.headers or {})[headers.REPLAY_SEQUENCE]) for message in messages]
