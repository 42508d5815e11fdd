"""The issuer's public keys: fetched from `JWKS_URL`, cached, refreshed when a token names a key nobody knows yet."""

import asyncio
import time

import httpx
import orjson
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

FETCH_TIMEOUT_SECONDS = (
    2.0  # inside the client's patience: Kong's read timeout is longer than this plus the reply timeout
)
MAX_DOCUMENT_BYTES = 256 * 1024  # about 500 RSA keys; an issuer has two or three
# Tokens with made-up key ids must not turn into requests to the issuer: at most one of these every 10 s. It is also how
# long the first tokens of a newly published key may be refused, so issuers publish a key before they sign with it.
UNKNOWN_KEY_REFRESH_SECONDS = 10.0
FAILED_REFRESH_SECONDS = 2.0  # while the issuer is away: how long nobody asks again
STALE_KEYS_SECONDS = 24 * 3600.0  # how long keys are trusted that could not be confirmed since

MIN_RSA_BITS = 2048  # NIST SP 800-131A
SIGNATURE_CURVES = frozenset({"P-256", "Ed25519"})

PublicKey = RSAKey | ECKey | OKPKey

log = structlog.get_logger()


class KeysUnavailable(Exception):
    """No usable keys: the issuer was never reached, or not for `STALE_KEYS_SECONDS`."""


class Jwks:
    """A cached key set. Keys are looked up by `kid`; concurrent refreshes share one fetch."""

    def __init__(self, url: str, http: httpx.AsyncClient, *, cache_seconds: float) -> None:
        self._url, self._http, self._cache_seconds = url, http, cache_seconds
        self._keys: dict[str, PublicKey] = {}
        self._fetched_at = self._failed_at = self._unknown_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, kid: str) -> PublicKey | None:
        """The key of that id, or None where the issuer has none. Raises KeysUnavailable."""
        now = time.monotonic()
        if now - self._fetched_at > self._cache_seconds:
            await self._refresh(seen=self._fetched_at)
        elif kid not in self._keys and now - self._unknown_at > UNKNOWN_KEY_REFRESH_SECONDS:
            self._unknown_at = now
            await self._refresh(seen=self._fetched_at)
        elif kid not in self._keys and self._fetching.locked():
            await self._refresh(seen=self._fetched_at)  # shares the fetch that is under way
        if time.monotonic() - self._fetched_at > STALE_KEYS_SECONDS:
            raise KeysUnavailable
        return self._keys.get(kid)

    async def _refresh(self, *, seen: float) -> None:
        """Fetch, unless somebody else has while we waited or just failed to. Keeps the old keys on any failure."""
        async with self._fetching:
            if self._fetched_at != seen or time.monotonic() - self._failed_at < FAILED_REFRESH_SECONDS:
                return
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                    self._keys = usable_keys(await self._fetch())
                self._fetched_at = time.monotonic()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
                self._failed_at = time.monotonic()
                log.warning("jwks_refresh_failed", error=type(error).__name__, detail=str(error)[:200])

    async def _fetch(self) -> bytes:
        """The document. ValueError when it is too large; httpx errors as they come, redirects not followed."""
        document = bytearray()
        async with self._http.stream("GET", self._url, timeout=FETCH_TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                document += chunk
                if len(document) > MAX_DOCUMENT_BYTES:
                    raise ValueError("the JWKS document is too large")
        return bytes(document)


def usable_keys(document: bytes) -> dict[str, PublicKey]:
    """Public signature keys by id. Symmetric, encryption, weak and nameless ones are left out.

    ValueError where it is no JWKS document or nothing in it is usable.
    """
    parsed = orjson.loads(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWKS document")
    keys: dict[str, PublicKey] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = JWKRegistry.import_key(entry) if entry.get("kty") in ("RSA", "EC", "OKP") else None
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # one broken key must not take the others away
        if isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS:
            continue
        if isinstance(key, ECKey | OKPKey) and key.curve_name not in SIGNATURE_CURVES:
            continue
        if isinstance(key, RSAKey | ECKey | OKPKey):
            keys[entry["kid"]] = key
    if not keys:
        raise ValueError("the JWKS document holds no usable key")
    return keys
