"""The route table against the registry, and the OpenAPI document against the route table."""

import json
from collections import Counter

import jsonschema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from gateway_shim import openapi
from gateway_shim.problems import MEDIA_TYPE, HttpProblem, ShimCode, response
from gateway_shim.routes import ROUTES, WEBHOOKS, by_path
from schemas.codes import Code
from schemas.registry import COMMANDS, QUERIES


def test_every_command_and_query_has_exactly_one_route() -> None:
    assert Counter(route.name for route in ROUTES) == Counter(
        [*(name for name, spec in COMMANDS.items() if not spec.internal), *QUERIES]
    )


def test_no_two_routes_share_a_method_and_path() -> None:
    assert max(Counter((route.method, route.path) for route in ROUTES).values()) == 1


def test_no_path_is_taken_for_the_id_of_another() -> None:
    """Starlette tries paths in order, whatever their method."""
    tried = [StarletteRoute(path, _nothing) for path in by_path()]
    for path in by_path():
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        first = next(route for route in tried if route.matches(scope)[0] is Match.FULL)
        assert first.path == path


async def _nothing(_: Request) -> Response:
    return Response()


WITH_FREE_TEXT = {"charge.suggest_codes"}  # in a body: URLs end up in logs


def test_queries_are_gets_and_commands_are_not() -> None:
    assert {route.name for route in ROUTES if route.method == "GET"} == set(QUERIES) - WITH_FREE_TEXT
    assert {route.method for route in ROUTES if route.name in WITH_FREE_TEXT} == {"POST"}


def test_path_parameters_are_fields_of_the_model() -> None:
    for route in ROUTES:
        assert set(route.path_parameters) <= set(route.model.model_fields), route.path


def test_the_document_is_closed_and_complete() -> None:
    """Every $ref resolves, every schema is one, every status the shim can answer with is documented."""
    document = openapi.document()
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(openapi._references(schema)) <= set(schemas), name
    statuses = {str(code.meaning.http_status) for code in Code}
    statuses |= {str(HttpProblem(code).status) for code in ShimCode} - {"405"}
    webhook = document["paths"].pop(WEBHOOKS)["post"]  # no command's codes: it waits for no outcome
    assert webhook["security"] == [] and set(webhook["responses"]) == {"200", "400", "401", "404", "408", "413", "503"}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            body_only = {"408", "413", "415"} if method == "get" else set()
            assert statuses - body_only <= set(operation["responses"]), path
            assert operation["security"] and operation["summary"] and operation["operationId"]


def test_money_moving_operations_require_the_key() -> None:
    paths = openapi.document()["paths"]
    for route in ROUTES:
        if route.command is not None:
            parameters = paths[route.path][route.method.lower()]["parameters"]
            [key] = [each for each in parameters if each["name"] == "Idempotency-Key"]
            assert key["required"] is route.command.money_moving


def test_shim_codes_do_not_collide_with_the_mesh() -> None:
    assert not {code.value for code in ShimCode} & {code.value for code in Code}


def test_every_shim_code_makes_a_document_of_its_schema() -> None:
    document = openapi.document()
    schema = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    for code in ShimCode:
        answer = response(HttpProblem(code, "why"), "c-1")
        assert answer.media_type == MEDIA_TYPE
        jsonschema.validate(json.loads(bytes(answer.body)), schema)
