"""First application against replay: how fast commands that were applied before are applied again, to no effect.

python -m tools.bench.replay [--payments 50000] [--tenants 20]

Both rates are of one run on one mesh: the same commands, first from the command stream, then through `billing replay redeliver`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
import uuid
from os import environ
from typing import Any, NamedTuple

import nats
from nats.js.client import JetStreamContext

from adapters.nats.batch_publish import Publisher, Row
from adapters.nats.topology import COMMANDS_STREAM, REPLAY_STREAM, durable, replay_durable
from schemas import headers
from schemas.subjects import command_subject
from schemas.wire_headers import encode_headers
from tools.stack import Stack, StackError
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT

ACCOUNTS = 20  # per tenant
_BATCH = 500
_POLL_SECONDS = 0.02


class Measured(NamedTuple):
    """`same_ledgers`: entries and chain heads of every tenant are those of before the replay."""

    payments: int
    first_per_second: float
    replay_per_second: float
    ratio: float
    same_ledgers: bool


def measure(payments: int, tenants: int, *, stack: Stack | None = None, template: str | None = None) -> Measured:
    """Runs it on `stack` (started), or on one of its own. Raises StackError where a part does not start or fails."""
    names = [f"bench-{number}" for number in range(tenants)]
    if stack is None:
        with Stack("bench-replay", ephemeral=True) as own:
            return measure(payments, tenants, stack=own)
    with Mesh.isolated(stack, template=template, tenants=names, roles=("handlers", "worker")) as mesh:
        first = asyncio.run(_apply(mesh, names, payments))
        before = _heads(mesh, names)
        replay = asyncio.run(_replay(mesh, payments))
        rates = round(first), round(replay)
        return Measured(payments, *rates, round(rates[1] / rates[0], 2), _heads(mesh, names) == before)


async def _apply(mesh: Mesh, tenants: list[str], payments: int) -> float:
    """Payments per second from a stream filled while no handlers ran, process start excluded."""
    connection = await nats.connect(mesh.nats_url("admin"))
    try:
        jetstream = connection.jetstream()
        async with Publisher(connection) as publisher:
            await _publish(publisher, _accounts(tenants))
            await _drained(jetstream, COMMANDS_STREAM, durable("accounts"), ACCOUNTS * len(tenants))
            mesh["handlers"].stop()
            await _publish(publisher, _payments(tenants, payments))
        mesh["handlers"].launch()
        return await _drained(jetstream, COMMANDS_STREAM, durable("payments"), payments)
    finally:
        await connection.close()


async def _replay(mesh: Mesh, payments: int) -> float:
    """Commands per second while `billing replay redeliver` runs, its own start excluded."""
    connection = await nats.connect(mesh.nats_url("admin"))
    try:
        arguments = ("--group", "payments", "--execute", "--allow-money", "--yes", "--reason", "benchmark", "--json")
        acting = asyncio.to_thread(_billing, mesh, "replay", "redeliver", *arguments)
        rate = _drained(connection.jetstream(), REPLAY_STREAM, replay_durable("payments"), payments)
        return (await asyncio.gather(acting, rate))[1]
    finally:
        await connection.close()


async def _publish(publisher: Publisher, rows: list[Row]) -> None:
    for begin in range(0, len(rows), _BATCH):
        await publisher.publish_batch(rows[begin : begin + _BATCH])


def _accounts(tenants: list[str]) -> list[Row]:
    body = {"patient": "Patient/1", "currency": "AFN"}
    return [
        _row(tenant, "account.open", body | {"account_id": _account_id(tenant, number)})
        for tenant in tenants
        for number in range(ACCOUNTS)
    ]


def _payments(tenants: list[str], count: int) -> list[Row]:
    rows = []
    for number in range(count):
        tenant = tenants[number % len(tenants)]
        amount = {"amount_minor": 100 + number % 900, "currency": "AFN"}
        body = {"account_id": _account_id(tenant, number % ACCOUNTS), "amount": amount, "method": "cash"}
        rows.append(_row(tenant, "payment.record", body))
    return rows


def _row(tenant: str, name: str, body: dict[str, Any]) -> Row:
    block = encode_headers({headers.MESSAGE_ID: str(uuid.uuid4())})
    return Row(command_subject(tenant, name), block, json.dumps(body).encode())


def _account_id(tenant: str, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{number}"))


async def _drained(jetstream: JetStreamContext, stream: str, name: str, messages: int) -> float:
    """Waits until the durable has acknowledged so many; messages per second since it was last seen without any."""
    began = time.perf_counter()
    while True:
        info = await jetstream.consumer_info(stream, name)
        acknowledged = info.ack_floor.consumer_seq if info.ack_floor else 0
        if not acknowledged:
            began = time.perf_counter()
        if acknowledged >= messages:
            return acknowledged / (time.perf_counter() - began)
        await asyncio.sleep(_POLL_SECONDS)


def _heads(mesh: Mesh, tenants: list[str]) -> dict[str, tuple[int, str]]:
    chosen = [argument for tenant in tenants for argument in ("--tenant", tenant)]
    rows = json.loads(_billing(mesh, "ledger", "verify", *chosen, "--json"))["tenants"]
    return {row["tenant"]: (row["transfers"], row["head_hash"]) for row in rows}


def _billing(mesh: Mesh, *arguments: str) -> str:
    env = {"PATH": environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), **mesh.env("operator")}
    env["DATABASE_URL"] = mesh.dsn("billing_read")
    result = subprocess.run(
        [sys.executable, "-m", "tools.cli", *arguments], env=env, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise StackError(
            f"billing {' '.join(arguments[:2])} ended with {result.returncode}: {result.stderr.strip()[-500:]}"
        )
    return result.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payments", type=int, default=50_000)
    parser.add_argument("--tenants", type=int, default=20)
    given = parser.parse_args()
    print(json.dumps(measure(given.payments, given.tenants)._asdict()))


if __name__ == "__main__":
    main()
