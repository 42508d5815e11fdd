"""The OpenAPI 3.1 document, generated from the route table, the registry and the models."""

import copy
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway_shim import webhook_docs
from gateway_shim.problems import MEDIA_TYPE, ProblemDocument
from gateway_shim.requests import COMMAND_ID_NAMESPACE
from gateway_shim.routes import ROUTES, WEBHOOKS, Route
from schemas.base import EXPONENTS
from schemas.codes import MEANINGS, Code
from schemas.registry import CommandSpec, QuerySpec

Json = dict[str, Any]

VERSION = "1"
TITLE = "Billing"
DESCRIPTION = f"""
A thin HTTP form of the billing mesh. Every `POST` and `PATCH` is a command: it is queued durably, decided once, and
answered with its outcome. Every `GET` is a query, and so is asking for code suggestions, whose text has no place in a URL.

* **Retries are safe.** Send an `Idempotency-Key`: the same key and body give the same outcome, `status: duplicate`.
  Routes that move money require it. The command id is the UUIDv5 of tenant, newline and key in the namespace
  `{COMMAND_ID_NAMESPACE}`.
* **200 or 201** means committed. **202** means durably queued, the outcome is still out: ask
  `GET /v1/commands/{{command_id}}`.
* **Refusals** are problem documents (RFC 9457) with a stable `code`; a `retryable` one may succeed later under the same
  key.
* **Read your own write**: pass an answer's `Billing-Position` as `Billing-At-Least`.
* Money is whole minor units of an ISO 4217 currency: `125000` AED is AED 1,250.00.
"""
_REF = "#/components/schemas/{model}"
_PROBLEMS: dict[int, str] = {
    400: "The request is malformed: `errors` names the fields",
    401: "No acceptable bearer token, or signature",
    403: "The token lacks the scope, or the tenant may not do this",
    404: "Something the request names does not exist",
    408: "The body did not arrive in time",
    409: "The state of things does not allow it",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The request makes no sense as it stands: amounts, currencies, shares",
    429: "This tenant sends more than agreed, in all or on this route",
    500: "The command failed and was dead-lettered with its body",
    503: "Try again later: a service or the broker is away, or too many requests are in flight",
}
_PROBLEM_HEADERS: dict[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit-Policy", "RateLimit"),
    503: ("Retry-After",),
}
_BODY_ONLY = (408, 413, 415)


def document() -> Json:
    """The whole document as JSON-ready data."""
    schemas = _schemas()
    paths: Json = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    schemas[webhook_docs.RECEIPT] = webhook_docs.receipt()
    receipt = _REF.format(model=webhook_docs.RECEIPT)
    paths[WEBHOOKS] = {"post": webhook_docs.operation(receipt, _referred_problems(webhook_docs.STATUSES))}
    used = _reachable(schemas, [*_references(paths), "Problem"])
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": DESCRIPTION.strip()},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in [*dict.fromkeys(_tag(route) for route in ROUTES), "webhooks"]],
        "paths": paths,
        "components": {
            "schemas": {name: schemas[name] for name in sorted(used)},
            "responses": {f"Problem{status}": _problem(status, text) for status, text in _PROBLEMS.items()},
            "headers": _response_headers(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _references(node: Any) -> list[str]:
    """Names of the component schemas that `node` refers to."""
    if isinstance(node, list):
        return [name for each in node for name in _references(each)]
    if not isinstance(node, dict):
        return []
    found = [name for each in node.values() for name in _references(each)]
    prefix, target = _REF.format(model=""), node.get("$ref", "")
    return [*found, target.removeprefix(prefix)] if target.startswith(prefix) else found


def _reachable(schemas: Json, names: list[str]) -> set[str]:
    """Those names and whatever they refer to; what is left over was only raw material."""
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name not in seen:
            seen.add(name)
            names.extend(_references(schemas[name]))
    return seen


def _tag(route: Route) -> str:
    return route.path.split("/")[2]


def _operation(route: Route, schemas: Json) -> Json:
    spec = route.spec
    common: Json = {
        "operationId": route.name.replace(".", "_"),
        "summary": spec.summary,
        "description": _description(route),
        "tags": [_tag(route)],
        "security": [{"bearer": [spec.scope]}],
    }
    if isinstance(spec, CommandSpec):
        common["parameters"] = [*_path_parameters(route, schemas), _idempotency_key(spec.money_moving)]
        body = _body(route, schemas)
        return (
            common | ({"requestBody": body} if body else {}) | {"responses": _command_responses(route, spec, schemas)}
        )
    return common | _query_operation(route, spec, schemas)


def _query_operation(route: Route, spec: QuerySpec, schemas: Json) -> Json:
    """What is particular to queries: their fields in the query string, or for a POST in a body."""
    answer = _content("application/json", {"$ref": _REF.format(model=spec.result.__name__)})
    success: Json = {"description": "The answer", "headers": _headers("Billing-Position"), "content": answer}
    if route.method == "POST":
        parameters, asked = _path_parameters(route, schemas), {"requestBody": _body(route, schemas)}
    else:
        parameters, asked = [*_path_parameters(route, schemas), *_query_parameters(route, schemas), _at_least()], {}
    responses = {"200": success} | _problem_responses(with_body=route.method == "POST")
    return {"parameters": parameters, **asked, "responses": responses}


def _description(route: Route) -> str:
    """The model's own docstring, the subject it becomes, and the events it leaves behind."""
    own = (route.model.__doc__ or "").strip() if route.model.__doc__ != route.model.__mro__[1].__doc__ else ""
    kind = "cmd" if route.command else "qry"
    parts = [re.sub(r"\s*\n\s*", " ", own), f"On NATS: `billing.v1.{kind}.<tenant>.{route.name}`."]
    if route.command is not None:
        parts.append("Events: " + ", ".join(f"`{event}`" for event in route.command.events) + ".")
    parts.append(f"Scope: `{route.spec.scope}`.")
    return "\n\n".join(part for part in parts if part)


def _path_parameters(route: Route, schemas: Json) -> list[Json]:
    properties = schemas[route.model.__name__]["properties"]
    return [
        {"name": name, "in": "path", "required": True, "schema": _not_null(properties[name])}
        for name in route.path_parameters
    ]


def _query_parameters(route: Route, schemas: Json) -> list[Json]:
    model = schemas[route.model.__name__]
    left_out = {"tenant_id", "at_least", *route.path_parameters}
    return [
        {"name": name, "in": "query", "required": name in model.get("required", ()), "schema": _not_null(schema)}
        for name, schema in model["properties"].items()
        if name not in left_out
    ]


def _not_null(schema: Json) -> Json:
    """A parameter's schema: left out is how a query string says null."""
    schema = {key: value for key, value in schema.items() if key != "default" or value is not None}
    variants = [each for each in schema.pop("anyOf", []) if each.get("type") != "null"]
    return schema | variants[0] if variants else schema


def _body(route: Route, schemas: Json) -> Json | None:
    """The command's schema without what the path says; None where nothing is left to say."""
    model = copy.deepcopy(schemas[route.model.__name__])
    for name in ("tenant_id", *route.path_parameters):
        model["properties"].pop(name, None)
        model["required"] = [each for each in model.get("required", ()) if each != name]
    if not model["properties"]:
        return None
    if not model["required"]:
        del model["required"]
    name = f"{route.model.__name__}Body"
    schemas[name] = model | {"title": name}
    content = _content("application/json", {"$ref": _REF.format(model=name)})
    return {"required": "required" in model, "content": content}


def _command_responses(route: Route, spec: CommandSpec, schemas: Json) -> Json:
    outcome = f"{spec.result.__name__}Outcome"
    schemas[outcome] = _outcome(spec.result.__name__, outcome)
    content = _content("application/json", {"$ref": _REF.format(model=outcome)})
    positioned = {"headers": _headers("Billing-Position"), "content": content}
    responses: Json = {"200": {"description": "Committed, now or when it was sent before"} | positioned}
    if route.status != 200:
        responses["200"] = {"description": "Committed when it was sent before"} | positioned
        responses[str(route.status)] = {"description": "Committed"} | positioned
    responses["202"] = {
        "description": "Durably queued; the outcome is not known yet",
        "headers": _headers("Location"),
        "content": _content("application/json", {"$ref": _REF.format(model="Queued")}),
    }
    return responses | _problem_responses(with_body=True)


def _problem_responses(*, with_body: bool) -> Json:
    return _referred_problems(status for status in _PROBLEMS if with_body or status not in _BODY_ONLY)


def _referred_problems(statuses: Iterable[int]) -> Json:
    return {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


def _problem(status: int, text: str) -> Json:
    extra = _PROBLEM_HEADERS.get(status, ())
    content = _content(MEDIA_TYPE, {"$ref": _REF.format(model="Problem")})
    return {"description": text, "headers": _headers(*extra), "content": content}


def _idempotency_key(required: bool) -> Json:
    schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
    text = "The same key and body give the same outcome, once applied"
    return {"name": "Idempotency-Key", "in": "header", "required": required, "description": text, "schema": schema}


def _at_least() -> Json:
    schema = {"type": "string", "pattern": "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$"}
    text = "A `Billing-Position`: the answer reflects that commit"
    return {"name": "Billing-At-Least", "in": "header", "required": False, "description": text, "schema": schema}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Correlation-Id", *names)}


def _response_headers() -> Json:
    def header(text: str, required: bool = False, **schema: Any) -> Json:
        return {"description": text, "required": required, "schema": {"type": "string"} | schema}

    return {
        "X-Correlation-Id": header("Kong's request id, or one made here; it is in every log line and message", True),
        "Billing-Position": header("The commit's position, for `Billing-At-Least`"),
        "Location": header("Where the outcome can be asked for", True),
        "RateLimit": header("The limit that is used up: requests that remain, and seconds until there are more", True),
        "RateLimit-Policy": header("The limit that is used up: its name, requests and the window's seconds", True),
        "Retry-After": header("Seconds", True, type="integer"),
        "WWW-Authenticate": header("RFC 6750", True),
    }


def _content(media_type: str, schema: Json) -> Json:
    return {media_type: {"schema": schema}}


def _outcome(result: str, title: str) -> Json:
    return {
        "title": title,
        "type": "object",
        "properties": {
            "command_id": {"type": "string", "format": "uuid"},
            "status": {"type": "string", "enum": ["applied", "duplicate"]},
            "result": {"$ref": _REF.format(model=result)},
            "position": {"type": ["string", "null"], "description": "The commit's WAL position"},
        },
        "required": ["command_id", "status", "result", "position"],
        "additionalProperties": False,
    }


def _schemas() -> Json:
    """Every model's schema by name: requests as they are validated, results as they are serialised."""
    requests: list[tuple[type[BaseModel], Any]] = [(route.model, "validation") for route in ROUTES]
    results: list[tuple[type[BaseModel], Any]] = [(route.spec.result, "serialization") for route in ROUTES]
    _, generated = models_json_schema([*requests, *results], ref_template=_REF)
    schemas: Json = {name: _tidy(schema) for name, schema in generated["$defs"].items()}
    schemas["Currency"] = {"type": "string", "enum": sorted(EXPONENTS), "description": "ISO 4217"}
    schemas["Queued"] = {
        "type": "object",
        "properties": {"command_id": {"type": "string", "format": "uuid"}, "status": {"const": "queued"}},
        "required": ["command_id", "status"],
        "additionalProperties": False,
    }
    _, problem = models_json_schema([(ProblemDocument, "serialization")], ref_template=_REF)
    schemas |= {name: _tidy(schema) for name, schema in problem["$defs"].items()}
    schemas["Problem"] = schemas.pop("ProblemDocument") | {"title": "Problem"}
    codes = "\n".join(f"* `{code}` ({MEANINGS[code].http_status}): {MEANINGS[code].text}" for code in Code)
    schemas["Problem"]["properties"]["code"]["description"] = f"Codes of the mesh:\n\n{codes}"
    return schemas


def _tidy(schema: Any, name: str = "") -> Any:
    """Says in JSON Schema what the models check in Python: which currencies there are."""
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if name == "currency" and schema.get("type") == "string":
        return {"$ref": _REF.format(model="Currency")}
    return {key: _tidy(value, key) for key, value in schema.items()}
