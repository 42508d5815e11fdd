"""Whether messages may be carried into this deployment: the same admission that every command passes."""

from collections.abc import Iterable

from adapters.neighbours.ports import TenantDirectory
from domain.admission import admission
from schemas.subjects import TENANT
from tools.replay.errors import ReplayError


async def check(directory: TenantDirectory, region: str, tenants: Iterable[str]) -> None:
    """Raises ReplayError naming every tenant whose data may not be here, before anything is sent."""
    refused = []
    for tenant in sorted(tenants):
        refusal = admission(await directory.profile(tenant), region) if TENANT.fullmatch(tenant) else None
        if refusal is not None:
            refused.append(f"{tenant}: {refusal.code} ({refusal.message})")
    if refused:
        raise ReplayError(f"not for region {region}: " + "; ".join(refused))
