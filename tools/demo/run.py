"""Runs the demo: a mesh of its own, the three days at once, then the books and the promises."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats
from rich.console import Console

from adapters.postgres.database import Database
from tools.demo import report
from tools.demo.channels import HttpChannel, NatsChannel
from tools.demo.checks import Books, Check, books, checks
from tools.demo.hospital import Hospital
from tools.demo.story import CURRENCIES, STORIES, tenants
from tools.stack import Stack
from tools.stack.mesh import Mesh

MALFORMED = 2  # sent by the story of Kabul
EVENTS_SECONDS = 20.0


class DemoBroken(Exception):
    """The day could not be lived to its end. The servers are gone; `logs` is where their logs are."""

    def __init__(self, what: str, logs: Path) -> None:
        super().__init__(what)
        self.logs = logs


def _kept_logs(directory: Path) -> Path:
    """Copies the logs of a stack that is about to be deleted."""
    kept = directory.with_name(f"{directory.name}-failed")
    shutil.rmtree(kept, ignore_errors=True)
    for log in directory.rglob("*.log"):
        target = kept / log.relative_to(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, target)
    return kept


def run(*, as_json: bool = False) -> tuple[bool, dict[str, Any]]:
    """Returns whether every promise held, and the figures. Prints tables to stdout unless `as_json`.

    Raises StackError where a server or a role does not start, DemoBroken where a command or query is not answered.
    """
    began = time.monotonic()
    progress = Console(stderr=True)
    console = Console(stderr=as_json)
    stack = Stack("demo", ephemeral=True)
    with progress.status("starting NATS, PostgreSQL and the roles"), Mesh(stack) as mesh:
        profiles = tenants(mesh.env("handlers")["REGION"])
        for profile in profiles:
            mesh.add_tenant(profile)
        started = time.monotonic()
        console.print(
            f"The mesh was started in {started - began:.1f} s: NATS JetStream, PostgreSQL 16, handlers, worker, HTTP shim.\n"
            "Three hospitals live a day, half over NATS, half over HTTP with JWTs.\n"
        )
        try:
            hospitals, all_books, held = asyncio.run(_day(mesh, [profile.tenant_id for profile in profiles]))
        except Exception as error:
            raise DemoBroken(f"{type(error).__name__}: {error}", _kept_logs(stack.directory)) from error
        if not as_json:
            report.show(console, hospitals, all_books)
            console.print(report.checks_panel(held, time.monotonic() - began))
    return all(check.holds for check in held), report.as_json(hospitals, all_books, held)


async def _day(mesh: Mesh, tenant_ids: Sequence[str]) -> tuple[list[Hospital], list[Books], list[Check]]:
    async with AsyncExitStack() as resources:
        hospitals = [await _hospital(mesh, tenant_id, resources) for tenant_id in tenant_ids]
        await asyncio.gather(*(STORIES[hospital.tenant_id](hospital) for hospital in hospitals))
        operator = await nats.connect(mesh.nats_url("admin"))
        resources.push_async_callback(operator.close)
        database = Database(mesh.dsn("billing_read"), application_name="billing-demo", pool_size=2)
        resources.push_async_callback(database.close)
        relay = Database(mesh.dsn("billing_app"), application_name="billing-demo", pool_size=1)
        resources.push_async_callback(relay.close)
        for hospital in hospitals:
            await _all_events_out(relay, hospital.tenant_id)
        all_books = [await books(mesh, hospital, database, operator) for hospital in hospitals]
        return hospitals, all_books, await checks(mesh, hospitals, all_books, operator, MALFORMED)


async def _hospital(mesh: Mesh, tenant_id: str, resources: AsyncExitStack) -> Hospital:
    channel = await NatsChannel.open(mesh, tenant_id)
    resources.push_async_callback(channel.connection.close)
    http = HttpChannel.open(mesh, tenant_id)
    resources.push_async_callback(http.client.aclose)
    return Hospital(tenant_id, CURRENCIES[tenant_id], channel, http)


async def _all_events_out(database: Database, tenant_id: str) -> None:
    """Waits for the relay: the last event is on its way a few milliseconds after the last outcome."""
    async with asyncio.timeout(EVENTS_SECONDS):
        while True:
            async with database.reading(tenant_id) as connection:
                waiting = (await connection.exec_driver_sql("SELECT count(*) FROM outbox")).scalar_one()
            if not waiting:
                return
            await asyncio.sleep(0.02)
