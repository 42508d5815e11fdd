"""What the sandbox's services know and have been told: one per process, in memory."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from adapters.neighbours.static import StaticNeighbours
from schemas.tenant import TenantProfile
from tools.sandbox.gateway_world import Gateway
from tools.sandbox.issuer import Keys

Resource = dict[str, Any]
Codes = frozenset[str] | Literal["*"]


def _code_systems() -> dict[str, Codes]:
    """As in a mesh's static file: every code of these systems is valid, except `NO-SUCH-…`."""
    from tools.stack.tenant_file import CODE_SYSTEMS

    return dict.fromkeys(CODE_SYSTEMS, "*")


@dataclass
class World:
    """`tenants` are those the admin endpoint was given; `file` (a mesh's) has further ones, and is read when it changes."""

    keys: Keys
    file: StaticNeighbours | None = None
    tenants: dict[str, TenantProfile] = field(default_factory=dict)
    code_systems: dict[str, Codes] = field(default_factory=_code_systems)
    # By (type, id): every version that was put, the latest last.
    resources: dict[tuple[str, str], list[Resource]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    gateway: Gateway = field(default_factory=Gateway)

    async def tenant(self, tenant_id: str) -> TenantProfile | None:
        found: object = self.tenants.get(tenant_id)
        if found is None and self.file is not None:
            found = await self.file.profile(tenant_id)
        return found if isinstance(found, TenantProfile) else None
