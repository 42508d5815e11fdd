"""Adapters under test, against a sandbox or localstripe, over real HTTPS."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID, uuid4

from adapters.gateways.egress import Egress, parse_allowlist
from adapters.gateways.generic import GenericGateway
from adapters.gateways.keys import Credentials
from adapters.gateways.ports import Answer, Charge, Refused, Unknown
from adapters.gateways.wire import Wire
from adapters.secrets import Secret
from adapters.tls import TlsFiles, client_context
from tools.sandbox.process import Sandbox

MERCHANT = "clinic"
# What is slow has to be slower than `slow`; what stalls must not cost a test its minute.
CONNECT_SECONDS, READ_SECONDS = 1.0, 0.6
SLOW_MS = 200

T = TypeVar("T")


def host_of(url: str) -> str:
    return url.removeprefix("https://").partition("/")[0]


@asynccontextmanager
async def wire(sandbox: Sandbox, path: str = "") -> AsyncIterator[Wire]:
    url = sandbox.url("payment-gateway")
    egress = Egress(parse_allowlist([host_of(url)]))
    opened = Wire(
        egress,
        url + path,
        tls=client_context(TlsFiles(ca=sandbox.tls_files.ca)),
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
async def generic(sandbox: Sandbox, key: str = "sk_sandbox") -> AsyncIterator[GenericGateway]:
    async with wire(sandbox, f"/{MERCHANT}") as opened:
        yield GenericGateway(opened, Credentials(lambda: Secret(key)))


def a_charge(source: str = "tok_ok", *, capture: bool = False, amount_minor: int = 12_500) -> Charge:
    return Charge(uuid4(), amount_minor, "AED", source, capture)


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


Scene = Callable[[UUID], Awaitable[Answer | Refused | None]]
