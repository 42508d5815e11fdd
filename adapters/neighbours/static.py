"""A file in place of the tenant and terminology services, for development and tests; production settings refuse it.

The file is JSON: `{"tenants": [TenantProfile, …], "code_systems": {"http://loinc.org": ["1234-5", …] or "*"}}`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from adapters.neighbours.ports import CodedItem
from schemas.base import WireModel
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.tenant import TenantProfile


class StaticFileError(Exception):
    """The file cannot be read or does not have the shape above; the message says where."""


class StaticContent(WireModel):
    tenants: tuple[TenantProfile, ...] = ()
    code_systems: dict[str, frozenset[str] | Literal["*"]] = {}  # noqa: RUF012 - pydantic copies defaults


class StaticNeighbours:
    """Answers for both services. The file is read again when it has changed, so that tenants can be added while running."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed_at_ns = -1
        self._tenants: dict[str, TenantProfile] = {}
        self._code_systems: dict[str, frozenset[str] | Literal["*"]] = {}
        self._refresh()

    async def profile(self, tenant_id: str) -> TenantProfile | Problem:
        self._refresh()
        return self._tenants.get(tenant_id) or problem(Code.TENANT_NOT_ENTITLED)

    async def validate(self, items: Iterable[CodedItem]) -> Mapping[CodedItem, Problem | None]:
        self._refresh()
        return {item: self._validity(item) for item in items}

    def _validity(self, item: CodedItem) -> Problem | None:
        codes = self._code_systems.get(item.system, frozenset[str]())
        if codes == "*" or item.code in codes:
            return None
        return problem(Code.CHARGE_CODE_UNKNOWN, None, system=item.system, code=item.code)

    def _refresh(self) -> None:
        try:
            changed_at_ns = self._path.stat().st_mtime_ns
            if changed_at_ns == self._changed_at_ns:
                return
            content = TypeAdapter(StaticContent).validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StaticFileError(f"{self._path.name}: {error}") from None
        self._tenants = {tenant.tenant_id: tenant for tenant in content.tenants}
        self._code_systems = dict(content.code_systems)
        self._changed_at_ns = changed_at_ns
