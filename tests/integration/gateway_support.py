"""Adapters under test over real HTTPS: the generic one against the sandbox, Stripe's against localstripe."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import uuid_utils.compat as uuid_utils

from adapters.gateways.egress import Egress, parse_allowlist
from adapters.gateways.generic import GenericGateway
from adapters.gateways.keys import Credentials
from adapters.gateways.ports import Answer, Charge, Refused, Unknown
from adapters.gateways.stripe import StripeGateway
from adapters.gateways.wire import Wire
from adapters.secrets import Secret
from adapters.tls import TlsFiles, client_context
from tests.fixtures.localstripe import KEY, LocalStripe
from tools.sandbox.process import Sandbox

MERCHANT = "clinic"
# What is slow has to be slower than `slow`; what stalls must not cost a test its minute.
CONNECT_SECONDS, READ_SECONDS = 2.0, 0.8
SLOW_MS = 200

Keys = Callable[[], Secret | None]


def host_of(url: str) -> str:
    return url.removeprefix("https://").partition("/")[0]


@asynccontextmanager
async def wire(url: str, tls: TlsFiles) -> AsyncIterator[Wire]:
    egress = Egress(parse_allowlist([host_of(url)]))
    opened = Wire(
        egress,
        url,
        tls=client_context(TlsFiles(ca=tls.ca)),
        connections=8,
        connect_seconds=CONNECT_SECONDS,
        read_seconds=READ_SECONDS,
    )
    try:
        yield opened
    finally:
        await opened.aclose()
        egress.close()


@asynccontextmanager
async def generic(sandbox: Sandbox, keys: Keys = lambda: Secret("sk_sandbox")) -> AsyncIterator[GenericGateway]:
    async with wire(f"{sandbox.url('payment-gateway')}/{MERCHANT}", sandbox.tls_files) as opened:
        yield GenericGateway(opened, Credentials(keys))


@asynccontextmanager
async def by_stripe(server: LocalStripe, keys: Keys = lambda: Secret(KEY)) -> AsyncIterator[StripeGateway]:
    async with wire(server.url, server.tls) as opened:
        yield StripeGateway(opened, Credentials(keys))


def a_charge(source: str = "tok_ok", *, capture: bool = False, amount_minor: int = 12_500) -> Charge:
    """Of a payment made now, as its id says."""
    return Charge(uuid_utils.uuid7(), amount_minor, "AED", source, capture)


def an_old_charge(source: str, *, capture: bool = True) -> Charge:
    """Of a payment whose id does not say when it was made."""
    return Charge(uuid4(), 12_500, "AED", source, capture)


def answered(result: Answer | Refused | None) -> Answer:
    """Asserts that the gateway answered."""
    assert isinstance(result, Answer), result
    return result


async def outcome(asked: Awaitable[Answer | Refused | None]) -> str:
    """In a word: the answer's state, `refused <code>`, `none` or `unknown`."""
    try:
        found = await asked
    except Unknown:
        return "unknown"
    if found is None:
        return "none"
    return found.state if isinstance(found, Answer) else f"refused {found.code}"
