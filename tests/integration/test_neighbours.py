"""Each client of an outside service × each way it can go wrong, against real servers over mTLS."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from adapters.neighbours.ai import LIMITS, Suggestions
from adapters.neighbours.client import PROBE_SECONDS, Neighbour
from adapters.neighbours.pools import Limits
from adapters.neighbours.ports import CodedItem
from adapters.neighbours.tenant import PATIENCE_SECONDS, HttpTenantDirectory
from adapters.neighbours.terminology import HttpTerminology
from adapters.tls import client_context
from schemas.charge import SuggestCodes
from schemas.codes import Code
from schemas.outcome import Problem
from schemas.tenant import TenantProfile
from tests.fixtures.sandbox import control, hospital, sandbox
from tools.sandbox.control import Control
from tools.sandbox.faults import Mode
from tools.sandbox.process import Sandbox

__all__ = ["control", "sandbox"]  # fixtures

LOINC = "http://loinc.org"
# Time-outs of the tests: what is slow has to be slower than `slow`, what stalls must not cost a test its minute.
QUICK = Limits(connect_seconds=1, read_seconds=0.6, deadline_seconds=0.8, tries=2)
SLOW_MS = 200
WELL = ("ok", "slow")
FAULTS: tuple[Mode, ...] = ("down", "fail", "stall", "slow", "malformed", "lie", "lose")
RECOVERY_SECONDS = 10.0  # far above PROBE_SECONDS: the box may be busy
# What a caller may be made to wait: its patience, and what scheduling on a busy box adds.
WAIT_SECONDS = PATIENCE_SECONDS + 1.0

AGAIN_SECONDS = PROBE_SECONDS / 10
T = TypeVar("T")


@asynccontextmanager
async def neighbour(sandbox: Sandbox, service: str, limits: Limits = QUICK) -> AsyncIterator[Neighbour]:
    opened = Neighbour(service, sandbox.url(service), tls=client_context(sandbox.tls_files), limits=limits)
    try:
        yield opened
    finally:
        await opened.aclose()


@asynccontextmanager
async def directory(sandbox: Sandbox, limits: Limits = QUICK, **seconds: float) -> AsyncIterator[HttpTenantDirectory]:
    async with neighbour(sandbox, "tenant-service", limits) as opened:
        found = HttpTenantDirectory(opened, **seconds)
        yield found
        await found.aclose()


@asynccontextmanager
async def terminology(sandbox: Sandbox, limits: Limits = QUICK, **seconds: float) -> AsyncIterator[HttpTerminology]:
    async with neighbour(sandbox, "terminology-service", limits) as opened:
        found = HttpTerminology(opened, **seconds)
        yield found
        await found.aclose()


class Row(NamedTuple):
    """`asks` puts a question nobody has asked before and says how it was answered: "ok" or the fallback."""

    service: str
    fallback: str
    asks: Callable[[Any], Awaitable[str]]


def a_tenant(control: Control) -> str:
    tenant = f"t-{uuid4().hex[:12]}"
    control.add_tenant(hospital(tenant))
    return tenant


def said(answer: TenantProfile | Problem | None) -> str:
    return str(answer.code) if isinstance(answer, Problem) else "ok"


async def new_tenant(asked: "Clients") -> str:
    return said(await asked.directory.profile(a_tenant(asked.control)))


async def new_code(asked: "Clients") -> str:
    item = CodedItem(LOINC, f"C-{uuid4().hex[:8]}")
    return said((await asked.terminology.validate([item]))[item])


async def suggestions(asked: "Clients") -> str:
    found = await asked.suggestions.suggest(SuggestCodes(text="chest xray", code_system=LOINC))
    assert found.enabled is bool(found.suggestions)
    return "ok" if found.enabled else str(found.disabled_reason)


async def answered(tenants: HttpTenantDirectory, tenant: str) -> str:
    return said(await tenants.profile(tenant))


async def validity(codes: HttpTerminology, item: CodedItem) -> str:
    return said((await codes.validate([item]))[item])


async def seen(control: Control, serial: str) -> bool:
    """Whether the tenant service was shown that client certificate."""
    return serial in (await asyncio.to_thread(control.state, "tenant-service")).client_serials


async def until(ask: Callable[[], Awaitable[T]], wanted: T) -> None:
    """Asks again and again, as retrying clients do; bound it with a timeout."""
    async for answer in _answers(ask):
        if answer == wanted:
            return


async def _answers(ask: Callable[[], Awaitable[T]]) -> AsyncIterator[T]:
    while True:
        yield await ask()
        await asyncio.sleep(AGAIN_SECONDS)


class Clients(NamedTuple):
    control: Control
    directory: HttpTenantDirectory
    terminology: HttpTerminology
    suggestions: Suggestions


ROWS = (
    Row("tenant-service", Code.TENANT_SERVICE_UNAVAILABLE, new_tenant),
    Row("terminology-service", Code.TERMINOLOGY_UNAVAILABLE, new_code),
    Row("ai-gateway", "unavailable", suggestions),
)


@asynccontextmanager
async def clients(sandbox: Sandbox, control: Control) -> AsyncIterator[Clients]:
    async with directory(sandbox) as tenants, terminology(sandbox) as codes:
        async with neighbour(sandbox, "ai-gateway", LIMITS._replace(read_seconds=0.6, deadline_seconds=0.8)) as gateway:
            yield Clients(control, tenants, codes, Suggestions(gateway))


@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.service)
async def test_fallback_and_recovery(row: Row, mode: Mode, sandbox: Sandbox, control: Control) -> None:
    async with clients(sandbox, control) as asked:
        control.fault(row.service, mode, delay_ms=SLOW_MS if mode == "slow" else 0)
        expected = "ok" if mode in WELL else row.fallback
        for _ in range(3):  # the second and third time it may be known to be away
            started = time.perf_counter()
            assert await row.asks(asked) == expected
            assert time.perf_counter() - started < WAIT_SECONDS
        control.recover(row.service)
        async with asyncio.timeout(RECOVERY_SECONDS):
            # As its clients would: retryable means try again.
            await until(lambda: row.asks(asked), "ok")
        assert await row.asks(asked) == "ok"


async def test_a_service_that_stalls_costs_one_caller_the_wait(sandbox: Sandbox, control: Control) -> None:
    async with directory(sandbox) as tenants:
        control.fault("tenant-service", "stall")
        started = time.perf_counter()
        await tenants.profile(a_tenant(control))
        first = time.perf_counter() - started
        asked = [a_tenant(control) for _ in range(50)]
        started = time.perf_counter()
        answers = [await tenants.profile(tenant) for tenant in asked]
        rest = time.perf_counter() - started
        assert {said(answer) for answer in answers} == {Code.TENANT_SERVICE_UNAVAILABLE}
        assert first > 0.5
        assert rest < first  # fifty of them, together


async def test_concurrent_questions_about_one_tenant_are_one(sandbox: Sandbox, control: Control) -> None:
    tenant = a_tenant(control)
    async with directory(sandbox) as tenants:
        control.fault("tenant-service", "slow", delay_ms=100)
        answers = await asyncio.gather(*(tenants.profile(tenant) for _ in range(100)))
        assert answers == [hospital(tenant)] * 100
        assert control.asked(tenant) == 1


async def test_a_profile_is_fresh_then_stale_then_gone(sandbox: Sandbox, control: Control) -> None:
    tenant = a_tenant(control)
    async with directory(sandbox, fresh_seconds=0.4, stale_seconds=2.5) as tenants:
        assert said(await tenants.profile(tenant)) == "ok"
        known_at = time.monotonic()
        control.fault("tenant-service", "down")
        assert said(await tenants.profile(tenant)) == "ok"  # fresh
        stale, gone = 0, False
        async with asyncio.timeout(RECOVERY_SECONDS):
            while not gone:
                await asyncio.sleep(0.05)
                gone = said(await tenants.profile(tenant)) != "ok"
                stale += not gone and time.monotonic() - known_at > 0.5
        assert stale > 5  # served beyond its fresh time
        assert time.monotonic() - known_at > 2.4  # and not given up before its bound
        assert said(await tenants.profile(tenant)) == Code.TENANT_SERVICE_UNAVAILABLE


async def test_an_entitlement_that_is_withdrawn_is_seen_after_the_fresh_time(
    sandbox: Sandbox, control: Control
) -> None:
    tenant = a_tenant(control)
    async with directory(sandbox, fresh_seconds=0.3, stale_seconds=300) as tenants:
        assert said(await tenants.profile(tenant)) == "ok"
        control.add_tenant(hospital(tenant, entitled=False))
        async with asyncio.timeout(RECOVERY_SECONDS):
            while True:
                found = await tenants.profile(tenant)
                if isinstance(found, TenantProfile) and not found.entitled:
                    break
                await asyncio.sleep(0.02)


async def test_an_unknown_tenant_is_asked_for_once_and_found_when_it_is_there(
    sandbox: Sandbox, control: Control
) -> None:
    tenant = f"t-{uuid4().hex[:12]}"
    async with directory(sandbox, fresh_seconds=0.3) as tenants:
        for _ in range(5):
            assert said(await tenants.profile(tenant)) == Code.TENANT_NOT_ENTITLED
        assert control.asked(tenant) == 1
        control.add_tenant(hospital(tenant))
        async with asyncio.timeout(RECOVERY_SECONDS):
            await until(lambda: answered(tenants, tenant), "ok")


async def test_a_404_of_somebody_else_refuses_nobody_for_good(sandbox: Sandbox, control: Control) -> None:
    async with clients(sandbox, control) as asked:
        control.fault("tenant-service", "fail", status=404)
        control.fault("terminology-service", "fail", status=404)
        assert await new_tenant(asked) == Code.TENANT_SERVICE_UNAVAILABLE
        assert await new_code(asked) == Code.TERMINOLOGY_UNAVAILABLE


async def test_codes_are_validated_together_and_valid_ones_remembered(sandbox: Sandbox, control: Control) -> None:
    tag = uuid4().hex[:8]
    good = [CodedItem(LOINC, f"{tag}-{number}") for number in range(40)]
    bad, strange = CodedItem(LOINC, f"NO-SUCH-{tag}"), CodedItem("http://example.org/unheard-of", "1")
    async with terminology(sandbox, Limits(5, 5, 10), patience_seconds=10) as codes:
        control.fault("terminology-service", "slow", delay_ms=200)
        started = time.perf_counter()
        found = await codes.validate([*good, bad, strange])
        assert time.perf_counter() - started < 42 * 0.2 / 2  # one after the other would take twice as long
        assert {item for item, refusal in found.items() if refusal is None} == set(good)
        assert {said(found[item]) for item in (bad, strange)} == {Code.CHARGE_CODE_UNKNOWN}
        control.fault("terminology-service", "down")
        assert all(refusal is None for refusal in (await codes.validate(good)).values())
        assert said((await codes.validate([bad]))[bad]) == Code.TERMINOLOGY_UNAVAILABLE


async def test_a_valid_code_is_forgotten_after_its_time(sandbox: Sandbox, control: Control) -> None:
    item = CodedItem(LOINC, f"C-{uuid4().hex[:8]}")
    async with terminology(sandbox, valid_seconds=0.3) as codes:
        assert (await codes.validate([item]))[item] is None
        control.fault("terminology-service", "down")
        async with asyncio.timeout(RECOVERY_SECONDS):
            await until(lambda: validity(codes, item), str(Code.TERMINOLOGY_UNAVAILABLE))


async def test_suggestions_never_queue(sandbox: Sandbox, control: Control) -> None:
    async with clients(sandbox, control) as asked:
        control.fault("ai-gateway", "slow", delay_ms=400)
        started = time.perf_counter()
        answers = await asyncio.gather(*(suggestions(asked) for _ in range(40)))
        assert answers.count("ok") == LIMITS.concurrency
        assert time.perf_counter() - started < 2
    assert (await Suggestions(None).suggest(SuggestCodes(text="x"))).disabled_reason == "not_configured"


async def test_certificates_rotate_under_load_without_a_failed_request(sandbox: Sandbox, control: Control) -> None:
    # Every question goes out, and no old answer hides that one failed.
    async with directory(sandbox, Limits(), fresh_seconds=0.001, stale_seconds=0) as tenants:
        tenant, failed, served = a_tenant(control), 0, 0
        stop = asyncio.Event()

        async def load() -> None:
            nonlocal failed, served
            while not stop.is_set():
                await asyncio.sleep(0.002)  # four askers without a pause would leave the loop to nobody else
                ok = said(await tenants.profile(tenant)) == "ok"
                served, failed = served + ok, failed + (not ok)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(load())
            serials = [control.certificates()["client"]]
            for _ in range(4):
                # Connections in constant use are left behind too: the new certificate is shown while the load goes on.
                async with asyncio.timeout(RECOVERY_SECONDS):
                    await until(functools.partial(seen, control, serials[-1]), True)
                serials.append((await asyncio.to_thread(control.rotate_certificates))["client"])
            async with asyncio.timeout(RECOVERY_SECONDS):
                await until(functools.partial(seen, control, serials[-1]), True)
            stop.set()
    assert failed == 0
    assert served > 50
    assert set(serials) <= control.state("tenant-service").client_serials.keys()


async def test_metrics_say_what_happened(sandbox: Sandbox, control: Control) -> None:
    def value(outcome: str) -> float:
        labels = {"neighbour": "terminology-service", "outcome": outcome}
        return REGISTRY.get_sample_value("billing_neighbour_requests_total", labels) or 0

    async def grown(outcome: str) -> bool:
        return value(outcome) > before[outcome]

    before = {outcome: value(outcome) for outcome in ("ok", "failed", "invalid", "timeout", "unreachable")}
    expected = {"ok": "ok", "fail": "failed", "lie": "invalid", "stall": "timeout", "down": "unreachable"}
    for mode, outcome in expected.items():
        async with clients(sandbox, control) as asked:
            control.fault("terminology-service", mode)  # type: ignore[arg-type]
            await new_code(asked)
            async with asyncio.timeout(RECOVERY_SECONDS):  # a stalled question outlives its asker's patience
                await until(functools.partial(grown, outcome), True)
    assert REGISTRY.get_sample_value("billing_neighbour_away", {"neighbour": "terminology-service"}) == 1
