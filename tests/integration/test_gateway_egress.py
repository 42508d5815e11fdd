"""Where requests to payment gateways may go: tables of URLs and addresses, and connections that go nowhere else."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from adapters.gateways.egress import Egress, EgressRefused, _resolve, checked, parse_allowlist
from adapters.gateways.ports import Unknown
from adapters.gateways.wire import MAX_ANSWER_BYTES, NotSent, Wire
from adapters.tls import TlsFiles, client_context
from tests.integration.gateway_support import host_of
from tools.sandbox.certificate_store import CertificateStore
from tools.sandbox.listener import Listener
from tools.stack.ports import free_ports

ALLOWED = (
    "api.stripe.com",
    "bank.example:8443",
    "bridge.example:8443=10.20.0.0/16",
    "127.0.0.1:9000",
    "[::1]:9000",
    "xn--bcher-kva.example",
)

GOOD = {
    "https://api.stripe.com": ("api.stripe.com", 443, ""),
    "https://api.stripe.com/": ("api.stripe.com", 443, ""),
    "https://api.stripe.com:443/v1": ("api.stripe.com", 443, "/v1"),
    "https://bank.example:8443/billing-gateway/clinic_1": ("bank.example", 8443, "/billing-gateway/clinic_1"),
    "https://bridge.example:8443/a/b/": ("bridge.example", 8443, "/a/b"),
    "https://127.0.0.1:9000": ("127.0.0.1", 9000, ""),
    "https://[::1]:9000/x": ("::1", 9000, "/x"),
    "https://xn--bcher-kva.example": ("xn--bcher-kva.example", 443, ""),
}

BAD = (
    "",
    "api.stripe.com",
    "//api.stripe.com",
    "http://api.stripe.com",
    "HTTPS://api.stripe.com",
    "https:api.stripe.com",
    "https:///api.stripe.com",
    "https:\\\\api.stripe.com",
    "ftp://api.stripe.com",
    "file:///etc/passwd",
    "https://evil.example",
    "https://api.stripe.com.evil.example",
    "https://evil.example/api.stripe.com",
    "https://evilapi.stripe.com",
    "https://api.stripe.com@evil.example",
    "https://api.stripe.com:443@evil.example",
    "https://evil.example@api.stripe.com",
    "https://user:secret@api.stripe.com",
    "https://api.stripe.com:8443",
    "https://api.stripe.com:0",
    "https://api.stripe.com:0443",
    "https://api.stripe.com:",
    "https://api.stripe.com:99999",
    "https://api.stripe.com:443:443",
    "https://bank.example",
    "https://api.stripe.com.",
    "https://api.stripe.com./",
    "https://API.stripe.com",
    "https://api.stripe.com#@evil.example",
    "https://api.stripe.com?@evil.example",
    "https://api.stripe.com/?next=https://evil.example",
    "https://api.stripe.com/../admin",
    "https://api.stripe.com/./x",
    "https://api.stripe.com//evil.example",
    "https://api.stripe.com/%2e%2e/admin",
    "https://api.stripe.com/\\evil.example",
    "https://api.stripe.com\\.evil.example",
    "https://api.stripe.com/x y",
    "https://api.stripe.com/x\r\nHost: evil.example",
    "https://api.stripe.com\n",
    " https://api.stripe.com",
    "https://api.stripe.com\t",
    "https://api.stripe.com%00.evil.example",
    "https://api%2estripe.com",
    "https://ａpi.stripe.com",
    "https://bücher.example",
    "https://api。stripe.com",
    "https://0x7f.1:9000",
    "https://0x7f000001:9000",
    "https://2130706433:9000",
    "https://127.1:9000",
    "https://0177.0.0.1:9000",
    "https://127.0.0.1",
    "https://127.0.0.1.:9000",
    "https://localhost:9000",
    "https://[::1]",
    "https://[::1%25lo]:9000",
    "https://[::1%lo]:9000",
    "https://[::ffff:127.0.0.1]:9000",
    "https://[0:0:0:0:0:0:0:1]:9000",
    "https://[::1]evil.example:9000",
    "https://169.254.169.254/latest/meta-data",
    "https://api.stripe.com/" + "a" * 600,
)


@pytest.mark.parametrize("url", GOOD)
def test_urls_that_are_allowed(url: str) -> None:
    target = Egress(parse_allowlist(ALLOWED)).target(url)
    assert tuple(target) == GOOD[url]
    assert Egress(parse_allowlist(ALLOWED)).target(target.base_url) == target


@pytest.mark.parametrize("url", BAD)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(EgressRefused) as refused:
        Egress(parse_allowlist(ALLOWED)).target(url)
    assert "secret" not in str(refused.value)


PUBLIC = ("93.184.215.14", "8.8.8.8", "2606:4700::1111", "2a00:1450:4001:80e::200e")
NOT_PUBLIC = (
    "0.0.0.0",  # noqa: S104
    "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "fc00::1",
    "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "nonsense", "",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert checked([address], None) == (address,)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_nobodys_gateway(address: str) -> None:
    for addresses in ([address], ["8.8.8.8", address]):  # one that must not be damns them all
        with pytest.raises(EgressRefused):
            checked(addresses, None)


def test_a_network_allows_its_own_addresses_and_no_others() -> None:
    network = parse_allowlist(["bridge.example:8443=10.20.0.0/16"])["bridge.example", 8443].network
    assert checked(["10.20.3.4"], network) == ("10.20.3.4",)
    for address in ("10.21.0.1", "8.8.8.8", "127.0.0.1", "::ffff:10.20.3.4", "fe80::1"):
        with pytest.raises(EgressRefused):
            checked([address], network)
    with pytest.raises(EgressRefused):
        checked([], network)


@pytest.mark.parametrize(
    "entry",
    [
        "", "https://api.stripe.com", "api.stripe.com/v1", "*.stripe.com", "api.stripe.com:0", "api.stripe.com:70000",
        "api.stripe.com.", "API.stripe.com", "bank.example=10.0.0.0/33", "bank.example=10.0.0.1/8", "127.1:9000", "0x7f.1",
        "2130706433", "169.254.169.254:80", "bank.example=169.254.0.0/16", "bank.example=ff00::/8", "[fe80::1]:443",
        "[::ffff:127.0.0.1]:443", "0.0.0.0:443", "a..b", "-a.example", "user@host",
    ],
)  # fmt: skip
def test_entries_that_are_none(entry: str) -> None:
    with pytest.raises(ValueError):
        parse_allowlist([entry])


# --- connections ------------------------------------------------------------------------------------------------------


class Counting:
    """Counts requests, and answers them with their Host header, or a redirect."""

    def __init__(self) -> None:
        self.requests = 0
        self.redirect_to: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        host = Request(scope).headers["host"]
        response = RedirectResponse(self.redirect_to, 307) if self.redirect_to else Response(host)
        await response(scope, receive, send)


class Names:
    """A name server: a name's addresses, one list per question."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, _host: str, _port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Counting, Listener, TlsFiles]]:
    certificates = CertificateStore(tmp_path / "tls")
    app = Counting()
    listener = Listener(app, free_ports(1)[0], certificates.tls("server"))
    await listener.up()
    yield app, listener, TlsFiles(ca=certificates.ca)
    listener.down()


@asynccontextmanager
async def wire_to(url: str, allowed: str, tls: TlsFiles, resolve: Names | None = None) -> AsyncIterator[Wire]:
    egress = Egress(parse_allowlist([allowed]), resolve)
    wire = Wire(egress, url, tls=client_context(tls), connections=2, connect_seconds=1, read_seconds=1)
    try:
        yield wire
    finally:
        await wire.aclose()
        egress.close()


async def test_the_name_is_verified_and_the_address_is_pinned(server: tuple[Counting, Listener, TlsFiles]) -> None:
    app, listener, tls = server
    port = listener.url.rpartition(":")[2]
    names = Names(["127.0.0.1"], ["192.0.2.1"])  # the second answer is an attacker's
    async with wire_to(f"https://localhost:{port}", f"localhost:{port}=127.0.0.0/8", tls, names) as wire:
        for _ in range(3):
            assert (await wire.send("GET", "/", headers={})).body == f"localhost:{port}".encode()
    assert (names.asked, app.requests) == (1, 3)


async def test_a_certificate_of_another_name_is_refused_before_anything_is_sent(
    server: tuple[Counting, Listener, TlsFiles],
) -> None:
    app, listener, tls = server
    port = listener.url.rpartition(":")[2]
    async with wire_to(
        f"https://bank.example:{port}", f"bank.example:{port}=127.0.0.0/8", tls, Names(["127.0.0.1"])
    ) as wire:
        with pytest.raises(NotSent):
            await wire.send("POST", "/v1/payments", headers={"Authorization": "Bearer key"}, content=b"{}")
    async with wire_to(listener.url, host_of(listener.url), TlsFiles()) as wire:  # a CA we do not know
        with pytest.raises(NotSent):
            await wire.send("GET", "/", headers={})
    assert app.requests == 0


@pytest.mark.parametrize(
    "addresses", [["10.0.0.5"], ["127.0.0.1"], ["169.254.169.254"], ["::1"], ["8.8.8.8", "10.0.0.5"]]
)
async def test_a_public_name_that_leads_inside_is_not_followed(
    server: tuple[Counting, Listener, TlsFiles], addresses: list[str]
) -> None:
    app, listener, tls = server
    port = listener.url.rpartition(":")[2]
    async with wire_to(f"https://localhost:{port}", f"localhost:{port}", tls, Names(addresses)) as wire:
        with pytest.raises(NotSent) as refused:
            await wire.send("GET", "/", headers={})
    assert not refused.value.configured
    assert app.requests == 0


async def test_the_next_address_is_tried_when_the_first_does_not_answer(
    server: tuple[Counting, Listener, TlsFiles],
) -> None:
    app, listener, tls = server
    port = listener.url.rpartition(":")[2]
    names = Names(["127.0.0.2", "127.0.0.1"])  # nobody listens on the first
    async with wire_to(f"https://localhost:{port}", f"localhost:{port}=127.0.0.0/8", tls, names) as wire:
        assert (await wire.send("GET", "/", headers={})).status == 200
    assert app.requests == 1


async def test_redirects_and_proxies_of_the_environment_are_not_followed(
    server: tuple[Counting, Listener, TlsFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, listener, tls = server
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    app.redirect_to = "https://evil.example/"
    async with wire_to(listener.url, host_of(listener.url), tls) as wire:
        assert (await wire.send("POST", "/", headers={}, content=b"{}")).status == 307
    assert app.requests == 1


async def test_a_name_server_that_stalls_costs_its_own_host_a_thread_and_nobody_else_anything(
    server: tuple[Counting, Listener, TlsFiles],
) -> None:
    _app, listener, tls = server
    port = int(listener.url.rpartition(":")[2])
    release = threading.Event()
    asked: list[str] = []

    def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        if host == "stalls.example":
            release.wait(10)
            raise OSError
        return ["127.0.0.1"]

    egress = Egress(parse_allowlist([f"localhost:{port}=127.0.0.0/8", "stalls.example"]), resolve)
    slow = Wire(egress, "https://stalls.example", tls=None, connections=64, connect_seconds=0.3, read_seconds=1)
    quick = Wire(
        egress, f"https://localhost:{port}", tls=client_context(tls), connections=2, connect_seconds=1, read_seconds=1
    )
    try:
        stalled = [asyncio.create_task(slow.send("GET", "/", headers={})) for _ in range(40)]
        await asyncio.sleep(0)
        assert (await quick.send("GET", "/", headers={})).status == 200
        for failed in await asyncio.gather(*stalled, return_exceptions=True):
            assert isinstance(failed, NotSent)
        assert asked.count("stalls.example") == 1
    finally:
        release.set()
        await slow.aclose()
        await quick.aclose()
        egress.close()


async def test_a_body_without_end_is_given_up(tmp_path: Path) -> None:
    """More than anybody answers is not read on, compressed or not."""

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(4):
            await send({"type": "http.response.body", "body": b" " * (MAX_ANSWER_BYTES // 2), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    certificates = CertificateStore(tmp_path / "tls")
    listener = Listener(endless, free_ports(1)[0], certificates.tls("server"))
    await listener.up()
    async with wire_to(listener.url, host_of(listener.url), TlsFiles(ca=certificates.ca)) as wire:
        with pytest.raises(Unknown):
            await wire.send("GET", "/", headers={})
    listener.down()


def test_resolving_uses_the_systems_names() -> None:
    assert socket.gethostbyname("localhost") in _resolve("localhost", 443)
