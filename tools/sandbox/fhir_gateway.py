"""interop-service (fhir-gateway): FHIR R4 REST that stores what it gets, every version. Its contract:

    PUT /{type}/{id}        →  201 created, 200 updated: the resource with meta.versionId; 400 where type or id disagree;
                               412 where If-Match names another version, or If-None-Match: * finds one
    GET /{type}/{id}        →  200 the latest version, or 404
    GET /{type}?_id=a,b     →  200 searchset Bundle of the latest versions; without _id, of all of the type

It keeps a version only where something changed (`meta` aside), so a repeated PUT is seen to be idempotent. Lying, it answers a
PUT with a resource of another id, and stores nothing. What names `Patient/refused` is refused for good: 422, as by a server that
knows all its patients.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.sandbox.faults import lies
from tools.sandbox.world import Resource, World

_REFUSED = b"Patient/refused"
_FHIR_JSON = "application/fhir+json"


def routes(world: World) -> list[Route]:
    async def put(request: Request) -> Response:
        kind, resource_id = request.path_params["kind"], request.path_params["id"]
        try:
            resource: Any = await request.json()
        except ValueError:
            return _outcome(400, "structure", "not JSON")
        named = (resource.get("resourceType"), resource.get("id")) if isinstance(resource, dict) else None
        if named != (kind, resource_id):
            return _outcome(400, "invalid", "resourceType and id must be those of the URL")
        world.asked[f"PUT {kind}"] += 1
        if lies(request.scope):
            return _fhir(resource | {"id": f"not-{resource_id}"}, 200)
        if _REFUSED in await request.body():
            return _outcome(422, "business-rule", "Patient/refused (Nooria, 1971) is nobody")
        if not _as_expected(request, world.resources.get((kind, resource_id), [])):
            return _outcome(412, "conflict", "the resource has another version")
        versions = world.resources.setdefault((kind, resource_id), [])
        created = not versions
        if created or _content(versions[-1]) != _content(resource):
            meta = (resource.get("meta") or {}) | {"versionId": str(len(versions) + 1)}
            versions.append(resource | {"meta": meta})
        return _fhir(versions[-1], 201 if created else 200)

    async def get(request: Request) -> Response:
        versions = world.resources.get((request.path_params["kind"], request.path_params["id"]))
        return _fhir(versions[-1]) if versions else _outcome(404, "not-found", "no such resource")

    async def search(request: Request) -> Response:
        kind = request.path_params["kind"]
        given = request.query_params.get("_id")
        ids = set(given.split(",")) if given is not None else None
        found = [
            versions[-1]
            for (stored_kind, resource_id), versions in world.resources.items()
            if stored_kind == kind and (ids is None or resource_id in ids)
        ]
        entries = [{"fullUrl": f"{kind}/{resource['id']}", "resource": resource} for resource in found]
        return _fhir({"resourceType": "Bundle", "type": "searchset", "total": len(found), "entry": entries})

    return [
        Route("/{kind}/{id}", put, methods=["PUT"]),
        Route("/{kind}/{id}", get, methods=["GET"]),
        Route("/{kind}", search, methods=["GET"]),
    ]


def _as_expected(request: Request, versions: list[Resource]) -> bool:
    """R4 §3.1.0.5: a versioned update, and a create that must not be an update."""
    if request.headers.get("if-none-match") == "*":
        return not versions
    wanted = request.headers.get("if-match")
    return wanted is None or (bool(versions) and wanted == f'W/"{versions[-1]["meta"]["versionId"]}"')


def _content(resource: Resource) -> Resource:
    return {key: value for key, value in resource.items() if key != "meta"}


def _fhir(body: Resource, status: int = 200) -> Response:
    return JSONResponse(body, status, media_type=_FHIR_JSON)


def _outcome(status: int, code: str, text: str) -> Response:
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return _fhir({"resourceType": "OperationOutcome", "issue": [issue]}, status)
