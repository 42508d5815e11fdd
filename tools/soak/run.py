"""One soak: a mesh of its own, how much it can do, then half of that for as long as asked, and the books."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from statistics import median, quantiles
from typing import Any, NamedTuple

import asyncpg
import nats
from nats.aio.client import Client

from adapters.nats.topology import DLQ_STREAM, EVENTS_STREAM
from adapters.postgres.database import Database
from adapters.postgres.dsn import Connection
from adapters.postgres.verify import verify_tenant
from tools.bench import observe, throughput, workload
from tools.bench.observe import BenchError, CpuMeter
from tools.bench.ordinary import GROUP
from tools.bench.workload import Workload
from tools.soak.load import Load
from tools.soak.sampling import ROLES, Sample, sample
from tools.soak.verdicts import Recording, Verdict, Window
from tools.stack.mesh import Mesh

# Samples and windows are this long in a run of ten minutes and more.
SAMPLE_SECONDS = 10.0
FEWEST_SAMPLES = 60
# When more commands wait than come in this long, the mesh does not keep up, and waiting longer shows nothing new.
HOPELESS_SECONDS = 30.0
# Enough for full batches of ten tenants, and few enough that they are answered well inside a second.
_IN_FLIGHT = 2_000
_UNBOUNDED_PER_SECOND = 100_000
_SETTLE_SECONDS = 120.0
_POLL_SECONDS = 0.1


class Plan(NamedTuple):
    """`per_second` None: half of what can be done of the same work for `trial_seconds`; before it `trials` runs of
    `trial_payments` from a pre-filled stream, for comparison with the benchmark."""

    seconds: float = 1_800.0
    tenants: int = 10
    accounts: int = 100
    per_second: int | None = None
    trials: int = 3
    trial_payments: int = 10_000
    warm_up: int = 4_000
    trial_seconds: float = 20.0

    @property
    def sample_seconds(self) -> float:
        return min(SAMPLE_SECONDS, self.seconds / FEWEST_SAMPLES)


class Seen(NamedTuple):
    """What is shown while it runs."""

    stage: str
    done_seconds: float = 0.0
    latest: Mapping[str, float] = {}
    p99_ms: float = 0.0


class Result(NamedTuple):
    """`measured` empty where the rate was given. `facts` are verdicts that no sample is needed for."""

    plan: Plan
    measured: Mapping[str, float]
    recording: Recording
    sent: Mapping[str, int]
    facts: list[Verdict]
    cpu_us_per_command: Mapping[str, float]
    gave_up: bool


Told = Callable[[Seen], None]


async def soak(mesh: Mesh, plan: Plan, told: Told = lambda _seen: None) -> Result:
    """On a mesh that runs, with every role, and is thrown away afterwards. Raises BenchError where nothing moves, or a process
    is gone."""
    work = Workload(0, plan.tenants, plan.accounts)
    async with AsyncExitStack() as resources:
        nc = await nats.connect(mesh.nats_url("admin"))
        resources.push_async_callback(nc.close)
        connection: Connection = await asyncpg.connect(mesh.dsn("postgres"))
        resources.push_async_callback(connection.close)
        told(Seen("opening accounts"))
        await _seed(mesh, work)
        await _nothing_unsent(connection)
        measured = {} if plan.per_second else await _maximum(mesh, nc, work, plan, told)
        await _nothing_unsent(connection)
        before = await _inbox(connection)
        per_second = plan.per_second or max(1, round(measured["sustained_per_second"] / 2))
        load = Load(
            mesh, work, per_second=per_second, seconds=plan.seconds, window_seconds=max(1.0, plan.sample_seconds)
        )
        cpu = CpuMeter({each.name: each.pid for each in mesh} | _servers(mesh))
        cpu.start()
        at_seconds, series, gave_up = await _under_load(mesh, nc, connection, load, plan, told)
        commands = max(1, sum(load.sent.values()))
        used = {name: round(seconds / commands * 1e6, 1) for name, seconds in cpu.seconds().items()}
        told(Seen("verifying the books", plan.seconds))
        facts = [*_answered(load), *await _kept(mesh, nc, connection, work, load, before), *_logs(mesh)]
    recording = Recording(at_seconds, series, _windows(load), per_second)
    return Result(plan, measured, recording, dict(load.sent), facts, used, gave_up)


def _servers(mesh: Mesh) -> dict[str, Callable[[], int | None]]:
    return {"nats": mesh.nats.pid, "postgres": mesh.stack.postgres.pid}


async def _seed(mesh: Mesh, work: Workload) -> None:
    database = Database(mesh.dsn("billing_app"), application_name="soak-seed", pool_size=1)
    try:
        await workload.seed(database, [mesh.add_tenant(tenant) for tenant in work.tenant_ids], work)
    finally:
        await database.close()


async def _maximum(mesh: Mesh, nc: Client, work: Workload, plan: Plan, told: Told) -> dict[str, float]:
    """Payments per second from a pre-filled stream to the last event, as the benchmark measures them; and commands per second
    of the work of the soak itself, whose publishing and answering take their part of the same cores."""
    found = []
    pids = {"handlers": mesh["handlers"].pid}
    for number, payments in enumerate((plan.warm_up, *[plan.trial_payments] * plan.trials)):
        told(Seen(f"how much it can do: {number} of {plan.trials}"))
        await observe.pause(nc, GROUP)
        await workload.prefill(nc, work._replace(payments=payments), lambda _done: None)
        measured = await throughput.measure(nc, payments, CpuMeter(pids), lambda _done: None)
        found.append(measured.to_event_per_second)
    told(Seen("how much it can do of this work"))
    sustained = await _sustained(mesh, nc, work, plan.trial_seconds)
    return {"prefilled_per_second": round(median(found[1:]), 1), "sustained_per_second": round(sustained, 1)}


async def _sustained(mesh: Mesh, nc: Client, work: Workload, seconds: float) -> float:
    """Commands answered per second with always as many in flight, in the last three quarters of the time."""
    load = Load(
        mesh,
        work,
        per_second=_UNBOUNDED_PER_SECOND,
        seconds=seconds,
        window_seconds=seconds,
        most_unanswered=_IN_FLIGHT,
    )
    running = asyncio.create_task(load.run(nc))
    try:
        await asyncio.sleep(seconds / 4)
        before, began = load.answers.total(), time.monotonic()
        await asyncio.sleep(seconds * 3 / 4)
        rate = (load.answers.total() - before) / (time.monotonic() - began)
        load.stop()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return rate


async def _under_load(
    mesh: Mesh, nc: Client, connection: Connection, load: Load, plan: Plan, told: Told
) -> tuple[list[float], dict[str, list[float]], bool]:
    """Samples at a steady pace while the load runs; whether it was given up."""
    at_seconds: list[float] = []
    samples: list[Sample] = []
    gave_up = False
    running = asyncio.create_task(load.run(nc))
    started = time.monotonic()
    try:
        while (elapsed := time.monotonic() - started) < plan.seconds and not running.done():
            samples.append(await sample(mesh, connection))
            at_seconds.append(round(elapsed, 1))
            told(Seen("under load", elapsed, samples[-1], _latest_p99(load)))
            if load.unanswered > load.per_second * HOPELESS_SECONDS:
                gave_up = True
                break
            due = started + min(plan.seconds, len(samples) * plan.sample_seconds)
            await asyncio.wait([running], timeout=max(0.0, due - time.monotonic()))
        load.stop()
        told(Seen("waiting for the last answers", plan.seconds, samples[-1], _latest_p99(load)))
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    names = sorted({name for each in samples for name in each})
    return at_seconds, {name: [each.get(name, 0.0) for each in samples] for name in names}, gave_up


def _latest_p99(load: Load) -> float:
    seen = [window for window in load.windows["commands"][-2:] if len(window) > 1]
    return quantiles(seen[0], n=100, method="inclusive")[98] if seen else 0.0


def _windows(load: Load) -> dict[str, list[Window]]:
    found: dict[str, list[Window]] = {}
    for way, windows in load.windows.items():
        found[way] = []
        for number, window in enumerate(windows):
            if len(window) > 1:
                cuts = quantiles(window, n=100, method="inclusive")
                figures = (round(cuts[percent - 1], 2) for percent in (50, 95, 99))
                found[way].append(Window(number * load.window_seconds, len(window), *figures))
    return found


def _answered(load: Load) -> list[Verdict]:
    found = [_fact("commands without an answer", load.unanswered)]
    failures = ", ".join(f"{what} {count}" for what, count in load.failures.most_common(3))
    text = f"answers that are none of those expected{f': {failures}' if failures else ''}"
    return [*found, _fact(text, sum(load.failures.values()))]


async def _kept(
    mesh: Mesh, nc: Client, connection: Connection, work: Workload, load: Load, before: Counter[str]
) -> list[Verdict]:
    """Every command that was sent has its one effect and its events, and every tenant's books hold."""
    await _nothing_unsent(connection)
    applied = await _inbox(connection) - before
    missing = sum((load.sent - applied).values()) + sum((applied - load.sent).values())
    payments = await connection.fetchval(
        "SELECT (SELECT count(*) FROM payment) - (SELECT count(*) FROM inbox WHERE name = 'payment.record')"
    )
    events = await connection.fetchval("SELECT sum(event_sequence)::bigint FROM tenant_book")
    stored = (await nc.jetstream().stream_info(EVENTS_STREAM)).state.messages
    letters = (await nc.jetstream().stream_info(DLQ_STREAM)).state.messages
    return [
        _fact("commands sent and commands applied that are not the same", missing),
        _fact("payments more or less than their commands", abs(payments)),
        _fact("events more or less in the stream than in the books", abs(events - stored)),
        _fact("dead letters", letters),
        _fact("mismatches in the books (`billing ledger verify`, every tenant)", await _mismatches(mesh, work)),
    ]


async def _inbox(connection: Connection) -> Counter[str]:
    rows = await connection.fetch("SELECT name, count(*) FROM inbox WHERE status = 'applied' GROUP BY 1")
    return Counter({name: int(count) for name, count in rows})


async def _nothing_unsent(connection: Connection) -> None:
    """Returns when the outbox is empty. Raises BenchError after two minutes."""
    try:
        async with asyncio.timeout(_SETTLE_SECONDS):
            while True:
                if not await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise BenchError(f"the outbox is not empty after {_SETTLE_SECONDS:g} s without load") from None


async def _mismatches(mesh: Mesh, work: Workload) -> int:
    database, found = Database(mesh.dsn("billing_read"), application_name="soak-verify", pool_size=1), 0
    try:
        for tenant in work.tenant_ids:
            async with database.reading(tenant) as reading:
                found += len((await verify_tenant(reading, tenant)).mismatches)
    finally:
        await database.close()
    return found


def _logs(mesh: Mesh) -> list[Verdict]:
    """Nothing went wrong, so no role had anything to say about it."""
    found = []
    for role in ROLES:
        with mesh[role].log_path.open("rb") as lines:
            loud = sum(b'"level":"error"' in line or b'"level":"critical"' in line for line in lines)
        found.append(_fact(f"errors in the log of {role}", loud))
    return found


def _fact(what: str, count: float) -> Verdict:
    return Verdict(what, None, count, "0", "BROKEN" if count else "holds")


def document(result: Result, verdicts: list[Verdict], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON document: everything that was seen."""
    recording = result.recording
    return {
        "environment": dict(environment),
        "plan": result.plan._asdict(),
        "measured": dict(result.measured),
        "offered_per_second": recording.per_second,
        "gave_up": result.gave_up,
        "sent": dict(result.sent),
        "cpu_us_per_command": dict(result.cpu_us_per_command),
        "verdicts": [each._asdict() for each in verdicts],
        "at_seconds": list(recording.at_seconds),
        "series": {name: list(values) for name, values in recording.series.items()},
        "windows": {way: [window._asdict() for window in windows] for way, windows in recording.windows.items()},
    }
