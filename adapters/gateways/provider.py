"""Each tenant's gateway, as its profile says: made when it is first needed, made anew when the profile changes.

gateways = Gateways(settings, secrets, on_circuit=report)
gateway = gateways.of(profile)         # None: the tenant has none
answer = await gateway.charge(charge)
await gateways.aclose()
"""

import asyncio
import functools
import ssl
from collections.abc import Callable
from typing import NamedTuple

import httpx
import structlog

from adapters.gateways import circuit, metrics
from adapters.gateways.circuit import Circuit
from adapters.gateways.egress import Egress, parse_allowlist
from adapters.gateways.generic import GenericGateway
from adapters.gateways.guard import Bounds, Guarded
from adapters.gateways.keys import Credentials
from adapters.gateways.ports import Gateway
from adapters.gateways.wire import Wire
from adapters.secrets import SecretDirectory
from adapters.settings import GatewaySettings
from adapters.tls import TlsFiles, client_context
from schemas.gateway import GatewayAdapter, GatewayProfile
from schemas.tenant import TenantProfile

STRIPE_URL = "https://api.stripe.com"
_STATES = {"closed": metrics.CLOSED, "half_open": metrics.HALF_OPEN, "open": metrics.OPEN}

log = structlog.get_logger()


class CircuitChange(NamedTuple):
    """A tenant's gateway stopped answering (`open`, and until when it will not be asked), or answers again (`closed`)."""

    tenant_id: str
    adapter: GatewayAdapter
    change: circuit.Change


class Gateways:
    """One per process; in the event loop that uses it."""

    def __init__(
        self,
        settings: GatewaySettings,
        secrets: SecretDirectory,
        *,
        on_circuit: Callable[[CircuitChange], None] | None = None,
    ) -> None:
        """`on_circuit` is called in the event loop and must not block. Raises OSError or ssl.SSLError where the CA file cannot
        be used."""
        self._settings, self._secrets, self._on_circuit = settings, secrets, on_circuit
        self._egress = Egress(parse_allowlist(settings.gateway_allowed_hosts))
        self._tls = _tls(settings)
        self._tenants: dict[str, _Tenant] = {}
        self._closing: dict[asyncio.Task[None], _Tenant] = {}  # replaced ones, until their last call has ended

    def of(self, profile: TenantProfile) -> Gateway | None:
        """The tenant's gateway as its profile says now; None where it has none."""
        tenant_id, wanted = profile.tenant_id, profile.gateway
        known = self._tenants.get(tenant_id)
        if known is not None and known.profile != wanted:
            self._retire(tenant_id, known)
            known = None
        if known is None and wanted is not None:
            known = self._tenants[tenant_id] = self._open(tenant_id, wanted)
        return known.gateway if known is not None else None

    async def aclose(self) -> None:
        """Calls that are still under way end as unknown: cancel or await them before."""
        tenants = [*self._tenants.values(), *self._closing.values()]
        self._tenants = {}
        for closing in self._closing:
            closing.cancel()
        for tenant in tenants:
            await tenant.wire.aclose()
        self._egress.close()

    def _open(self, tenant_id: str, profile: GatewayProfile) -> "_Tenant":
        settings = self._settings
        limits = circuit.Limits(
            settings.gateway_circuit_failures,
            settings.gateway_circuit_open_seconds,
            settings.gateway_circuit_open_max_seconds,
        )
        breaker = Circuit(limits, lambda change: self._changed(tenant_id, opened, change))
        metrics.CIRCUIT_STATE.labels(tenant_id, profile.adapter).set(metrics.CLOSED)
        wire = Wire(
            self._egress,
            base_url(profile),
            tls=self._tls,
            connections=settings.gateway_concurrency,
            connect_seconds=settings.gateway_connect_timeout_seconds,
            read_seconds=settings.gateway_timeout_seconds,
        )
        credentials = Credentials(functools.partial(self._secrets.payment_gateway_key, tenant_id))
        bounds = Bounds(settings.gateway_concurrency, settings.gateway_timeout_seconds)
        guarded = Guarded(_adapter(profile, wire, credentials), profile.adapter, breaker, bounds)
        opened = _Tenant(profile, guarded, wire, breaker)
        return opened

    def _retire(self, tenant_id: str, tenant: "_Tenant") -> None:
        """Its calls that are under way end as they would have."""
        del self._tenants[tenant_id]
        metrics.CIRCUIT_STATE.remove(tenant_id, tenant.profile.adapter)
        if tenant.circuit.state != "closed":
            self._report(CircuitChange(tenant_id, tenant.profile.adapter, circuit.Change("closed")))
        closing = asyncio.get_running_loop().create_task(tenant.close_when_idle())
        self._closing[closing] = tenant
        closing.add_done_callback(self._closing.pop)

    def _changed(self, tenant_id: str, tenant: "_Tenant", change: circuit.Change) -> None:
        if self._tenants.get(tenant_id) is not tenant:
            return  # the last calls of one that was replaced say nothing about its successor
        adapter = tenant.profile.adapter
        metrics.CIRCUIT_STATE.labels(tenant_id, adapter).set(_STATES[change.state])
        log.warning("gateway_circuit", tenant_id=tenant_id, adapter=adapter, state=change.state)
        if change.state != "half_open":
            self._report(CircuitChange(tenant_id, adapter, change))

    def _report(self, change: CircuitChange) -> None:
        if self._on_circuit is not None:
            self._on_circuit(change)


class _Tenant(NamedTuple):
    profile: GatewayProfile
    gateway: Guarded
    wire: Wire
    circuit: Circuit

    async def close_when_idle(self) -> None:
        await self.gateway.idle()
        await self.wire.aclose()


def base_url(profile: GatewayProfile) -> str:
    """Where requests go. Empty where the profile does not say and must: no allowlist has that."""
    return profile.url or (STRIPE_URL if profile.adapter == "stripe" else "")


def _adapter(profile: GatewayProfile, wire: Wire, credentials: Credentials) -> Gateway:
    if profile.adapter == "stripe":
        from adapters.gateways.stripe import (
            StripeGateway,  # here: its library is large, and few deployments have a tenant of it
        )

        return StripeGateway(wire, credentials, account=profile.account)
    return GenericGateway(wire, credentials)


def _tls(settings: GatewaySettings) -> ssl.SSLContext:
    """One for all tenants. Without a file of CAs, the public ones (certifi's, as httpx has them)."""
    ca = settings.gateway_tls_ca_file
    return client_context(TlsFiles(ca=ca)) if ca is not None else httpx.create_ssl_context(trust_env=False)
