"""Whether a tenant may use this deployment at all (DOMAIN "Residency"). The first stage of every command and query."""

from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.tenant import TenantProfile


def admission(profile: TenantProfile | Problem, region: str) -> Problem | None:
    """The refusal for a tenant in the deployment of `region`, or None. An unknown profile refuses with its own problem."""
    if isinstance(profile, Problem):
        return profile
    if not profile.entitled:
        return problem(Code.TENANT_NOT_ENTITLED)
    if profile.region != region and not profile.cross_region_opt_in:
        return problem(Code.RESIDENCY_VIOLATION, None, tenant_region=profile.region, region=region)
    return None
