"""From an HTTP request to a command or query body: read within limits, merged with the path, checked by the schema."""

import asyncio
import re
from typing import Any
from uuid import UUID, uuid5

import orjson
import uuid_utils.compat as uuid_utils
from pydantic import ValidationError
from starlette.requests import Request

from gateway_shim.problems import FieldError, HttpProblem, ShimCode, of_validation
from gateway_shim.routes import Route
from schemas.codes import Code

IDEMPOTENCY_KEY = "idempotency-key"
AT_LEAST = "billing-at-least"
# Never change it: a client's key must mean the same command id for ever.
COMMAND_ID_NAMESPACE = UUID("6f1d7a52-0f0a-5c1e-9f39-2b1c8a4de7f3")
BODY_TIMEOUT_SECONDS = 10.0  # 256 kB at 26 kB/s: a slow mobile link, not a slow-loris
# How much of a body that is too large is read and thrown away: a client that is still sending when the connection closes
# sees a reset instead of its 413.
DRAIN_BYTES = 1024 * 1024
MAX_QUERY_BYTES = 4_096

_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_LENGTH = re.compile(r"[0-9]{1,18}")  # a longer one is no length, and int() refuses thousands of digits
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_JSON = re.compile(r'application/json *(; *charset *= *"?utf-8"? *)?', re.IGNORECASE)


def command_id(request: Request, route: Route, tenant_id: str) -> UUID:
    """The command id of an `Idempotency-Key` of this tenant; without a key, a fresh one. Raises HttpProblem (400)."""
    given = request.headers.getlist(IDEMPOTENCY_KEY)
    if not given:
        if route.command is not None and route.command.money_moving:
            raise HttpProblem(ShimCode.IDEMPOTENCY_KEY_REQUIRED)
        return uuid_utils.uuid7()
    if len(given) > 1 or not _IDEMPOTENCY_KEY.fullmatch(given[0]):
        raise HttpProblem(ShimCode.IDEMPOTENCY_KEY_INVALID)
    return uuid5(COMMAND_ID_NAMESPACE, f"{tenant_id}\n{given[0]}")


async def command_payload(request: Request, route: Route, tenant_id: str, max_bytes: int) -> bytes:
    """The body of a command, or of a query that is asked with a body, as it is published.

    Raises HttpProblem (400, 403, 408, 413, 415).
    """
    raw = await read_body(request, max_bytes)
    body = _object(request, raw) if raw else {}
    for field, value in request.path_params.items():
        if field in body and not _same(body[field], value):
            raise HttpProblem(
                ShimCode.PATH_BODY_MISMATCH, errors=[_field(field, "path_mismatch", "differs from the path")]
            )
        body[field] = value
    if request.query_params:
        raise HttpProblem(ShimCode.MALFORMED_REQUEST, "this route takes no query parameters")
    return _validated(route, body, tenant_id)


def _same(given: Any, value: str) -> bool:
    """Path parameters are text in JSON; anything else differs, and may be nested too deeply to be written as text."""
    return isinstance(given, str) and given.lower() == value.lower()


def query_payload(request: Request, route: Route, tenant_id: str) -> bytes:
    """The query's body from path and query string. Raises HttpProblem (400, 403)."""
    if len(request.scope["query_string"]) > MAX_QUERY_BYTES:
        raise HttpProblem(ShimCode.MALFORMED_REQUEST, f"the query string is longer than {MAX_QUERY_BYTES} bytes")
    body: dict[str, Any] = {}
    for field, text in request.query_params.multi_items():
        if field in body or field in request.path_params:
            raise HttpProblem(ShimCode.MALFORMED_REQUEST, errors=[_field(field, "repeated", "given more than once")])
        body[field] = int(text) if field in _whole_numbers(route) and _WHOLE_NUMBER.fullmatch(text) else text
    at_least = request.headers.get(AT_LEAST)
    if at_least is not None:
        body["at_least"] = at_least
    return _validated(route, body | request.path_params, tenant_id)


def _whole_numbers(route: Route) -> frozenset[str]:
    """The query's integer fields: everything else a query string can hold is text in JSON, too."""
    fields = route.model.model_fields
    return frozenset(name for name, field in fields.items() if field.annotation is int)


def _validated(route: Route, body: dict[str, Any], tenant_id: str) -> bytes:
    """`body` as JSON, after the schema has accepted exactly those bytes."""
    try:
        payload = orjson.dumps(body)
        model = route.model.model_validate_json(payload)
    except ValidationError as error:
        raise of_validation(error) from None
    except (orjson.JSONEncodeError, RecursionError):
        raise HttpProblem(ShimCode.MALFORMED_REQUEST, "the body cannot be represented as JSON") from None
    if model.tenant_id is not None and model.tenant_id != tenant_id:
        raise HttpProblem(Code.TENANT_MISMATCH)
    return payload


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The raw body; never more of it in memory than `max_bytes`. Raises HttpProblem (408, 413)."""
    announced = request.headers.get("content-length", "0")
    total = int(announced) if _LENGTH.fullmatch(announced) else 0
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            if total <= max_bytes + DRAIN_BYTES:
                total = 0
                async for chunk in request.stream():
                    total += len(chunk)
                    if total > max_bytes + DRAIN_BYTES:
                        break
                    if total <= max_bytes:
                        body += chunk
    except TimeoutError:
        raise HttpProblem(ShimCode.BODY_TIMEOUT, headers={"Connection": "close"}) from None
    if total > max_bytes:
        raise HttpProblem(ShimCode.BODY_TOO_LARGE, f"at most {max_bytes} bytes", headers={"Connection": "close"})
    return bytes(body)


def _object(request: Request, raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. orjson refuses NaN, invalid UTF-8, lone surrogates and bottomless nesting."""
    if not _JSON.fullmatch(request.headers.get("content-type", "")):
        raise HttpProblem(ShimCode.UNSUPPORTED_MEDIA_TYPE, headers={"Accept": "application/json"})
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at character {error.pos}"
        raise HttpProblem(Code.MALFORMED_COMMAND, errors=[_field("", "json_invalid", message)]) from None
    if not isinstance(body, dict):
        raise HttpProblem(Code.MALFORMED_COMMAND, errors=[_field("", "object_type", "the body must be a JSON object")])
    return body


def _field(field: str, rule: str, message: str) -> FieldError:
    return FieldError(field=field[:120], rule=rule, message=message)
