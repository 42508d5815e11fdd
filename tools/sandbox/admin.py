"""The sandbox's admin endpoint, on loopback. `tools/sandbox/control.py` is its client.

| request | does |
|---|---|
| GET /services | every service: url, mode, requests so far, in flight, requests per client certificate |
| PUT /services/{name}/fault | a `Fault` (faults.py) |
| POST /recover | every service is well again |
| PUT /tenants/{id}, DELETE /tenants/{id} | a TenantProfile |
| PUT /code-systems | `{system: [codes] or "*"}`, instead of what was |
| GET /asked | how often each tenant, code, … was asked for |
| GET /resources | the FHIR resources, every version |
| POST /issuer/rotate, POST /issuer/retire, GET /issuer/credentials | the token issuer's keys |
| GET /certificates, POST /certificates/rotate | serial numbers now in use |
| /gateway/{merchant}/… | the payment gateway: gateway_admin.py |
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from schemas.tenant import TenantProfile
from tools.sandbox import gateway_admin
from tools.sandbox.certificate_store import CertificateStore
from tools.sandbox.faults import Fault, state
from tools.sandbox.world import World

if TYPE_CHECKING:
    from tools.sandbox.server import Service

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(world: World, services: "Mapping[str, Service]", certificates: CertificateStore) -> list[Route]:
    return [
        *_service_routes(services),
        *_world_routes(world),
        *_key_routes(world, certificates),
        *gateway_admin.routes(world.gateway),
    ]


def _service_routes(services: "Mapping[str, Service]") -> list[Route]:
    async def listed(_request: Request) -> Response:
        return JSONResponse({name: _state(service) for name, service in services.items()})

    async def set_fault(request: Request) -> Response:
        service = services.get(request.path_params["name"])
        if service is None:
            return JSONResponse({"error": f"no such service; there are {', '.join(services)}"}, 404)
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        await _apply(service, fault)
        return JSONResponse(_state(service))

    async def recover(_request: Request) -> Response:
        for service in services.values():
            await _apply(service, Fault())
        return Response(status_code=204)

    return [
        Route("/services", listed),
        Route("/services/{name}/fault", set_fault, methods=["PUT"]),
        Route("/recover", recover, methods=["POST"]),
    ]


async def _apply(service: "Service", fault: Fault) -> None:
    service.switch.set(fault)
    if fault.mode == "down":
        service.listener.down()
    else:
        await service.listener.up()


def _state(service: "Service") -> dict[str, Any]:
    listener = service.listener
    return {"url": listener.url, **state(service.switch), "client_serials": dict(listener.client_serials)}


def _world_routes(world: World) -> list[Route]:
    async def put_tenant(request: Request) -> Response:
        try:
            profile = TenantProfile.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        world.tenants[profile.tenant_id] = profile
        return Response(status_code=204)

    async def delete_tenant(request: Request) -> Response:
        world.tenants.pop(request.path_params["tenant_id"], None)
        return Response(status_code=204)

    async def put_code_systems(request: Request) -> Response:
        given: dict[str, Any] = await request.json()
        world.code_systems = {system: codes if codes == "*" else frozenset(codes) for system, codes in given.items()}
        return Response(status_code=204)

    async def asked(_request: Request) -> Response:
        return JSONResponse(dict(world.asked))

    async def resources(_request: Request) -> Response:
        return JSONResponse({f"{kind}/{id_}": versions for (kind, id_), versions in world.resources.items()})

    return [
        Route("/tenants/{tenant_id}", put_tenant, methods=["PUT"]),
        Route("/tenants/{tenant_id}", delete_tenant, methods=["DELETE"]),
        Route("/code-systems", put_code_systems, methods=["PUT"]),
        Route("/asked", asked),
        Route("/resources", resources),
    ]


def _key_routes(world: World, certificates: CertificateStore) -> list[Route]:
    async def rotate_keys(_request: Request) -> Response:
        world.keys.rotate()
        return Response(status_code=204)

    async def retire_keys(_request: Request) -> Response:
        world.keys.retire_old_keys()
        return Response(status_code=204)

    async def credentials(_request: Request) -> Response:
        return JSONResponse(world.keys.credentials())

    async def serials(_request: Request) -> Response:
        return JSONResponse(certificates.serials._asdict())

    async def rotate_certificates(_request: Request) -> Response:
        return JSONResponse(certificates.rotate()._asdict())

    return [
        Route("/issuer/rotate", rotate_keys, methods=["POST"]),
        Route("/issuer/retire", retire_keys, methods=["POST"]),
        Route("/issuer/credentials", credentials),
        Route("/certificates", serials),
        Route("/certificates/rotate", rotate_certificates, methods=["POST"]),
    ]
