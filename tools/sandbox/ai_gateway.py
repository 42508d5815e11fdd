"""ai-gateway-service. Its contract:

    POST /v1/code-suggestions {"text": "…", "code_system": "http://loinc.org" | null, "limit": 5}
        →  200 {"suggestions": [{"code_system", "code", "display", "confidence"}]}, best first, confidence 0 to 1

Lying, it suggests things that are no codes, with confidences of 400 %.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.sandbox.faults import lies
from tools.sandbox.world import World

_DEFAULT_SYSTEM = "http://loinc.org"


def routes(world: World) -> list[Route]:
    async def suggest(request: Request) -> Response:
        asked: dict[str, Any] = await request.json()
        world.asked["code-suggestions"] += 1
        if lies(request.scope):
            wrong = {"code_system": "no system", "code": "'; DROP TABLE charge --", "display": "x", "confidence": 4.0}
            return JSONResponse({"suggestions": [wrong]})
        system = asked.get("code_system") or _DEFAULT_SYSTEM
        words = [word for word in asked["text"].split() if word.isalnum() and word.isascii()]
        suggestions = [
            {"code_system": system, "code": f"S-{word[:32].upper()}", "display": word, "confidence": 0.9 / (place + 1)}
            for place, word in enumerate(words[: asked.get("limit", 5)])
        ]
        return JSONResponse({"suggestions": suggestions})

    return [Route("/v1/code-suggestions", suggest, methods=["POST"])]
