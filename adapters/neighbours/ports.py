"""What the pipeline and the queries ask of the outside services, whoever answers."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from schemas.outcome import Problem
from schemas.tenant import TenantProfile


class CodedItem(NamedTuple):
    """A charge code in its FHIR code system."""

    system: str
    code: str


class TenantDirectory(Protocol):
    """The tenant service."""

    async def profile(self, tenant_id: str) -> TenantProfile | Problem:
        """The tenant's profile, or `tenant_not_entitled` for one that is not known, or `tenant_service_unavailable`."""
        ...


class Terminology(Protocol):
    """The terminology service (FHIR `CodeSystem/$validate-code`)."""

    async def validate(self, items: Iterable[CodedItem]) -> Mapping[CodedItem, Problem | None]:
        """Per item None where the code is valid, else `charge_code_unknown` or `terminology_unavailable` (fail closed)."""
        ...
