"""The connections to one outside service, made anew when certificates are rotated.

A connection keeps the certificate that it was made with, and one in constant use never becomes idle: so requests after a
rotation go to a new pool, and the old one is closed with its last answer. No request fails for it.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx

from adapters.tls import ReloadingContext

MAX_ANSWER_BYTES = 256 * 1024  # a tenant profile has 2 kB, a FHIR Parameters 1 kB
KEEP_ALIVE_SECONDS = 30.0


class Limits(NamedTuple):
    """`deadline_seconds` bounds all tries of one question together, their waiting for a slot included."""

    connect_seconds: float = 1.0
    read_seconds: float = 2.0
    deadline_seconds: float = 2.0
    tries: int = 3
    concurrency: int = 16
    max_answer_bytes: int = MAX_ANSWER_BYTES


class Pools:
    """`tls` None: the system's CAs and no client certificate."""

    def __init__(self, base_url: str, tls: ssl.SSLContext | None, limits: Limits) -> None:
        self._base_url, self._tls, self._limits = base_url, tls, limits
        self._generation = self._files_now()
        self._pool = _Pool(self._client())

    @asynccontextmanager
    async def current(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request, with the certificates that are there now."""
        if (generation := self._files_now()) != self._generation:
            retired, self._pool, self._generation = self._pool, _Pool(self._client()), generation
            await retired.retire()
        pool = self._pool
        pool.users += 1
        try:
            yield pool.client
        finally:
            pool.users -= 1
            await pool.close_if_done()

    async def aclose(self) -> None:
        await self._pool.client.aclose()

    def _files_now(self) -> int:
        return self._tls.generation() if isinstance(self._tls, ReloadingContext) else 0

    def _client(self) -> httpx.AsyncClient:
        limits = self._limits
        return httpx.AsyncClient(
            base_url=self._base_url,
            verify=self._tls if self._tls is not None else True,
            follow_redirects=False,
            trust_env=False,
            # Compressed answers could unpack to anything.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds),
            limits=httpx.Limits(
                max_connections=limits.concurrency,
                max_keepalive_connections=limits.concurrency,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            ),
        )


class _Pool:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client, self.users, self._retired = client, 0, False

    async def retire(self) -> None:
        self._retired = True
        await self.close_if_done()

    async def close_if_done(self) -> None:
        if self._retired and not self.users:
            await self.client.aclose()
