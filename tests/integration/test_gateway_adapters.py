"""Each payment gateway adapter × each way its gateway can go wrong: what is certain, what is unknown, and money moved once."""

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
import uuid_utils.compat as uuid_utils

from adapters.gateways.ports import Answer, Charge, Gateway, Reason, Refused, Unknown
from adapters.gateways.stripe import KEY_LIFE_SECONDS, may_be_forgotten
from adapters.secrets import SecretDirectory
from tests.fixtures.localstripe import CARD, DECLINED_CARD, LocalStripe, fronted, localstripe_url
from tests.fixtures.sandbox import control, sandbox
from tests.integration.gateway_support import (
    MERCHANT,
    SLOW_MS,
    Keys,
    a_charge,
    an_old_charge,
    answered,
    by_stripe,
    generic,
    outcome,
)
from tools.sandbox.control import Control
from tools.sandbox.faults import Mode
from tools.sandbox.process import Sandbox

__all__ = ["control", "localstripe_url", "sandbox"]  # fixtures

SERVICE = "payment-gateway"
LOAD_SECONDS = 20.0
PAYMENTS_PER_KEY = 12


class Rig(NamedTuple):
    """A gateway and an adapter for it. `opened`: further ones; `taken`: how often money was taken, or held, for a payment."""

    source: str
    declined_source: str
    opened: Callable[..., Any]
    fault: Callable[..., Awaitable[None]]
    taken: Callable[[UUID], Awaitable[int]]
    good_keys: Callable[..., Awaitable[None]]


@pytest.fixture(params=["generic", "stripe"])
async def rig(
    request: pytest.FixtureRequest, sandbox: Sandbox, control: Control, localstripe_url: str, tmp_path: Path
) -> AsyncIterator[Rig]:
    if request.param == "generic":
        yield _generic_rig(sandbox, control)
    else:
        async with fronted(localstripe_url, tmp_path / "front") as server:
            yield _stripe_rig(server)


def _generic_rig(sandbox: Sandbox, control: Control) -> Rig:
    merchant = control.gateway(MERCHANT)

    async def fault(mode: Mode, **options: Any) -> None:
        await asyncio.to_thread(control.fault, SERVICE, mode, **options)

    async def taken(payment_id: UUID) -> int:
        state = await asyncio.to_thread(merchant.state)
        held = bool(state["payments"].get(str(payment_id), {}).get("state") == "authorised")
        return int(state["captures"].get(str(payment_id), 0)) + held

    async def good_keys(*keys: str) -> None:
        await asyncio.to_thread(merchant.keys, *keys)

    return Rig("tok_ok", "tok_declined", lambda **more: generic(sandbox, **more), fault, taken, good_keys)


def _stripe_rig(server: LocalStripe) -> Rig:
    async def taken(payment_id: UUID) -> int:
        return len(await server.charges(payment_id))

    async def good_keys(*keys: str) -> None:
        server.front.keys = frozenset(keys) if keys else None

    return Rig(CARD, DECLINED_CARD, lambda **more: by_stripe(server, **more), server.fault, taken, good_keys)


@asynccontextmanager
async def stripe_server(localstripe_url: str, tmp_path: Path) -> AsyncIterator[tuple[LocalStripe, Gateway]]:
    async with fronted(localstripe_url, tmp_path / "front") as server, by_stripe(server) as gateway:
        yield server, gateway


# mode → what a charge says while it lasts; whether the gateway may have acted all the same
FAULTS: dict[Mode, tuple[str, bool]] = {
    "down": (f"refused {Reason.UNREACHABLE}", False),
    "fail": ("unknown", False),
    "stall": ("unknown", False),
    "slow": ("captured", True),
    "malformed": ("unknown", False),
    "lie": ("unknown", True),
    "lose": ("unknown", True),
}


@pytest.mark.parametrize("mode", FAULTS)
async def test_a_charge_while_the_gateway_misbehaves(rig: Rig, mode: Mode) -> None:
    expected, acted = FAULTS[mode]
    async with rig.opened() as gateway:
        charge = a_charge(rig.source, capture=True)
        await rig.fault(mode, delay_ms=SLOW_MS if mode == "slow" else 0)
        assert await outcome(gateway.charge(charge)) == expected
        assert await outcome(gateway.find(charge.payment_id)) == ("captured" if mode == "slow" else "unknown")
        await rig.fault("ok")
        # The recovery's two steps: ask, and where nobody has heard of it, the same request with the same key.
        assert await outcome(gateway.find(charge.payment_id)) == ("captured" if acted else "none")
        assert await outcome(gateway.charge(charge)) == "captured"
        assert await rig.taken(charge.payment_id) == 1


@pytest.mark.parametrize("status", [404, 408, 409, 418, 425, 500, 502, 503, 504])
async def test_statuses_that_say_nothing_for_certain(rig: Rig, status: int) -> None:
    """A 4xx in a proxy's words is none in the gateway's."""
    async with rig.opened() as gateway:
        await rig.fault("fail", status=status)
        assert await outcome(gateway.charge(a_charge(rig.source))) == "unknown"
        assert await outcome(gateway.find(uuid4())) == "unknown"


@pytest.mark.parametrize("mode", ["lose", "lie", "fail"])
async def test_changes_whose_answer_is_lost(rig: Rig, mode: Mode) -> None:
    async with rig.opened() as gateway:
        charge = a_charge(rig.source)
        held = answered(await gateway.charge(charge))
        refund_id = uuid4()
        steps: list[Callable[[], Awaitable[Answer | Refused]]] = [
            lambda: gateway.capture(charge.payment_id, held.reference, 10_000),
            lambda: gateway.refund(charge.payment_id, held.reference, refund_id, 3_000),
        ]
        for step in steps:
            await rig.fault(mode)
            assert await outcome(step()) in ("unknown", f"refused {Reason.REFUSED}")
            await rig.fault("ok")
            assert (await outcome(step())).startswith(("captured", "refunded"))
        found = answered(await gateway.find(charge.payment_id))
        assert (found.state, found.captured_minor, found.refunded_minor) == ("captured", 10_000, 3_000)
        assert answered(await gateway.find_refund(charge.payment_id, refund_id)).refunded_minor == 3_000
        other = a_charge(rig.source)
        held = answered(await gateway.charge(other))
        await rig.fault(mode)
        assert await outcome(gateway.cancel(other.payment_id, held.reference)) == "unknown"
        await rig.fault("ok")
        assert await outcome(gateway.cancel(other.payment_id, held.reference)) == "cancelled"


async def test_a_payments_life(rig: Rig) -> None:
    async with rig.opened() as gateway:
        charge = a_charge(rig.source)
        held = answered(await gateway.charge(charge))
        assert (held.state, held.currency, held.authorised_minor, held.captured_minor) == (
            "authorised",
            "AED",
            12_500,
            0,
        )
        taken = answered(await gateway.capture(charge.payment_id, held.reference, 7_500))
        assert (taken.state, taken.reference, taken.captured_minor) == ("captured", held.reference, 7_500)
        assert taken.refunded_minor == 0  # what a smaller capture releases is no refund
        first, second = uuid4(), uuid4()
        back = answered(await gateway.refund(charge.payment_id, held.reference, first, 2_500))
        assert (back.state, back.refunded_minor) == ("refunded", 2_500)
        assert answered(await gateway.find(charge.payment_id)).refunded_minor == 2_500
        assert await outcome(gateway.refund(charge.payment_id, held.reference, second, 5_000)) == "refunded"
        rest = answered(await gateway.find(charge.payment_id))
        assert (rest.state, rest.captured_minor, rest.refunded_minor) == ("refunded", 7_500, 7_500)
        assert await gateway.find_refund(charge.payment_id, uuid4()) is None
        assert await gateway.find(uuid4()) is None


async def test_what_is_certain_is_no_unknown(rig: Rig) -> None:
    async with rig.opened() as gateway:
        declined = answered(await gateway.charge(a_charge(rig.declined_source)))
        assert (declined.state, declined.decline_code) == ("declined", "card_declined")
        nonsense = await gateway.charge(a_charge("tok_or_pm_nobody_made"))
        assert isinstance(nonsense, Refused) and (nonsense.code, nonsense.retryable) == (Reason.REFUSED, False)
        charge = a_charge(rig.source)
        held = answered(await gateway.charge(charge))
        assert await outcome(gateway.capture(charge.payment_id, held.reference, 99_999)) == f"refused {Reason.REFUSED}"
        assert await outcome(gateway.cancel(charge.payment_id, held.reference)) == "cancelled"
        # Too late for a capture: Stripe's adapter says what there is, the generic protocol that it was refused.
        late = await outcome(gateway.capture(charge.payment_id, held.reference, 12_500))
        assert late in ("cancelled", f"refused {Reason.REFUSED}")
        await rig.good_keys("sk_another")
        unknown_key = await gateway.charge(a_charge(rig.source))
        await rig.good_keys()
        assert isinstance(unknown_key, Refused) and (unknown_key.code, unknown_key.retryable) == (
            Reason.CREDENTIALS,
            True,
        )


async def test_the_same_request_twice_at_once_is_one_effect(rig: Rig) -> None:
    async with rig.opened() as gateway:
        charge = a_charge(rig.source, capture=True)
        found = await asyncio.gather(*(outcome(gateway.charge(charge)) for _ in range(5)))
        assert set(found) <= {"captured", "unknown"}  # Stripe says 409 while the first is under way
        assert await outcome(gateway.charge(charge)) == "captured"
        assert await rig.taken(charge.payment_id) == 1
        held = answered(await gateway.charge(charge))
        refund_id = uuid4()
        asked = [gateway.refund(charge.payment_id, held.reference, refund_id, 2_500) for _ in range(5)]
        await asyncio.gather(*(outcome(each) for each in asked))
        assert answered(await gateway.find(charge.payment_id)).refunded_minor == 2_500


async def test_keys_rotate_under_load_without_a_failed_payment(rig: Rig, tmp_path: Path) -> None:
    """The gateway knows the new key before the file has it, and drops the old one the moment it does: what was under way is asked
    again."""
    names = [f"sk_test_{number}" for number in range(4)]
    directory = SecretDirectory(tmp_path)

    def put(key: str) -> None:
        written = tmp_path / "..partial"
        written.write_text(key)
        written.replace(tmp_path / "PAYMENT_GATEWAY_API_KEY_clinic")

    put(names[0])
    await rig.good_keys(names[0])
    keys: Keys = functools.partial(directory.payment_gateway_key, "clinic")
    async with rig.opened(keys=keys) as gateway:
        results: list[str] = []
        enough, more = asyncio.Condition(), 0

        async def load() -> None:
            while len(results) < PAYMENTS_PER_KEY * len(names):
                results.append(await outcome(gateway.charge(a_charge(rig.source, capture=True))))
                async with enough:
                    enough.notify_all()

        async with asyncio.timeout(LOAD_SECONDS), asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(load())
            for old, key in itertools.pairwise(names):
                more += PAYMENTS_PER_KEY
                async with enough:
                    await enough.wait_for(functools.partial(_reached, results, more))
                await rig.good_keys(old, key)
                put(key)
                await rig.good_keys(key)
    await rig.good_keys()
    assert set(results) == {"captured"}


def _reached(results: list[str], count: int) -> bool:
    return len(results) >= count


async def test_without_a_key_nothing_is_asked(rig: Rig) -> None:
    async with rig.opened(keys=lambda: None) as gateway:
        assert await outcome(gateway.charge(a_charge(rig.source))) == f"refused {Reason.NOT_CONFIGURED}"
        assert await outcome(gateway.find(uuid4())) == "unknown"


# --- Stripe's own ways ------------------------------------------------------------------------------------------------


async def test_a_forgotten_key_charges_nobody_twice(localstripe_url: str, tmp_path: Path) -> None:
    async with stripe_server(localstripe_url, tmp_path) as (server, gateway):
        charge = an_old_charge(CARD)
        assert await outcome(gateway.charge(charge)) == "captured"
        server.front.forget_keys()
        assert await outcome(gateway.charge(charge)) == "captured"
        assert len(await server.charges(charge.payment_id)) == 1
        held = answered(await gateway.charge(charge))
        refund_id = uuid4()
        for _ in range(2):
            assert await outcome(gateway.refund(charge.payment_id, held.reference, refund_id, 2_500)) == "refunded"
            server.front.forget_keys()
        assert answered(await gateway.find(charge.payment_id)).refunded_minor == 2_500


async def test_a_search_that_does_not_know_yet_charges_nobody_twice(localstripe_url: str, tmp_path: Path) -> None:
    async with stripe_server(localstripe_url, tmp_path) as (server, gateway):
        charge = an_old_charge(CARD)
        await server.fault("lose", times=2)  # the search, and so nothing is sent; then the charge itself
        assert await outcome(gateway.charge(charge)) == "unknown"
        server.front.blind = True
        await server.fault("ok")
        assert await outcome(gateway.find(charge.payment_id)) == "none"
        assert await outcome(gateway.charge(charge)) == "captured"
        assert await outcome(gateway.charge(charge)) == "captured"
        assert len(await server.charges(charge.payment_id)) == 1


async def test_two_intents_of_one_payment_are_nobodys_to_choose_from(localstripe_url: str, tmp_path: Path) -> None:
    async with stripe_server(localstripe_url, tmp_path) as (server, gateway):
        charge = a_charge(CARD)
        assert await outcome(gateway.charge(charge)) == "authorised"
        server.front.forget_keys()
        assert await outcome(gateway.charge(charge)) == "authorised"  # its id says it is young: no look first
        assert await outcome(gateway.find(charge.payment_id)) == "unknown"


async def test_a_challenge_is_declined_and_holds_nothing(localstripe_url: str, tmp_path: Path) -> None:
    async with stripe_server(localstripe_url, tmp_path) as (server, gateway):
        charge = a_charge(await server.challenged_card())
        declined = answered(await gateway.charge(charge))
        assert (declined.state, declined.decline_code) == ("declined", "authentication_required")
        assert await outcome(gateway.find(charge.payment_id)) == "cancelled"
        assert await server.charges(charge.payment_id) == []


async def test_amounts_that_stripe_counts_otherwise_are_not_sent(localstripe_url: str, tmp_path: Path) -> None:
    async with stripe_server(localstripe_url, tmp_path) as (server, gateway):
        before = len(server.front.requests)
        for amount_minor, currency in [(100, "ISK"), (100, "UGX"), (100, "MGA"), (12_345, "KWD")]:
            charge = Charge(uuid4(), amount_minor, currency, CARD, True)
            assert await outcome(gateway.charge(charge)) == f"refused {Reason.REFUSED}"
        assert len(server.front.requests) == before


async def test_an_answer_of_another_shape_breaks_nothing(localstripe_url: str, tmp_path: Path) -> None:
    """The library makes objects of whatever comes; what breaks inside it is an unknown, too."""
    shapes = [b"[]", b"null", b'"x"', b"1", b"{}", b'{"object":"list"}', b'{"id":1,"object":"payment_intent"}']
    async with stripe_server(localstripe_url, tmp_path) as (server, gateway):
        for shape in shapes:
            server.front.instead = shape
            for asked in (gateway.charge(a_charge(CARD)), gateway.find(uuid4()), gateway.cancel(uuid4(), "pi_1")):
                with pytest.raises(Unknown):
                    await asked
        server.front.instead = None


def test_which_ids_say_that_they_are_young() -> None:
    def made(seconds_ago: float) -> UUID:
        fresh = uuid_utils.uuid7()
        at = int((time.time() - seconds_ago) * 1000)
        return UUID(int=(fresh.int & ((1 << 80) - 1)) | at << 80)

    assert not may_be_forgotten(uuid_utils.uuid7())
    assert not may_be_forgotten(made(KEY_LIFE_SECONDS - 60))
    assert may_be_forgotten(made(KEY_LIFE_SECONDS + 60))
    assert may_be_forgotten(made(-3_600))
    assert may_be_forgotten(uuid4())
