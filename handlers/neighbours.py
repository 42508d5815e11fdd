"""Who answers for the outside services in this process: a file in development, HTTP clients otherwise."""

from typing import NamedTuple

from adapters.neighbours import ai
from adapters.neighbours.ai import Suggestions
from adapters.neighbours.client import Neighbour
from adapters.neighbours.fhir_gateway import FhirGateway
from adapters.neighbours.fhir_gateway import limits as fhir_limits
from adapters.neighbours.pools import Limits
from adapters.neighbours.ports import TenantDirectory, Terminology
from adapters.neighbours.static import StaticNeighbours
from adapters.neighbours.tenant import HttpTenantDirectory
from adapters.neighbours.terminology import HttpTerminology
from adapters.settings import (
    FhirSettings,
    NeighbourClientSettings,
    NeighbourSettings,
    RuntimeSettings,
    SettingsError,
    load,
)
from adapters.tls import ReloadingContext, TlsFiles, client_context


class Neighbours(NamedTuple):
    directory: TenantDirectory
    terminology: Terminology
    suggestions: Suggestions

    async def aclose(self) -> None:
        """Closes connections and gives up what is under way."""
        for each in self:
            if isinstance(each, HttpTenantDirectory | HttpTerminology | Suggestions):
                await each.aclose()


def neighbours(runtime: RuntimeSettings, settings: NeighbourSettings | None = None) -> Neighbours:
    """The services of a running event loop. `settings` None: from the environment, unless the file stands in.

    Raises SettingsError: without a tenant service, no command could be admitted. None of the services is asked here; a role
    starts, and is ready, while they are away.
    """
    if runtime.tenant_directory_file is not None:
        static = StaticNeighbours(runtime.tenant_directory_file)
        return Neighbours(static, static, Suggestions(None))
    settings = settings or load(NeighbourSettings)
    gateway = None
    if settings.ai_gateway_url is not None:
        gateway = Neighbour("ai-gateway", settings.ai_gateway_url, tls=tls_context(settings), limits=ai.LIMITS)
    return Neighbours(
        HttpTenantDirectory(
            _neighbour("tenant-service", settings.tenant_service_url, settings),
            fresh_seconds=settings.tenant_cache_seconds,
            stale_seconds=settings.tenant_stale_seconds,
        ),
        HttpTerminology(
            _neighbour("terminology-service", settings.terminology_service_url, settings),
            valid_seconds=settings.terminology_cache_seconds,
        ),
        Suggestions(gateway),
    )


def fhir_gateway(settings: FhirSettings) -> FhirGateway | None:
    """None where no URL is given. Raises SettingsError as `neighbours` does."""
    if settings.fhir_gateway_url is None:
        return None
    limits = fhir_limits(seconds=settings.neighbour_timeout_seconds, concurrency=settings.fhir_concurrency)
    return FhirGateway(Neighbour("fhir-gateway", settings.fhir_gateway_url, tls=tls_context(settings), limits=limits))


def tls_context(settings: NeighbourClientSettings) -> ReloadingContext | None:
    """mTLS towards the services, or None for the system's CAs. Raises SettingsError where the files are of no use."""
    files = TlsFiles(settings.neighbour_tls_ca_file, settings.neighbour_tls_cert_file, settings.neighbour_tls_key_file)
    if not files.any:
        return None
    try:
        return client_context(files)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError([f"NEIGHBOUR_TLS_*: the files cannot be used ({type(error).__name__})"]) from None


def _neighbour(name: str, url: str, settings: NeighbourSettings) -> Neighbour:
    """A context of its own: httpx sets ALPN on the one it is given."""
    limits = Limits(
        read_seconds=settings.neighbour_timeout_seconds,
        deadline_seconds=settings.neighbour_timeout_seconds,
        concurrency=settings.neighbour_concurrency,
    )
    return Neighbour(name, url, tls=tls_context(settings), limits=limits)
