"""One HTTPS request to a payment gateway, and what is certain of it: answered, never sent, or nobody knows."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple

import httpx

from adapters.gateways.egress import Egress, EgressRefused, Target
from adapters.gateways.ports import Unknown

MAX_ANSWER_BYTES = 512 * 1024  # Stripe's largest here, a page of refunds, has under 200 kB
# Shorter than the idle time of any server we know of: a connection that its server closes just as we send leaves an unknown.
KEEP_ALIVE_SECONDS = 4.0


class NotSent(Exception):
    """Certainly not done: no connection was made. `configured` False: the target itself is not allowed."""

    def __init__(self, detail: str, *, configured: bool = True) -> None:
        self.configured = configured
        super().__init__(detail)


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """To one host. `connect_seconds` bounds the connection (name, TCP, TLS), `read_seconds` each wait for bytes."""

    def __init__(
        self,
        egress: Egress,
        base_url: str,
        *,
        tls: ssl.SSLContext | None,
        connections: int,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        self._egress, self._base_url = egress, base_url
        self._http = httpx.AsyncClient(
            transport=_Pinned(egress, tls, connections, connect_seconds),
            follow_redirects=False,
            trust_env=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "billing-mesh"},
            timeout=httpx.Timeout(read_seconds, connect=connect_seconds, pool=connect_seconds),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(self, method: str, path: str, *, headers: Mapping[str, str], content: bytes | None = None) -> Reply:
        """The answer, whatever its status. `path` follows the base URL. Raises NotSent, Unknown."""
        if self._http.is_closed:
            raise NotSent("closed")
        try:
            target = self._egress.target(self._base_url)
        except EgressRefused as error:
            raise NotSent(str(error), configured=False) from None
        body = bytearray()
        try:
            request = self._http.stream(method, target.base_url + path, headers=headers, content=content)
            async with request as response:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise Unknown("answer too large")
        except EgressRefused as error:
            raise NotSent(str(error), configured=False) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(type(error).__name__) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            # Only the kind: messages may quote what the gateway sent.
            raise Unknown(type(error).__name__) from None
        return Reply(response.status_code, response.headers, bytes(body))


class _Pinned(httpx.AsyncBaseTransport):
    """Connects to addresses that were checked, in order, and verifies the certificate for the name all the same."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext | None, connections: int, connect_seconds: float) -> None:
        self._egress, self._connect_seconds = egress, connect_seconds
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls if tls is not None else True, trust_env=False, limits=limits, retries=0
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        place = Target(request.url.host, request.url.port or 443, "")
        try:
            async with asyncio.timeout(self._connect_seconds):
                addresses = await self._egress.addresses(place)
        except TimeoutError:
            raise httpx.ConnectTimeout("the host's name is not resolved in time", request=request) from None
        except OSError as error:
            raise httpx.ConnectError("the host's name cannot be resolved", request=request) from error
        failed: httpx.TransportError = httpx.ConnectError("no address", request=request)
        for address in addresses:
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # the Host header is the name's
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": place.host},
            )
            try:
                return await self._transport.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failed = error  # nothing was sent: the next address may do
        raise failed

    async def aclose(self) -> None:
        await self._transport.aclose()
