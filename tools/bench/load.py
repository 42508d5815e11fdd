"""A load on a mesh by a client process (tools/bench/load_client.py), and what each process of the mesh spent on it."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import Any, NamedTuple

import orjson

from tools.bench.load_client import Figures, Job, Kind, Way
from tools.bench.observe import BenchError, CpuMeter
from tools.bench.workload import Workload
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT

_READY_SECONDS = 30.0
_LATE_SECONDS = 60.0


class Load(NamedTuple):
    """Figures of one load. CPU in µs per command by process, the client's among them."""

    figures: Figures
    cpu_us: dict[str, float]

    @property
    def per_second(self) -> float:
        return sum(map(len, self.figures.taken_ms.values())) / self.figures.seconds


async def measure(mesh: Mesh, work: Workload, kind: Kind, *ways: Way, **given: Any) -> Load:
    """`given`: fields of Job. Raises BenchError with the client's own words where it fails."""
    over_http = "http" in ways
    tokens = {tenant: mesh.token(tenant) for tenant in work.tenant_ids} if over_http else {}
    job = Job(kind, ways, mesh.nats_url("admin"), mesh.http_url if over_http else "", tokens, work, **given)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tools.bench.load_client",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=PROJECT_ROOT,
        limit=2**26,  # a line of some hundred thousand latencies
    )
    try:
        return await _measured(process, job, CpuMeter(_pids(mesh)))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _measured(process: asyncio.subprocess.Process, job: Job, cpu: CpuMeter) -> Load:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise BenchError("the load client has no pipes")
    process.stdin.write(orjson.dumps(job._asdict() | {"workload": job.workload._asdict()}) + b"\n")
    async with asyncio.timeout(_READY_SECONDS):
        ready = await process.stdout.readline()
    if ready.strip() == b"ready":
        cpu.start()
        process.stdin.write(b"\n")
        async with asyncio.timeout(_LATE_SECONDS + job.seconds):
            answer = await process.stdout.readline()
        if answer:
            figures = Figures(**orjson.loads(answer))
            count = sum(map(len, figures.taken_ms.values()))
            used = cpu.seconds() | {"client": figures.cpu_seconds}
            return Load(figures, {name: seconds / count * 1e6 for name, seconds in used.items()})
    words = (await process.stderr.read()).decode(errors="replace").strip()
    raise BenchError(f"the load client failed: {words[-1_000:]}")


def _pids(mesh: Mesh) -> dict[str, Callable[[], int | None]]:
    servers: dict[str, Callable[[], int | None]] = {"postgres": mesh.stack.postgres.pid, "nats": mesh.nats.pid}
    return servers | {process.name: process.pid for process in mesh if process.is_running()}


def percentiles(taken_ms: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    cuts = quantiles(taken_ms, n=100, method="inclusive")
    return {f"p{percent}": round(cuts[percent - 1], 2) for percent in (50, 95, 99)}
