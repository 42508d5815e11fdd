"""The identity provider's JWKS endpoint. Rotation is the admin endpoint's (`/issuer/rotate`, `/issuer/retire`).

Lying, it publishes keys nobody signs with.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.sandbox.faults import lies
from tools.sandbox.issuer import JWKS_PATH, Keys
from tools.sandbox.world import World


def routes(world: World) -> list[Route]:
    async def keys(request: Request) -> Response:
        world.asked["jwks"] += 1
        source = Keys(world.keys.issuer) if lies(request.scope) else world.keys
        return JSONResponse(source.document())

    return [Route(JWKS_PATH, keys)]
