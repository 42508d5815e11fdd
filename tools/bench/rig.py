"""One run: a database and a NATS server of its own, a stream full of payments, one consumer, the relay, and a clock."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import nats
from nats.aio.client import Client

from adapters.postgres import migrate
from adapters.postgres.database import Database
from schemas.tenant import TenantProfile
from tools.bench import latency, observe, throughput, workload
from tools.bench.observe import CpuMeter
from tools.bench.ordinary import GROUP
from tools.bench.proof import prove
from tools.bench.throughput import Throughput
from tools.bench.variants import MESH, Variant, consumer
from tools.bench.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.role_process import RoleProcess

_TEMPLATE = "bench_template"

Progress = Callable[[str, int], None]


class Result(NamedTuple):
    """A run's figures; lone commands in milliseconds, empty where none were sent."""

    variant: Variant
    throughput: Throughput
    lone_ms: list[float]
    lone_http_ms: list[float]


@contextmanager
def rig(work: Workload, stack: Stack | None = None) -> Iterator[tuple[Stack, list[TenantProfile]]]:
    """A stack (its own, unless given one that runs) with a migrated template database that has the tenants' accounts."""
    owned = None if stack else Stack(f"bench-{os.getpid()}", ephemeral=True)
    running = stack or (owned.start() if owned else None)
    if running is None:
        raise AssertionError("either was given or is owned")
    try:
        running.postgres.create_database(_TEMPLATE)
        migrate.upgrade(running.postgres.dsn("billing_owner", _TEMPLATE))
        profile = Mesh(running).profile("any")
        profiles = [profile.model_copy(update={"tenant_id": each, "name": each}) for each in work.tenant_ids]
        asyncio.run(_seed(running, profiles, work))
        yield running, profiles
    finally:
        running.postgres.drop_database(_TEMPLATE)
        if owned:
            owned.stop()


async def _seed(stack: Stack, profiles: list[TenantProfile], work: Workload) -> None:
    database = Database(stack.postgres.dsn("billing_app", _TEMPLATE), application_name="bench-seed", pool_size=1)
    try:
        await workload.seed(database, profiles, work)
    finally:
        await database.close()


def run(
    stack: Stack, profiles: list[TenantProfile], work: Workload, variant: Variant, *, lone: int, progress: Progress
) -> Result:
    """One run of a variant. With `lone`, so many single commands afterwards, over NATS, and for the mesh over HTTP.

    Raises BenchError where a promise does not hold afterwards, StackError where something does not start.
    """
    with Mesh.isolated(stack, template=_TEMPLATE, roles=("worker",)) as mesh:
        mesh.tenants.add(*profiles)
        process = consumer(mesh, variant)
        try:
            return asyncio.run(_run(mesh, process, work, variant, lone, progress))
        finally:
            process.stop()


def fastest(
    stack: Stack,
    profiles: list[TenantProfile],
    work: Workload,
    variants: tuple[Variant, ...],
    progress: Progress,
) -> list[tuple[Variant, float]]:
    """Variants with their payments per second in a short run each, the fastest first. One mesh serves them in turn."""
    found = []
    with Mesh.isolated(stack, template=_TEMPLATE, roles=("worker",)) as mesh:
        mesh.tenants.add(*profiles)
        for variant in variants:
            process = consumer(mesh, variant)
            try:
                measured = asyncio.run(_tried(mesh, process, work, str(variant), progress))
            finally:
                process.stop()
            found.append((variant, measured.per_second))
    return sorted(found, key=lambda each: each[1], reverse=True)


async def _tried(mesh: Mesh, process: RoleProcess, work: Workload, label: str, progress: Progress) -> Throughput:
    nc = await nats.connect(mesh.nats_url("admin"))
    try:
        return await _throughput(nc, mesh, process, work, label, progress)
    finally:
        await nc.close()


async def _run(
    mesh: Mesh, process: RoleProcess, work: Workload, variant: Variant, lone: int, progress: Progress
) -> Result:
    nc = await nats.connect(mesh.nats_url("admin"))
    try:
        await throughput.until_events(nc, work.seeded_events)
        measured = await _throughput(nc, mesh, process, work, str(variant), progress)
        await prove(mesh.dsn, work.tenant_ids, work.payments)
        lone_ms, lone_http_ms = await _lone(nc, mesh, work, variant, lone) if lone else ([], [])
    finally:
        await nc.close()
    return Result(variant, measured, lone_ms, lone_http_ms)


async def _throughput(
    nc: Client, mesh: Mesh, process: RoleProcess, work: Workload, label: str, progress: Progress
) -> Throughput:
    await observe.pause(nc, GROUP)
    await workload.prefill(nc, work, lambda done: progress(f"{label}: filling the stream", done))
    await asyncio.to_thread(process.start)
    # What earlier runs left to be written must not be written during this one.
    await asyncio.to_thread(mesh.stack.postgres.execute, "CHECKPOINT")
    postgres, server, worker = mesh.stack.postgres, mesh.nats, mesh["worker"]
    cpu = CpuMeter({"consumer": process.pid, "postgres": postgres.pid, "nats": server.pid, "worker": worker.pid})
    return await throughput.measure(nc, work.payments, cpu, lambda done: progress(label, done))


async def _lone(
    nc: Client, mesh: Mesh, work: Workload, variant: Variant, count: int
) -> tuple[list[float], list[float]]:
    over_nats = await latency.over_nats(nc, work, count)
    if variant != MESH:
        return over_nats, []
    await asyncio.to_thread(mesh.add_process("api").start)
    return over_nats, await latency.over_http(mesh, work, count)
