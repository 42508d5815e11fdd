"""Whether a tenant may use this deployment at all (DOMAIN "Residency"). The first stage of every command and query."""

from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.tenant import TenantProfile


def admission(profile: TenantProfile | Problem, region: str, country_profile: str | None = None) -> Problem | None:
    """The refusal for a tenant in the deployment of `region`, or None. An unknown profile refuses with its own problem.

    A tenant of another country is as foreign as one of another region (docs/decisions/0030); `country_profile` None leaves
    that unchecked. Either needs the tenant's opt-in.
    """
    if isinstance(profile, Problem):
        return profile
    if not profile.entitled:
        return problem(Code.TENANT_NOT_ENTITLED)
    return None if profile.cross_region_opt_in else _border(profile, region, country_profile)


def opted_in(profile: TenantProfile | Problem, region: str, country_profile: str | None = None) -> bool:
    """Whether a tenant that is admitted would not be without its opt-in: every use of that is audited."""
    return (
        isinstance(profile, TenantProfile)
        and profile.cross_region_opt_in
        and _border(profile, region, country_profile) is not None
    )


def _border(profile: TenantProfile, region: str, country_profile: str | None) -> Problem | None:
    if profile.region != region:
        return problem(Code.RESIDENCY_VIOLATION, None, tenant_region=profile.region, region=region)
    if country_profile is not None and profile.country_profile != country_profile:
        countries = {"tenant_country": profile.country_profile, "country": country_profile}
        return problem(Code.RESIDENCY_VIOLATION, "the tenant's data belongs in another country", **countries)
    return None
