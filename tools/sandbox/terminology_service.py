"""terminology-service: FHIR R4 `CodeSystem/$validate-code` (GET, type level). Its contract:

    GET /CodeSystem/$validate-code?url=<system>&code=<code>
        →  200 Parameters: result (boolean), and message (string) where it is false; display and code where it is true
           404 OperationOutcome where the code system itself is not known

Codes that begin with `NO-SUCH-` are never valid. Lying, it says that every code is valid, but echoes another code: a client
that trusts `result` alone would let an unvalidated charge through.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.sandbox.faults import lies
from tools.sandbox.world import World

INVALID_PREFIX = "NO-SUCH-"
_FHIR_JSON = "application/fhir+json"


def routes(world: World) -> list[Route]:
    async def validate_code(request: Request) -> Response:
        system, code = request.query_params.get("url", ""), request.query_params.get("code", "")
        world.asked[f"{system}|{code}"] += 1
        if lies(request.scope):
            return _parameters({"result": True, "code": f"{code}-other", "system": system, "display": "something else"})
        codes = world.code_systems.get(system)
        if codes is None:
            return _outcome(404, "not-found", "no such code system")
        if (codes == "*" or code in codes) and not code.startswith(INVALID_PREFIX):
            return _parameters({"result": True, "code": code, "system": system, "display": f"The code {code}"})
        return _parameters({"result": False, "code": code, "system": system, "message": "no such code"})

    return [Route("/CodeSystem/$validate-code", validate_code)]


def _parameters(values: dict[str, str | bool]) -> Response:
    listed: list[dict[str, Any]] = []
    for name, value in values.items():
        kind = "valueBoolean" if isinstance(value, bool) else "valueUri" if name == "system" else "valueString"
        listed.append({"name": name, kind: value})
    body = {"resourceType": "Parameters", "parameter": listed}
    return JSONResponse(body, media_type=_FHIR_JSON)


def _outcome(status: int, code: str, text: str) -> Response:
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return JSONResponse({"resourceType": "OperationOutcome", "issue": [issue]}, status, media_type=_FHIR_JSON)
