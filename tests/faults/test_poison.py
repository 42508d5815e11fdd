"""A command that kills the process every time it is tried: it ends in the dead letter stream, its neighbours in the books."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import nats
import pytest
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM, DLQ_STREAM
from adapters.postgres.database import Database
from schemas import headers
from schemas.subjects import command_subject
from tests.faults.deadly_handlers import DEADLY
from tests.fixtures.servers import TEMPLATE
from tests.integration.pipeline_support import stream_messages
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

NEIGHBOURS = 12
ACK_WAIT_SECONDS = 2  # 30 in production: five deaths would take three minutes


class Supervisor:
    """Starts the role again whenever it ends, as Kubernetes does. `deaths` counts the ends by SIGKILL."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), **env}
        self.deaths = 0

    async def run(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.faults.deadly_handlers",
                "handlers",
                env=self._env,
                cwd=PROJECT_ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
            self.deaths += code == -9


@asynccontextmanager
async def supervised(env: dict[str, str]) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(env)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_kills_the_process_is_dead_lettered_and_its_neighbours_are_applied(stack: Stack) -> None:
    with Mesh.isolated(stack, template=TEMPLATE, tenants=("kabul", "herat"), roles=()) as mesh:
        client = await nats.connect(mesh.nats_url("admin"))
        try:
            await _short_ack_wait(client)
            accounts = {tenant: str(uuid4()) for tenant in ("kabul", "herat")}
            deadly = await _publish_all(client, accounts)
            env = mesh.env("handlers") | {"HANDLER_GROUPS": "accounts,payments"}
            async with supervised(env) as supervisor, asyncio.timeout(150):
                letter = await _first_dead_letter(client)
                await _nothing_left(client)
            assert letter.data == deadly
            assert letter.headers[headers.DLQ_CODE] == "command_failed"
            assert "the process ended during each of 2 tries" in letter.headers[headers.DLQ_REASON]
            # Three among its neighbours, two alone: one more would be a message that was tried without a marker.
            assert supervisor.deaths == 5
            assert await _payments(mesh, "kabul") == NEIGHBOURS
            assert await _payments(mesh, "herat") == NEIGHBOURS
            assert len(await stream_messages(client, DLQ_STREAM, "billing.v1.dlq.>")) == 1
        finally:
            await client.close()


async def _publish_all(client: Client, accounts: dict[str, str]) -> bytes:
    """Accounts, then payments of both tenants with the deadly one in the middle; returns its body."""
    body = b""
    for tenant, account_id in accounts.items():
        opened = {"account_id": account_id, "patient": "Patient/1", "currency": "AFN"}
        await _publish(client, tenant, "account.open", opened)
    for number in range(2 * NEIGHBOURS):
        tenant = ("kabul", "herat")[number % 2]
        payment = {"account_id": accounts[tenant], "amount": {"amount_minor": 100, "currency": "AFN"}, "method": "bank"}
        if number == NEIGHBOURS:
            body = await _publish(client, "kabul", "payment.record", payment | {"reference": DEADLY})
        await _publish(client, tenant, "payment.record", payment)
    return body


async def _publish(client: Client, tenant: str, name: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    await client.jetstream().publish(command_subject(tenant, name), data, headers={headers.MESSAGE_ID: str(uuid4())})
    return data


async def _short_ack_wait(client: Client) -> None:
    """The declared durables, but for how long the server waits for a process that died."""
    for group in ("accounts", "payments"):
        info = json.loads((await client.request(f"$JS.API.CONSUMER.INFO.{COMMANDS_STREAM}.{group}")).data)
        config = info["config"] | {"ack_wait": ACK_WAIT_SECONDS * 1_000_000_000}
        request = {"stream_name": COMMANDS_STREAM, "config": config, "action": "update"}
        subject = f"$JS.API.CONSUMER.CREATE.{COMMANDS_STREAM}.{group}"
        assert "error" not in json.loads((await client.request(subject, json.dumps(request).encode())).data)


async def _first_dead_letter(client: Client) -> Any:
    subscription = await client.jetstream().subscribe("billing.v1.dlq.>", stream=DLQ_STREAM, ordered_consumer=True)
    return await subscription.next_msg(timeout=150)


async def _nothing_left(client: Client) -> None:
    """Until every payment is acknowledged or terminated; the server has no event for that, so it is asked."""
    while True:
        info = await client.jetstream().consumer_info(COMMANDS_STREAM, "payments")
        if not (info.num_pending or 0) + (info.num_ack_pending or 0):
            return
        await asyncio.sleep(0.1)


async def _payments(mesh: Mesh, tenant: str) -> int:
    database = Database(mesh.dsn("billing_read"), application_name="test", pool_size=1)
    try:
        async with database.reading(tenant) as connection:
            return int((await connection.exec_driver_sql("SELECT count(*) FROM payment")).scalar_one())
    finally:
        await database.close()
