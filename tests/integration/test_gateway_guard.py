"""Each tenant's way to its gateway: circuit, bounds and metrics; a tenant whose gateway stalls costs nobody else anything."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from adapters.gateways.circuit import Change, Circuit, Limits
from adapters.gateways.ports import Answer, Gateway, Reason, Refused, Unasked, Unknown
from adapters.gateways.provider import CircuitChange, Gateways
from adapters.secrets import SecretDirectory
from adapters.settings import GatewaySettings
from schemas.gateway import GatewayProfile
from schemas.tenant import TenantProfile
from tests.fixtures.sandbox import control, hospital, sandbox
from tests.integration.gateway_support import a_charge, answered, host_of, outcome
from tools.sandbox.control import Control
from tools.sandbox.process import Sandbox

__all__ = ["control", "sandbox"]  # fixtures

SERVICE = "payment-gateway"
WAIT_SECONDS = 20.0
# What one call may take, in these tests; and how long a circuit stays open.
TIMEOUT_SECONDS, OPEN_SECONDS = 0.5, 0.3


class Clinics:
    """Two tenants of one deployment, and a third one without a gateway. `changes` are the circuits'."""

    def __init__(self, sandbox: Sandbox, directory: Path, **settings: Any) -> None:
        self._sandbox, self.secrets_dir = sandbox, directory
        self.a, self.b = (f"t-{uuid4().hex[:12]}" for _ in range(2))
        for tenant in (self.a, self.b):
            (directory / f"PAYMENT_GATEWAY_API_KEY_{tenant}").write_text(f"sk_{tenant}")
        self.changes: list[CircuitChange] = []
        given: dict[str, Any] = {
            "gateway_allowed_hosts": (host_of(sandbox.url(SERVICE)),),
            "gateway_tls_ca_file": sandbox.tls_files.ca,
            "gateway_timeout_seconds": TIMEOUT_SECONDS,
            "gateway_circuit_failures": 3,
            "gateway_circuit_open_seconds": OPEN_SECONDS,
            "gateway_circuit_open_max_seconds": 8 * OPEN_SECONDS,
        }
        self.gateways = Gateways(
            GatewaySettings(**(given | settings)), SecretDirectory(directory), on_circuit=self.changes.append
        )

    def profile(self, tenant: str, **gateway: Any) -> TenantProfile:
        given = {"adapter": "generic", "url": f"{self._sandbox.url(SERVICE)}/{tenant}"} | gateway
        return hospital(tenant, gateway=GatewayProfile(**given))

    def of(self, tenant: str, **gateway: Any) -> Gateway:
        found = self.gateways.of(self.profile(tenant, **gateway))
        assert found is not None
        return found

    def states(self, tenant: str) -> list[str]:
        return [each.change.state for each in self.changes if each.tenant_id == tenant]


@asynccontextmanager
async def clinics(sandbox: Sandbox, directory: Path, **settings: Any) -> AsyncIterator[Clinics]:
    found = Clinics(sandbox, directory, **settings)
    try:
        yield found
    finally:
        await found.gateways.aclose()


def only(tenant: str) -> dict[str, Any]:
    """A fault for one merchant."""
    return {"path": f"/{tenant}/"}


def circuit_state(tenant: str) -> float | None:
    return REGISTRY.get_sample_value("billing_gateway_circuit_state", {"tenant": tenant, "adapter": "generic"})


def requests(outcome: str) -> float:
    labels = {"adapter": "generic", "outcome": outcome}
    return REGISTRY.get_sample_value("billing_gateway_requests_total", labels) or 0


async def opened(gateway: Gateway) -> None:
    """Charges until the circuit is open."""
    async with asyncio.timeout(WAIT_SECONDS):
        while await outcome(gateway.charge(a_charge())) != f"refused {Reason.CIRCUIT_OPEN}":
            pass


async def until_captured(gateway: Gateway) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        async for found in _charging(gateway):
            if found == "captured":
                return


async def _charging(gateway: Gateway) -> AsyncIterator[str]:
    while True:
        yield await outcome(gateway.charge(a_charge(capture=True)))
        await asyncio.sleep(OPEN_SECONDS / 10)


@pytest.mark.parametrize("mode", ["stall", "fail", "malformed", "lie", "lose"])
async def test_a_sick_gateway_is_soon_not_asked_and_found_again(
    sandbox: Sandbox, control: Control, tmp_path: Path, mode: Any
) -> None:
    # Long enough to look at it while it is open, on a busy machine too.
    async with clinics(sandbox, tmp_path, gateway_circuit_open_seconds=5 * OPEN_SECONDS) as found:
        gateway = found.of(found.a)
        assert await outcome(gateway.charge(a_charge())) == "authorised"
        control.fault(SERVICE, mode, **only(found.a))
        asked = [await outcome(gateway.charge(a_charge())) for _ in range(3)]
        assert asked == ["unknown"] * 3
        assert (found.states(found.a), circuit_state(found.a)) == (["open"], 2)
        arrived = control.state(SERVICE).requests
        started = time.perf_counter()
        assert await outcome(gateway.charge(a_charge())) == f"refused {Reason.CIRCUIT_OPEN}"
        with pytest.raises(Unasked):
            await gateway.find(uuid4())
        assert time.perf_counter() - started < TIMEOUT_SECONDS / 2
        assert control.state(SERVICE).requests == arrived, "an open circuit answers without a call"
        control.recover(SERVICE)
        await until_captured(gateway)
        assert found.states(found.a)[-1] == "closed"
        assert circuit_state(found.a) == 0


async def test_a_tenant_whose_gateway_stalls_delays_no_other(
    sandbox: Sandbox, control: Control, tmp_path: Path
) -> None:
    async with clinics(sandbox, tmp_path, gateway_timeout_seconds=5, gateway_circuit_failures=1_000) as found:
        sick, well = found.of(found.a), found.of(found.b)

        async def seconds() -> float:
            started = time.perf_counter()
            assert await outcome(well.charge(a_charge(capture=True))) == "captured"
            return time.perf_counter() - started

        usual = sorted([await seconds() for _ in range(20)])
        control.fault(SERVICE, "stall", **only(found.a))
        stalled = [asyncio.create_task(outcome(sick.charge(a_charge()))) for _ in range(100)]
        await asyncio.sleep(0.05)
        beside = sorted([await seconds() for _ in range(20)])
        assert not any(each.done() for each in stalled)
        assert beside[10] < 2 * usual[10] + 0.02, (usual, beside)
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)


async def test_calls_at_once_are_bounded_and_the_rest_wait_their_turn(
    sandbox: Sandbox, control: Control, tmp_path: Path
) -> None:
    async with clinics(sandbox, tmp_path, gateway_concurrency=2, gateway_timeout_seconds=1) as found:
        gateway = found.of(found.a)
        control.fault(SERVICE, "slow", delay_ms=100, **only(found.a))
        charging = [asyncio.create_task(outcome(gateway.charge(a_charge()))) for _ in range(6)]
        most = 0
        while not all(each.done() for each in charging):
            most = max(most, (await asyncio.to_thread(control.state, SERVICE)).in_flight)
        assert [each.result() for each in charging] == ["authorised"] * 6
        assert most == 2
        control.fault(SERVICE, "slow", delay_ms=700, **only(found.a))
        waiting = [asyncio.create_task(outcome(gateway.charge(a_charge()))) for _ in range(8)]
        results = await asyncio.gather(*waiting)
        assert results.count(f"refused {Reason.BUSY}") >= 4  # a turn that comes too late is none
        assert set(results) == {"authorised", f"refused {Reason.BUSY}"}


async def test_a_gateway_that_is_not_there_or_says_no(sandbox: Sandbox, control: Control, tmp_path: Path) -> None:
    async with clinics(sandbox, tmp_path) as found:
        before = {each: requests(each) for each in ("ok", "declined", "refused", "unreachable", "not_configured")}
        gateway = found.of(found.a)
        for _ in range(5):  # answers, however unwelcome, are a gateway that is well
            assert await outcome(gateway.charge(a_charge("tok_declined"))) == "declined"
            assert await outcome(gateway.charge(a_charge("no_such_token"))) == f"refused {Reason.REFUSED}"
        control.gateway(found.a).keys("sk_other")
        for _ in range(5):
            assert await outcome(gateway.charge(a_charge())) == f"refused {Reason.CREDENTIALS}"
        control.gateway(found.a).keys()
        assert found.changes == []
        outside = found.of(found.b, url="https://not-on-the-list.example/")
        for _ in range(5):
            assert await outcome(outside.charge(a_charge())) == f"refused {Reason.NOT_CONFIGURED}"
        nowhere = found.of(found.b, url=None)
        assert await outcome(nowhere.charge(a_charge())) == f"refused {Reason.NOT_CONFIGURED}"
        assert found.changes == [], "a wrong configuration says nothing about the gateway"
        control.fault(SERVICE, "down")
        for _ in range(3):
            assert await outcome(gateway.charge(a_charge())) == f"refused {Reason.UNREACHABLE}"
        assert found.states(found.a) == ["open"]
        grown = {each: requests(each) - count for each, count in before.items()}
        assert grown == {"ok": 0, "declined": 5, "refused": 5, "unreachable": 3, "not_configured": 6}


async def test_a_change_of_configuration_is_picked_up(sandbox: Sandbox, control: Control, tmp_path: Path) -> None:
    async with clinics(sandbox, tmp_path) as found:
        first = found.of(found.a)
        assert found.of(found.a) is first
        control.fault(SERVICE, "fail", **only(found.a))
        await opened(first)
        control.fault(SERVICE, "slow", delay_ms=200, path="/elsewhere/")
        second = found.of(found.a, url=f"{sandbox.url(SERVICE)}/elsewhere")
        assert second is not first
        assert found.states(found.a)[-1] == "closed"  # what is said of the old one is not true of the new one
        under_way = asyncio.create_task(outcome(second.charge(a_charge(capture=True))))
        await asyncio.sleep(0.05)
        third = found.of(found.a, url=f"{sandbox.url(SERVICE)}/third")
        assert await under_way == "captured"  # what was asked of the old one is finished with it
        charge = a_charge(capture=True)
        assert await outcome(third.charge(charge)) == "captured"
        assert control.gateway("third").captures(charge.payment_id) == 1
        assert await outcome(second.charge(a_charge())) == f"refused {Reason.UNREACHABLE}"
        assert found.gateways.of(hospital(found.a)) is None
        assert circuit_state(found.a) is None


async def test_after_the_end_nothing_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    async with clinics(sandbox, tmp_path) as found:
        gateway = found.of(found.a)
        assert await outcome(gateway.charge(a_charge())) == "authorised"
        await found.gateways.aclose()
        assert await outcome(gateway.charge(a_charge())) == f"refused {Reason.UNREACHABLE}"


async def test_each_tenant_is_asked_with_its_own_key(sandbox: Sandbox, control: Control, tmp_path: Path) -> None:
    async with clinics(sandbox, tmp_path) as found:
        for tenant in (found.a, found.b):
            control.gateway(tenant).keys(f"sk_{tenant}")
            assert await outcome(found.of(tenant).charge(a_charge())) == "authorised"
        wrong = found.of(found.a, url=f"{sandbox.url(SERVICE)}/{found.b}")
        assert await outcome(wrong.charge(a_charge())) == f"refused {Reason.CREDENTIALS}"


# --- the circuit by itself --------------------------------------------------------------------------------------------


def _fail(circuit: Circuit, times: int = 1) -> None:
    for _ in range(times):
        with circuit.call() as call:
            assert call is not None
            call.failed()


async def test_one_call_at_a_time_finds_out_whether_it_is_back() -> None:
    changes: list[Change] = []
    circuit = Circuit(Limits(failures=2, open_seconds=0.02, open_max_seconds=0.03), changes.append)
    _fail(circuit, 2)
    assert circuit.refuses()
    until = changes[-1].open_until
    assert until is not None and 0 < (until - datetime.now(UTC)).total_seconds() <= 0.02
    await asyncio.sleep(0.025)
    with circuit.call() as probe:
        assert probe is not None and circuit.state == "half_open"
        with circuit.call() as second:
            assert second is None
        probe.failed()
    await asyncio.sleep(0.025)
    assert circuit.refuses(), "twice as long, up to the bound"
    await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError), circuit.call() as probe:
        raise asyncio.CancelledError
    assert not circuit.refuses(), "a call that was given up decides nothing, and lets the next one try"
    with circuit.call() as last:
        assert last is not None
        last.succeeded()
    assert [each.state for each in changes] == ["open", "half_open", "open", "half_open", "closed"]
    _fail(circuit)
    with circuit.call() as call:
        assert call is not None
        call.succeeded()
    _fail(circuit)
    assert not circuit.refuses(), "failures count in a row"


async def test_an_answer_to_an_old_call_closes_it_and_a_failure_of_one_prolongs_nothing() -> None:
    changes: list[Change] = []
    circuit = Circuit(Limits(failures=1, open_seconds=30), changes.append)
    with circuit.call() as old_one, circuit.call() as old_two, circuit.call() as first:
        assert old_one and old_two and first
        first.failed()
        old_two.failed()
        old_one.succeeded()
    assert [each.state for each in changes] == ["open", "closed"]


async def test_the_deadline_bounds_a_gateway_that_drips(sandbox: Sandbox, control: Control, tmp_path: Path) -> None:
    async with clinics(sandbox, tmp_path) as found:
        control.fault(SERVICE, "slow", delay_ms=5_000, **only(found.a))
        started = time.perf_counter()
        with pytest.raises(Unknown):
            await found.of(found.a).charge(a_charge())
        assert time.perf_counter() - started < TIMEOUT_SECONDS + 1


def test_an_answer_is_one() -> None:
    kept = Answer("captured", "r", "AED", 1)
    assert answered(kept) is kept
    with pytest.raises(AssertionError):
        answered(Refused(Reason.REFUSED, False))
