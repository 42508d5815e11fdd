"""The tenant service: `GET /tenants/{id}` → 200 TenantProfile, or 404 `{"error": "unknown_tenant"}`.

A profile is kept for a short time, and a while longer when the service is away (the topology document, §5): past that,
`tenant_service_unavailable`, which is retryable. An answer about somebody else, or one that is no profile, counts as none.
"""

from urllib.parse import quote

import orjson

from adapters.neighbours.cache import Cache, Found
from adapters.neighbours.client import Ask, Neighbour, Reply, Unavailable
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.tenant import TenantProfile

FRESH_SECONDS = 30.0
STALE_SECONDS = 300.0  # how long a tenant that lost its entitlement could still be served while the service is away
UNKNOWN_SECONDS = 5.0  # a hospital that has just been signed up should not wait long
PATIENCE_SECONDS = 1.0  # of a batch with a tenant nobody has asked for lately; the others in it wait along
SIZE = 10_000  # profiles of about 2 kB
_NOT_FOUND = 404
_UNKNOWN = "unknown_tenant"


class HttpTenantDirectory:
    """`adapters.neighbours.ports.TenantDirectory` over HTTP."""

    def __init__(
        self,
        neighbour: Neighbour,
        *,
        fresh_seconds: float = FRESH_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._neighbour = neighbour
        self._fresh_seconds, self._stale_seconds = fresh_seconds, stale_seconds
        self._cache: Cache[str, TenantProfile | None] = Cache(
            neighbour, self._fetch, patience_seconds=patience_seconds, size=SIZE
        )

    async def profile(self, tenant_id: str) -> TenantProfile | Problem:
        try:
            found = await self._cache.get(tenant_id)
        except Unavailable:
            return problem(Code.TENANT_SERVICE_UNAVAILABLE)
        return found or problem(Code.TENANT_NOT_ENTITLED)

    async def aclose(self) -> None:
        await self._cache.aclose()
        await self._neighbour.aclose()

    async def _fetch(self, tenant_id: str) -> Found[TenantProfile | None]:
        ask = Ask("GET", f"/tenants/{quote(tenant_id, safe='')}", expected=frozenset({200, _NOT_FOUND}))
        profile = await self._neighbour.ask(ask, lambda reply: _read(tenant_id, reply))
        if profile is None:
            return Found(None, min(UNKNOWN_SECONDS, self._fresh_seconds), 0)
        return Found(profile, self._fresh_seconds, self._stale_seconds)


def _read(tenant_id: str, reply: Reply) -> TenantProfile | None:
    """None for a tenant that is not known. Raises ValueError for what is no answer to the question."""
    answer = orjson.loads(reply.body)
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    if reply.status == _NOT_FOUND:
        # Any proxy on the way says 404; only the service's own word may refuse a tenant for good.
        if answer.get("error") != _UNKNOWN:
            raise ValueError("not the tenant service's 404")
        return None
    # What the service has learned to say since does not concern us.
    known = {name: value for name, value in answer.items() if name in TenantProfile.model_fields}
    profile = TenantProfile.model_validate_json(orjson.dumps(known))
    if profile.tenant_id != tenant_id:
        raise ValueError("the profile of another tenant")
    return profile
