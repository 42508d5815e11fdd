"""Where requests to payment gateways may go: base URLs come from tenants' configuration, and tenants are not us.

    egress = Egress(parse_allowlist(("api.stripe.com", "bridge.bank.example:8443=10.20.0.0/16")))
    target = egress.target("https://api.stripe.com/v1")      # EgressRefused: not allowed, with the reason
    addresses = await egress.addresses(target)               # checked; connect to one of these and to nothing else

The text of a URL is matched, not interpreted: what libraries disagree about (user info, hexadecimal and short IPv4, zone ids,
trailing dots, escapes) is refused. Names are resolved here once, and the connection goes to the address that was checked, so
an answer that changes in between (DNS rebinding) changes nothing.
"""

import asyncio
import functools
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve: TypeAlias = Callable[[str, int], Sequence[str]]

HTTPS_PORT = 443
MAX_URL = 512
ADDRESSES_SECONDS = 30.0  # how long checked addresses are used: fewer look-ups than requests, and a move is seen soon
# One look-up per name at a time, each in a thread: a name server that stalls for one tenant's host holds one of these.
_RESOLVER_THREADS = 16

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}")
_URL = re.compile(
    r"https://(?P<host>\[[0-9a-f:]+\]|[a-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?"
)
_ENTRY = re.compile(
    r"(?P<host>\[[0-9a-f:]+\]|[a-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?(?:=(?P<network>[0-9a-f.:]+/[0-9]{1,3}))?"
)
# Not everything that is no host of the internet is "private" to Python: addresses that carry another address inside
# (IPv4-mapped and -compatible, NAT64, 6to4, Teredo), site-local ones, shared address space and what is set aside for tests.
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4",
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16", "fc00::/7", "fec0::/10",
    )
)  # fmt: skip


class EgressRefused(Exception):
    """The request must not be made. The text says why, without the URL, which may carry what somebody typed into it."""


class Target(NamedTuple):
    """A base URL in parts: `host` as it is verified in the certificate, `path` without a trailing slash."""

    host: str
    port: int
    path: str

    @property
    def base_url(self) -> str:
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"


class Allowed(NamedTuple):
    """`network`: the only addresses a host may have, private ones included; None: public ones."""

    host: str
    port: int
    network: Network | None


def parse_allowlist(entries: Iterable[str]) -> Mapping[tuple[str, int], Allowed]:
    """`host`, `host:port` (public addresses only), `host:port=network`, or `address:port`, which is its own network.

    Raises ValueError for anything else, and for a network that holds link-local or multicast addresses.
    """
    found = [_allowed(entry) for entry in entries]
    return {(each.host, each.port): each for each in found}


class Egress:
    """One per process: the allowlist, and the addresses found for its hosts. `resolve` gives a name's addresses; it may block
    and raise OSError."""

    def __init__(self, allowed: Mapping[tuple[str, int], Allowed], resolve: Resolve | None = None) -> None:
        self._allowed, self._resolve = allowed, resolve or _resolve
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="gateway-dns")
        self._found: dict[Target, tuple[float, tuple[str, ...]]] = {}
        self._looking: dict[Target, asyncio.Task[tuple[str, ...]]] = {}

    def close(self) -> None:
        for looking in self._looking.values():
            looking.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def target(self, base_url: str) -> Target:
        """The allowed target of a base URL. Raises EgressRefused."""
        match = _URL.fullmatch(base_url) if len(base_url) <= MAX_URL else None
        if match is None:
            raise EgressRefused("not a plain https URL of a host, an optional port and a path")
        host, port = match["host"].strip("[]"), int(match["port"] or HTTPS_PORT)
        if (host, port) not in self._allowed:
            raise EgressRefused("host and port are not on this deployment's allowlist")
        return Target(host, port, match["path"])

    async def addresses(self, target: Target) -> tuple[str, ...]:
        """Addresses to connect to, all checked. Raises EgressRefused, OSError where the name cannot be resolved."""
        place = target._replace(path="")
        found = self._found.get(place)
        if found is not None and time.monotonic() < found[0]:
            return found[1]
        looking = self._looking.get(place)
        if looking is None:
            looking = self._looking[place] = asyncio.get_running_loop().create_task(self._look_up(place))
            looking.add_done_callback(functools.partial(self._looked_up, place))
        # Shielded: who gives up must not take the answer from the others who wait for it.
        return await asyncio.shield(looking)

    def _looked_up(self, place: Target, looking: asyncio.Task[tuple[str, ...]]) -> None:
        del self._looking[place]
        if not looking.cancelled():
            looking.exception()  # seen, also where everybody who asked has given up

    async def _look_up(self, place: Target) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        given = await loop.run_in_executor(self._threads, self._resolve, place.host, place.port)
        addresses = checked(given, self._allowed[place.host, place.port].network)
        self._found[place] = (time.monotonic() + ADDRESSES_SECONDS, addresses)
        return addresses


def checked(addresses: Sequence[str], network: Network | None) -> tuple[str, ...]:
    """The addresses as given, if each may be connected to. Raises EgressRefused: one that must not be damns them all."""
    if not addresses:
        raise EgressRefused("the host has no address")
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise EgressRefused("the host's address is none") from None
        refused = not _is_public(address) if network is None else address not in network
        if refused or _is_never_a_host(address):
            raise EgressRefused("the host's address is not one that may be connected to")
    return tuple(dict.fromkeys(addresses))


def _allowed(entry: str) -> Allowed:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError("an entry is host, host:port, host:port=network or address:port")
    host, port = match["host"].strip("[]"), int(match["port"] or HTTPS_PORT)
    if port > 65_535:
        raise ValueError("no such port")
    network = ipaddress.ip_network(match["network"]) if match["network"] else _own_network(host)
    if network is None and not _NAME.fullmatch(host):
        raise ValueError("not a host name")
    if network is not None and (_is_never_a_host(network[0]) or _is_never_a_host(network[-1])):
        raise ValueError("the network holds addresses that are no hosts")
    return Allowed(host, port, network)


def _own_network(host: str) -> Network | None:
    try:
        return ipaddress.ip_network(host)
    except ValueError:
        # 127.1, 0x7f.1 and 2130706433 are addresses to some resolvers and no names to anybody.
        if re.fullmatch(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", host):
            raise ValueError("neither a host name nor an address in its usual form") from None
        return None


def _is_public(address: Address) -> bool:
    carried = any(address in network for network in _NEVER_PUBLIC if network.version == address.version)
    return address.is_global and not carried and not _is_never_a_host(address)


def _is_never_a_host(address: Address) -> bool:
    """Link-local is where clouds keep the credentials of the machine: not even the operator's own entry opens it."""
    scoped = isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped)
    return bool(scoped) or address.is_link_local or address.is_multicast or address.is_unspecified


def _resolve(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(each[4][0]) for each in found]
