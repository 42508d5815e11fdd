"""One look at everything that could grow: processes, connections, relations, streams, consumers, metrics."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psutil

from adapters.postgres.dsn import Connection
from tools.bench.observe import BenchError
from tools.stack.mesh import Mesh
from tools.stack.nats_server import NatsServer
from tools.stack.role_process import RoleProcess

ROLES = ("handlers", "worker", "api")
SERVERS = ("nats", "postgres")
_MEGABYTE = 2**20

_RELATIONS = """
SELECT relname, pg_relation_size(relid) AS bytes, pg_indexes_size(relid) AS index_bytes, n_tup_ins - n_tup_del AS rows,
       n_dead_tup AS dead
FROM pg_stat_user_tables
"""
_CONNECTIONS = """
SELECT usename::text, count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename LIKE 'billing%' GROUP BY 1
"""

Sample = dict[str, float]


async def sample(mesh: Mesh, connection: Connection) -> Sample:
    """Figures by dotted name; sizes in MB, counts otherwise. `connection` sees everything. Raises BenchError for a process
    that is gone."""
    processes, nats, metrics = await asyncio.gather(
        asyncio.to_thread(_processes, mesh),
        asyncio.to_thread(_nats, mesh.nats),
        asyncio.to_thread(_metrics, list(mesh)),
    )
    return processes | nats | metrics | await _postgres(connection)


def _processes(mesh: Mesh) -> Sample:
    pids: dict[str, Callable[[], int | None]] = {each.name: each.pid for each in mesh}
    pids |= {"nats": mesh.nats.pid, "postgres": mesh.stack.postgres.pid}
    found: Sample = {}
    for name, pid in pids.items():
        found |= _process(name, pid())
    return found


def _process(name: str, pid: int | None) -> Sample:
    """With its children: PostgreSQL is one process for each connection."""
    if pid is None:
        raise BenchError(f"{name} does not run any more; its log says why")
    process = psutil.Process(pid)
    figures = dict.fromkeys((f"{kind}.{name}" for kind in ("rss_mb", "pss_mb", "uss_mb", "files", "threads")), 0.0)
    for each in (process, *process.children(recursive=True)):
        try:
            memory, files, threads = each.memory_full_info(), each.num_fds(), each.num_threads()
        except psutil.NoSuchProcess:
            continue
        measured = (memory.rss / _MEGABYTE, memory.pss / _MEGABYTE, memory.uss / _MEGABYTE, files, threads)
        for key, value in zip(figures, measured, strict=True):
            figures[key] += value
    return {key: round(value, 2) for key, value in figures.items()}


def _nats(server: NatsServer) -> Sample:
    general, streams = server.monitor("varz"), server.monitor("jsz?acc=$G&consumers=true&config=true")
    return {
        "nats.connections": general["connections"],
        "nats.subscriptions": general["subscriptions"],
        "nats.slow_consumers": general["slow_consumers"],
        **of_streams(streams),
    }


def of_streams(document: Mapping[str, Any]) -> Sample:
    """Of a `/jsz?consumers=true&config=true` document: streams, consumers, and what of the commands waits or is in hand."""
    found: Sample = {"nats.ephemeral_consumers": 0, "nats.in_hand": 0, "commands.outstanding": 0}
    for account in document.get("account_details") or []:
        for stream in account.get("stream_detail") or []:
            name, state, consumers = stream["name"], stream["state"], stream.get("consumer_detail") or []
            found[f"stream_mb.{name}"] = round(state["bytes"] / _MEGABYTE, 2)
            found[f"messages.{name}"] = state["messages"]
            found[f"consumers.{name}"] = len(consumers)
            for consumer in consumers:
                found["nats.ephemeral_consumers"] += not consumer["config"].get("durable_name")
                found["nats.in_hand"] += consumer["num_ack_pending"]
                if name == "BILLING_COMMANDS":
                    found["commands.outstanding"] += consumer["num_pending"] + consumer["num_ack_pending"]
    return found


def _metrics(processes: Iterable[RoleProcess]) -> Sample:
    """How many series each role exposes: a label of an unbounded set shows here first."""
    return {
        f"series.{each.name}": sum(1 for line in each.metrics().splitlines() if line and not line.startswith("#"))
        for each in processes
    }


async def _postgres(connection: Connection) -> Sample:
    found: Sample = {"outbox.unsent": await connection.fetchval("SELECT count(*) FROM outbox")}
    for name, count in await connection.fetch(_CONNECTIONS):
        found[f"connections.{name}"] = count
    for name, size, index_size, rows, dead in await connection.fetch(_RELATIONS):
        if size + index_size:
            found[f"table_mb.{name}"] = round(size / _MEGABYTE, 3)
            found[f"index_mb.{name}"] = round(index_size / _MEGABYTE, 3)
            found[f"rows.{name}"], found[f"dead.{name}"] = rows, dead
    return found
