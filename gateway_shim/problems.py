"""Refusals over HTTP: RFC 9457 problem documents.

A refusal of the mesh keeps its code from `schemas.codes`. What only HTTP can get wrong has a code of its own here.
Neither echoes a value of the request: field errors name the path and the rule.
"""

from enum import StrEnum
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from schemas.codes import Code
from schemas.outcome import Problem

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:billing:problem:"
RETRY_AFTER_SECONDS = 2
MAX_FIELD_ERRORS = 20  # more than anyone reads; keeps a document of 500 bad lines small
MAX_PATH = 120  # characters; an unknown field's name is the client's own text


class ShimCode(StrEnum):
    """Refusals that never reach the mesh."""

    TOKEN_MISSING = "token_missing"
    TOKEN_INVALID = "token_invalid"
    TOKEN_EXPIRED = "token_expired"
    TENANT_CLAIM_INVALID = "tenant_claim_invalid"
    SIGNATURE_INVALID = "signature_invalid"
    WEBHOOK_MALFORMED = "webhook_malformed"
    ISSUER_UNAVAILABLE = "issuer_unavailable"
    IDEMPOTENCY_KEY_REQUIRED = "idempotency_key_required"
    IDEMPOTENCY_KEY_INVALID = "idempotency_key_invalid"
    MALFORMED_REQUEST = "malformed_request"
    PATH_BODY_MISMATCH = "path_body_mismatch"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    BROKER_UNAVAILABLE = "broker_unavailable"
    INTERNAL_ERROR = "internal_error"


_SHIM: dict[ShimCode, tuple[int, str]] = {
    ShimCode.TOKEN_MISSING: (401, "a bearer token is required"),
    ShimCode.TOKEN_INVALID: (401, "the bearer token is not acceptable"),
    ShimCode.TOKEN_EXPIRED: (401, "the bearer token has expired"),
    ShimCode.TENANT_CLAIM_INVALID: (403, "the token's tenant claim names no tenant"),
    ShimCode.SIGNATURE_INVALID: (401, "the webhook is not signed with a secret of this tenant, or not now"),
    ShimCode.WEBHOOK_MALFORMED: (400, "the webhook is signed, but its body is not as agreed"),
    ShimCode.ISSUER_UNAVAILABLE: (503, "the keys of the token issuer cannot be read at the moment"),
    ShimCode.IDEMPOTENCY_KEY_REQUIRED: (400, "this route moves money and needs an Idempotency-Key header"),
    ShimCode.IDEMPOTENCY_KEY_INVALID: (400, "an Idempotency-Key is 1 to 255 printable ASCII characters, given once"),
    ShimCode.MALFORMED_REQUEST: (400, "the request is malformed"),
    ShimCode.PATH_BODY_MISMATCH: (400, "the body names another id than the path"),
    ShimCode.BODY_TOO_LARGE: (413, "the body is larger than this service accepts"),
    ShimCode.BODY_TIMEOUT: (408, "the body did not arrive in time"),
    ShimCode.UNSUPPORTED_MEDIA_TYPE: (415, "the body must be application/json in UTF-8"),
    ShimCode.ROUTE_NOT_FOUND: (404, "there is nothing at this path"),
    ShimCode.METHOD_NOT_ALLOWED: (405, "this path does not take this method"),
    ShimCode.RATE_LIMITED: (429, "this tenant sends more requests than agreed; Retry-After says when to go on"),
    ShimCode.OVERLOADED: (503, "too many requests are in flight"),
    ShimCode.BROKER_UNAVAILABLE: (503, "the message broker is not answering"),
    ShimCode.INTERNAL_ERROR: (500, "something went wrong here; the correlation id finds it in the log"),
}


class FieldError(BaseModel):
    """Which field broke which rule; `field` is empty where the rule is about the whole."""

    model_config = ConfigDict(extra="forbid")
    field: str
    rule: str
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457. `command_id`: the command may be queued nevertheless; ask for its outcome, or send it again."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(pattern=f"^{TYPE_PREFIX}[a-z_]+$")
    title: str
    status: int
    code: str
    retryable: bool
    correlation_id: str
    detail: str | None = None
    command_id: str | None = None
    details: dict[str, Any] | None = None
    errors: list[FieldError] | None = None


class HttpProblem(Exception):
    """Raised anywhere in a request; `gateway_shim.edge` turns it into the response."""

    def __init__(
        self,
        code: Code | ShimCode,
        detail: str | None = None,
        *,
        errors: list[FieldError] | None = None,
        details: dict[str, Any] | None = None,
        command_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(str(code))
        self.code, self.detail, self.errors, self.details = code, detail, errors, details
        self.command_id, self.headers = command_id, headers or {}

    @property
    def status(self) -> int:
        return _SHIM[self.code][0] if isinstance(self.code, ShimCode) else self.code.meaning.http_status

    @property
    def retryable(self) -> bool:
        """A fixed property of the code: of the shim's own, exactly the 503s, the 408 and the 429."""
        return self.status in (503, 408, 429) if isinstance(self.code, ShimCode) else self.code.retryable


def of_mesh(problem: Problem, command_id: str | None = None) -> HttpProblem:
    """The HTTP form of a refusal by the mesh."""
    return HttpProblem(problem.code, problem.message, details=problem.details or None, command_id=command_id)


def of_validation(error: ValidationError, code: Code | ShimCode = Code.MALFORMED_COMMAND) -> HttpProblem:
    """The HTTP form of a body or query string that does not match its schema. Carries no input."""
    found = error.errors(include_input=False, include_context=False, include_url=False)[:MAX_FIELD_ERRORS]
    errors = [
        FieldError(
            field=".".join(str(part) for part in each["loc"])[:MAX_PATH],
            rule=each["type"],
            message=each["msg"].removeprefix("Value error, "),
        )
        for each in found
    ]
    return HttpProblem(code, errors=errors)


def response(problem: HttpProblem, correlation_id: str) -> Response:
    """The problem document, with `Retry-After` on a 503."""
    title = _SHIM[problem.code][1] if isinstance(problem.code, ShimCode) else problem.code.meaning.text
    document = ProblemDocument(
        type=TYPE_PREFIX + problem.code.value,
        title=title,
        status=problem.status,
        code=problem.code.value,
        retryable=problem.retryable,
        correlation_id=correlation_id,
        detail=problem.detail if problem.detail != title else None,
        command_id=problem.command_id,
        details=problem.details,
        errors=problem.errors,
    )
    headers = dict(problem.headers)
    if problem.status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    content = orjson.dumps(document.model_dump(mode="json", exclude_none=True))
    return Response(content, problem.status, headers=headers, media_type=MEDIA_TYPE)
