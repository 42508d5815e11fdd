"""One run: a database and a NATS server of its own, a stream full of payments, one consumer, the relay, and a clock."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import nats
from nats.aio.client import Client

from schemas.tenant import TenantProfile
from tools.bench import load, observe, throughput, workload
from tools.bench.observe import CpuMeter
from tools.bench.ordinary import GROUP
from tools.bench.proof import prove
from tools.bench.rig import TEMPLATE
from tools.bench.throughput import Throughput
from tools.bench.variants import MESH, Variant, consumer
from tools.bench.workload import Workload
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.role_process import RoleProcess, ServiceRole

Progress = Callable[[str, int], None]
# Each tenant's books take a tenth of a second to verify; with a thousand of them a sample has to do.
_VERIFIED_TENANTS = 50


class Conditions(NamedTuple):
    """What a run differs in. `warm_up`: payments consumed before the clock, so that pools and plans are there when it starts.

    `relay`: whether `billing worker` runs; where it does not, it is started afterwards and its rate is taken.
    `handlers`, `workers`: processes of each.
    """

    warm_up: int = 2_000
    relay: bool = True
    env: tuple[tuple[str, str], ...] = ()
    handlers: int = 1
    workers: int = 1


class Cost(NamedTuple):
    """What the payments of a run cost beside CPU. Sizes are means; memory is at the end of the run."""

    wal_bytes: float
    memory_mb: dict[str, float]
    batch_size: float
    transaction_size: float


class Result(NamedTuple):
    """A run's figures; lone commands in milliseconds, empty where none were sent. `relay_per_second`: see Conditions."""

    variant: Variant
    throughput: Throughput
    lone_ms: list[float]
    lone_http_ms: list[float]
    cost: Cost
    relay_per_second: float | None = None


AS_SHIPPED = Conditions()


def run(
    stack: Stack,
    profiles: list[TenantProfile],
    work: Workload,
    variant: Variant,
    *,
    progress: Progress,
    conditions: Conditions = AS_SHIPPED,
    lone: int = 0,
) -> Result:
    """One run of a variant. With `lone`, so many single commands afterwards, over NATS, and for the mesh over HTTP.

    Raises BenchError where a promise does not hold afterwards, StackError where something does not start.
    """
    roles: tuple[ServiceRole, ...] = ("worker",) if conditions.relay else ()
    with Mesh.isolated(stack, template=TEMPLATE, roles=roles, env=dict(conditions.env)) as mesh:
        mesh.tenants.add(*profiles)
        process = consumer(mesh, variant)
        others = [mesh.add_process("handlers", f"handlers-{number}") for number in range(2, conditions.handlers + 1)]
        for number in range(2, conditions.workers + 1):
            mesh.add_process("worker", f"worker-{number}").launch()
        try:
            return asyncio.run(_run(mesh, [process, *others], work, variant, conditions, lone, progress))
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
    with Mesh.isolated(stack, template=TEMPLATE, roles=("worker",)) as mesh:
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
        await asyncio.to_thread(process.start)
        return await _throughput(nc, mesh, [process], work, label, progress, relay=True)
    finally:
        await nc.close()


async def _run(
    mesh: Mesh,
    consumers: list[RoleProcess],
    work: Workload,
    variant: Variant,
    conditions: Conditions,
    lone: int,
    progress: Progress,
) -> Result:
    nc, process = await nats.connect(mesh.nats_url("admin")), consumers[0]
    try:
        await asyncio.to_thread(_start, consumers, [each for each in mesh if each not in consumers])
        await _warm_up(nc, work._replace(payments=conditions.warm_up), conditions.relay)
        wal, sizes = observe.wal_bytes(mesh.stack.postgres), _sizes(process, variant)
        measured = await _throughput(nc, mesh, consumers, work, str(variant), progress, relay=conditions.relay)
        cost = _cost(mesh, process, variant, work, wal, sizes)
        drained = None if conditions.relay else await _drained(nc, mesh, work, conditions)
        await prove(mesh.dsn, work.tenant_ids[:_VERIFIED_TENANTS], work.payments + conditions.warm_up)
        lone_ms, lone_http_ms = await _lone(mesh, work, variant, lone) if lone else ([], [])
    finally:
        await nc.close()
    return Result(variant, measured, lone_ms, lone_http_ms, cost, drained)


def _start(consumers: Sequence[RoleProcess], launched: Sequence[RoleProcess]) -> None:
    for each in consumers:
        each.launch()
    for each in (*consumers, *launched):
        each.wait_ready()


async def _warm_up(nc: Client, work: Workload, relay: bool) -> None:
    before = (await observe.events(nc)).messages
    await workload.prefill(nc, work, lambda _done: None)
    await throughput.until_acknowledged(nc)
    if relay:
        await throughput.until_events(nc, before + work.payments)


async def _throughput(
    nc: Client, mesh: Mesh, consumers: list[RoleProcess], work: Workload, label: str, progress: Progress, *, relay: bool
) -> Throughput:
    await observe.pause(nc, GROUP)
    await workload.prefill(nc, work, lambda done: progress(f"{label}: filling the stream", done))
    # What earlier runs left to be written must not be written during this one.
    await asyncio.to_thread(mesh.stack.postgres.execute, "CHECKPOINT")
    pids = {"postgres": mesh.stack.postgres.pid, "nats": mesh.nats.pid} | {each.name: each.pid for each in consumers}
    if relay:
        pids |= {each.name: each.pid for each in mesh if each.role == "worker"}
    measured = await throughput.measure(
        nc, work.payments, CpuMeter(pids), lambda done: progress(label, done), relay=relay
    )
    return measured._replace(cpu_seconds=_by_role(measured.cpu_seconds, {each.name for each in consumers}))


def _by_role(used: dict[str, float], consumers: set[str]) -> dict[str, float]:
    """Replicas of a role in one figure: `consumer`, `postgres`, `nats`, `worker`."""
    found: dict[str, float] = {}
    for name, seconds in used.items():
        role = "consumer" if name in consumers else "worker" if name.startswith("worker") else name
        found[role] = found.get(role, 0.0) + seconds
    return {role: found[role] for role in ("consumer", "postgres", "nats", "worker") if role in found}


async def _drained(nc: Client, mesh: Mesh, work: Workload, conditions: Conditions) -> float:
    """Events per second of a relay that finds all of them waiting: from the first it stores to the last."""
    payments = work.payments + conditions.warm_up
    await asyncio.to_thread(mesh.add_process("worker").start)
    await throughput.until_events(nc, payments)
    first_at, last_at = await observe.stored_at(nc, 1), await observe.stored_at(nc, payments)
    return payments / max(1e-3, last_at - first_at)


def _cost(
    mesh: Mesh, process: RoleProcess, variant: Variant, work: Workload, wal: int, before: tuple[float, ...]
) -> Cost:
    roles = {"consumer": process.pid(), "nats": mesh.nats.pid(), "postgres": mesh.stack.postgres.pid()}
    roles |= {each.name: each.pid() for each in mesh if each.is_running() and each is not process}
    batches, messages, transactions, commands = (
        now - then for now, then in zip(_sizes(process, variant), before, strict=True)
    )
    return Cost(
        wal_bytes=(observe.wal_bytes(mesh.stack.postgres) - wal) / work.payments,
        memory_mb={name: round(observe.memory_mb(pid), 1) for name, pid in roles.items()},
        batch_size=messages / batches if batches else 1.0,
        transaction_size=commands / transactions if transactions else 1.0,
    )


def _sizes(process: RoleProcess, variant: Variant) -> tuple[float, ...]:
    """Batches and their messages, transactions and their commands, so far; the ordinary way has one of each."""
    if variant.kind != MESH.kind:
        return (0.0,) * 4
    metrics = process.metrics()
    found = (observe.histogram(f"billing_command_{name}", metrics) for name in ("batch_size", "transaction_size"))
    return tuple(figure for pair in found for figure in pair)


async def _lone(mesh: Mesh, work: Workload, variant: Variant, count: int) -> tuple[list[float], list[float]]:
    if variant != MESH:
        return (await load.measure(mesh, work, "lone", "nats", turns=count)).figures.taken_ms["nats"], []
    await asyncio.to_thread(mesh.add_process("api").start)
    taken = (await load.measure(mesh, work, "lone", "nats", "http", turns=count)).figures.taken_ms
    return taken["nats"], taken["http"]
