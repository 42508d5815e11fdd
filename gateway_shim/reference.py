"""`/openapi.json` and the API reference at `/docs`: our own files, no remote assets."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway_shim import openapi

Page = Callable[[Request], Awaitable[Response]]

_CSP = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_CACHE = "public, max-age=300"


def pages() -> dict[str, Page]:
    """Path → page. Everything is read and rendered once, when the application is made."""
    static = files("gateway_shim") / "static"
    return {
        "/openapi.json": _page(orjson.dumps(openapi.document()), "application/json"),
        "/docs": _page((static / "reference.html").read_bytes(), "text/html"),
        "/docs/reference.css": _page((static / "reference.css").read_bytes(), "text/css"),
        "/docs/reference.js": _page((static / "reference.js").read_bytes(), "text/javascript"),
    }


def _page(content: bytes, media_type: str) -> Page:
    async def respond(_request: Request) -> Response:
        return Response(
            content, headers={"Content-Security-Policy": _CSP, "Cache-Control": _CACHE}, media_type=media_type
        )

    return respond
