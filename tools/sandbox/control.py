"""Controls a running sandbox from a test, a demo or a Python prompt. Synchronous: an answer takes a millisecond."""

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

from schemas.tenant import TenantProfile
from tools.sandbox.faults import Mode
from tools.sandbox.gateway_control import GatewayControl
from tools.sandbox.issuer import mint_with

_TIMEOUT_SECONDS = 10
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # or httpx reads every CA of the system for each request


class ServiceState(NamedTuple):
    """`requests` arrived so far; `client_serials` counts them per client certificate."""

    url: str
    mode: str
    requests: int
    in_flight: int
    client_serials: dict[str, int]


class Control:
    """Raises httpx.HTTPStatusError for what the sandbox refuses."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url

    def fault(
        self,
        service: str,
        mode: Mode,
        *,
        delay_ms: int = 0,
        status: int = 500,
        times: int | None = None,
        path: str | None = None,
    ) -> None:
        """Tell a service to misbehave (tools/sandbox/faults.py has the modes); `times` requests only, where given, and only
        below `path`."""
        body = {"mode": mode, "delay_ms": delay_ms, "status": status, "times": times, "path": path}
        self._send("PUT", f"/services/{service}/fault", body)

    def recover(self, service: str | None = None) -> None:
        """One service, or all of them, are as they should be."""
        if service is None:
            self._send("POST", "/recover")
        else:
            self.fault(service, "ok")

    @contextmanager
    def faulty(self, service: str, mode: Mode, **options: Any) -> Iterator[None]:
        """The fault lasts as long as the block."""
        self.fault(service, mode, **options)
        try:
            yield
        finally:
            self.recover(service)

    def state(self, service: str) -> ServiceState:
        found = self._send("GET", "/services")[service]
        return ServiceState(**{name: found[name] for name in ServiceState._fields})

    def add_tenant(self, profile: TenantProfile) -> None:
        self._send("PUT", f"/tenants/{profile.tenant_id}", profile.model_dump(mode="json"))

    def remove_tenant(self, tenant_id: str) -> None:
        self._send("DELETE", f"/tenants/{tenant_id}")

    def code_systems(self, systems: Mapping[str, Sequence[str] | str]) -> None:
        """What the terminology service knows from now on; "*" is every code of a system."""
        self._send(
            "PUT",
            "/code-systems",
            {system: codes if codes == "*" else list(codes) for system, codes in systems.items()},
        )

    def asked(self, what: str) -> int:
        """How often a tenant id, `<system>|<code>`, `PUT <FHIR type>`, `code-suggestions` or `jwks` was asked for."""
        return int(self._send("GET", "/asked").get(what, 0))

    def resources(self) -> dict[str, list[dict[str, Any]]]:
        """The fhir-gateway's resources by `Type/id`, every version, the latest last."""
        found: dict[str, list[dict[str, Any]]] = self._send("GET", "/resources")
        return found

    def gateway(self, merchant: str) -> GatewayControl:
        """A merchant of the payment gateway: what it did, and what it is to do besides."""
        return GatewayControl(merchant, self._send)

    def rotate_keys(self) -> None:
        """The token issuer signs with new keys; the old ones stay published."""
        self._send("POST", "/issuer/rotate")

    def retire_keys(self) -> None:
        self._send("POST", "/issuer/retire")

    def mint(self, tenant: str, scopes: Sequence[str] = (), ttl_seconds: int = 300) -> str:
        """A token signed with the issuer's current key."""
        return mint_with(self._send("GET", "/issuer/credentials"), tenant, scopes, ttl_seconds)

    def certificates(self) -> dict[str, str]:
        """Serial numbers of the `server` and `client` certificates now in use."""
        return dict(self._send("GET", "/certificates"))

    def rotate_certificates(self) -> dict[str, str]:
        """New certificates on both sides; clients are asked to connect anew."""
        return dict(self._send("POST", "/certificates/rotate"))

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        response = httpx.request(method, f"{self.admin_url}{path}", json=body, timeout=_TIMEOUT_SECONDS, verify=_NO_TLS)
        response.raise_for_status()
        return response.json() if response.content else None
