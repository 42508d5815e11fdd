"""Who is asking: a JWT verified against the issuer's keys, and the tenant and scopes it carries."""

import re
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError, SecurityWarning
from joserfc.jwa import JWSAlgModel

from gateway_shim.jwks import Jwks, KeysUnavailable, PublicKey
from gateway_shim.problems import HttpProblem, ShimCode
from schemas.codes import Code
from schemas.headers import ACTOR_VALUE
from schemas.subjects import TENANT

# Asymmetric only, so that no public key can ever serve as an HMAC secret. Ed25519 is RFC 9864's name for EdDSA.
ALGORITHMS = ("RS256", "ES256", "EdDSA", "Ed25519")
MAX_TOKEN_BYTES = 8 * 1024  # nginx's, hence Kong's, limit for one header line
REALM = 'Bearer realm="billing"'
# About 1 kB each. More callers than these at a time are verified more often, no more.
MAX_VERIFIED = 4_096

_BEARER = re.compile(r"bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+) *", re.IGNORECASE)

# What reading a hostile token may raise: deep nesting a RecursionError, a header that is no object an AttributeError.
_UNREADABLE = (JoseError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Principal:
    """The verified caller: `actor` is the token's subject."""

    tenant_id: str
    actor: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises the 403 that names the scope."""
        if scope not in self.scopes:
            raise HttpProblem(
                Code.SCOPE_MISSING,
                f"this route needs the scope {scope}",
                headers={"WWW-Authenticate": f'{REALM}, error="insufficient_scope", scope="{scope}"'},
            )


class _Registry(jws.JWSRegistry):
    """Registered header parameters are checked; others are ignored, as RFC 7515 §4 wants, unless `crit` names them."""

    max_header_length = 2_048

    def get_alg(self, name: str) -> JWSAlgModel:
        with warnings.catch_warnings():
            # joserfc deprecates the name EdDSA (RFC 9864); issuers still send it, and the algorithm is sound.
            warnings.simplefilter("ignore", SecurityWarning)
            return super().get_alg(name)


class _Verified(NamedTuple):
    """`key` is the object that Jwks gave: fetched again, it is another. `expires_at`: Unix time, leeway included."""

    principal: Principal
    kid: str
    key: PublicKey
    expires_at: float


class Authenticator:
    """Verifies bearer tokens. Raises HttpProblem: 401 for the token, 403 for the tenant, 503 without any keys.

    A token that was verified counts for as long as it would anew: until it expires, and while the issuer publishes the very key
    it was verified with. Only what was verified is kept, so nobody can fill the memory with rubbish; digests, no tokens.
    """

    def __init__(self, jwks: Jwks, *, issuer: str, audience: str, leeway_seconds: int) -> None:
        self._jwks = jwks
        self._leeway_seconds = leeway_seconds
        self._verified: dict[bytes, _Verified] = {}
        self._registry = _Registry(algorithms=list(ALGORITHMS), strict_check_header=False)
        self._claims = jwt.JWTClaimsRegistry(
            leeway=leeway_seconds,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    async def authenticate(self, authorization: list[str]) -> Principal:
        """The principal behind the request's `Authorization` header lines."""
        token = _bearer(authorization)
        digest = sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and time.time() < known.expires_at and await self._key(known.kid) is known.key:
            return known.principal
        self._verified.pop(digest, None)
        verified = await self._verify(token)
        while len(self._verified) >= MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]  # the one that came first
        self._verified[digest] = verified
        return verified.principal

    async def _verify(self, token: str) -> _Verified:
        kid = self._kid(token)
        key = await self._key(kid)
        if key is None:
            raise _unauthorized(ShimCode.TOKEN_INVALID, "the issuer has no such key (kid)")
        try:
            claims = jwt.decode(token, key, registry=self._registry).claims
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise _unauthorized(ShimCode.TOKEN_EXPIRED) from None
        except _UNREADABLE as error:
            raise _unauthorized(ShimCode.TOKEN_INVALID, _why(error)) from None
        return _Verified(_principal(claims), kid, key, claims["exp"] + self._leeway_seconds)

    def _kid(self, token: str) -> str:
        """The id of the key the token's header names. Nothing else in the header (jwk, jku, x5u) is believed."""
        try:
            header = jws.extract_compact(token.encode(), registry=self._registry).headers()
            kid, algorithm = header.get("kid"), header.get("alg")
        except _UNREADABLE:
            raise _unauthorized(ShimCode.TOKEN_INVALID, "not a signed JWT") from None
        if algorithm not in ALGORITHMS:
            raise _unauthorized(ShimCode.TOKEN_INVALID, f"signature algorithms are {', '.join(ALGORITHMS)}")
        if not isinstance(kid, str) or not kid:
            raise _unauthorized(ShimCode.TOKEN_INVALID, "the token names no key (kid)")
        return kid

    async def _key(self, kid: str) -> PublicKey | None:
        try:
            return await self._jwks.key(kid)
        except KeysUnavailable:
            raise HttpProblem(ShimCode.ISSUER_UNAVAILABLE) from None


def _bearer(authorization: list[str]) -> str:
    if not authorization:
        raise HttpProblem(ShimCode.TOKEN_MISSING, headers={"WWW-Authenticate": REALM})
    if len(authorization) > 1:
        raise _unauthorized(ShimCode.TOKEN_INVALID, "more than one Authorization header")
    if len(authorization[0]) > MAX_TOKEN_BYTES:
        raise _unauthorized(ShimCode.TOKEN_INVALID, f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    match = _BEARER.fullmatch(authorization[0])
    if match is None:
        raise _unauthorized(ShimCode.TOKEN_INVALID, "not of the form: Bearer <JWT>")
    return match[1]


def _principal(claims: dict[str, Any]) -> Principal:
    """Tenant, actor and scopes out of verified claims."""
    tenant, scope = claims.get("tenant"), claims.get("scope", "")
    if not ACTOR_VALUE.fullmatch(claims["sub"]):
        raise _unauthorized(ShimCode.TOKEN_INVALID, "sub must be 1 to 128 printable ASCII characters")
    if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise HttpProblem(ShimCode.TENANT_CLAIM_INVALID)
    if not isinstance(scope, str):
        raise _unauthorized(ShimCode.TOKEN_INVALID, "scope must be a string of space-separated scopes")
    return Principal(tenant, claims["sub"], _scopes(scope))


@lru_cache(maxsize=256)
def _scopes(text: str) -> frozenset[str]:
    """One set for all tokens with the same scopes: there are a few roles, and thousands of tokens kept."""
    return frozenset(text.split())


def _unauthorized(code: ShimCode, detail: str | None = None) -> HttpProblem:
    return HttpProblem(code, detail, headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'})


def _why(error: Exception) -> str:
    """The library's own words for a bad claim or signature; they name claims, never values."""
    description = error.description if isinstance(error, JoseError) else ""
    return (description or "the token cannot be read")[:200]
