"""tenant-service. Its contract:

    GET /tenants/{tenant_id}  →  200 schemas.tenant.TenantProfile as JSON
                                 404 {"error": "unknown_tenant"} for one it does not know

Lying, it answers with the profile of another tenant (entitled, opted in): what a mixed-up cache in front of it would do.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.sandbox.faults import lies
from tools.sandbox.world import World


def routes(world: World) -> list[Route]:
    async def profile(request: Request) -> Response:
        tenant_id = request.path_params["tenant_id"]
        world.asked[tenant_id] += 1
        found = await world.tenant(tenant_id)
        if lies(request.scope):
            lie = {"tenant_id": f"not-{tenant_id}"[:64], "cross_region_opt_in": True, "entitled": True}
            base = found.model_dump(mode="json") if found else {"name": "x", "region": "xx", "country_profile": "AFG"}
            return JSONResponse(base | lie)
        if found is None:
            return JSONResponse({"error": "unknown_tenant"}, 404)
        return JSONResponse(found.model_dump(mode="json"))

    return [Route("/tenants/{tenant_id}", profile)]
