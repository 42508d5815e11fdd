"""HTTP requests: whatever their body, headers, path and query string are, they become a body the schema accepts or a problem."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway_shim import problems, requests
from gateway_shim.problems import HttpProblem
from gateway_shim.routes import ROUTES, Route
from tests.fuzz.mangling import NASTY_TEXTS, cut, examples, json_bytes
from tests.fuzz.test_commands import QUERY, VALID

MAX_BYTES = 256 * 1024
COMMANDS = [route for route in ROUTES if route.method != "GET"]
QUERIES = [route for route in ROUTES if route.method == "GET"]
BY_PATH = {route.path: route for route in COMMANDS}
ID = "0b9d1c1e-6d0a-4f7a-9f5e-2b8f0c1d2e3f"


def request(
    body: bytes = b"",
    *,
    headers: dict[str, bytes] | None = None,
    path: dict[str, str] | None = None,
    query: bytes = b"",
) -> Request:
    """As uvicorn and the router hand it over; the body comes in two chunks."""
    fields = {"content-type": b"application/json"} | (headers or {})
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "path_params": path or {},
        "query_string": query,
        "headers": [(name.encode(), value) for name, value in fields.items()],
    }
    chunks = [
        {"type": "http.request", "body": body[: len(body) // 2], "more_body": True},
        {"type": "http.request", "body": body[len(body) // 2 :], "more_body": False},
    ]

    async def receive() -> Any:
        return chunks.pop(0)

    return Request(scope, receive)


def checked(route: Route, payload: bytes) -> None:
    route.model.model_validate_json(payload)


def refused(problem: HttpProblem) -> None:
    assert 400 <= problem.status < 500
    problems.response(problem, "c-1")  # it can be said


paths = st.one_of(st.just(ID), st.sampled_from(NASTY_TEXTS), st.text(max_size=20))


@examples(300)
@given(st.sampled_from(COMMANDS), st.data())
async def test_any_body_becomes_a_command_or_a_problem(route: Route, data: st.DataObject) -> None:
    body = data.draw(json_bytes(VALID.get(route.name, QUERY)))
    path = {name: data.draw(paths) for name in route.path_parameters}
    given_headers = data.draw(
        st.sampled_from(({}, {"content-type": b"text/plain"}, {"content-type": b"application/json; charset=\xff"}))
    )
    query = data.draw(st.sampled_from((b"", b"", b"a=1", b"%ff=%00", b"&&&==")))
    asked = request(body, headers=given_headers, path=path, query=query)
    try:
        payload = await requests.command_payload(asked, route, "clinic", MAX_BYTES)
    except HttpProblem as problem:
        refused(problem)
    else:
        checked(route, payload)


@pytest.mark.parametrize("depth", [100, 253, 254, 500, 900, 960, 990, 1_000, 1_020, 1_024, 5_000, 100_000])
@pytest.mark.parametrize("shape", [(b"[", b"]"), (b'{"a":', b"1}")], ids=["lists", "objects"])
async def test_a_nested_body_is_a_problem_at_any_depth(depth: int, shape: tuple[bytes, bytes]) -> None:
    """Also where the nested thing stands for what the path says, and is compared with it."""
    route = BY_PATH["/v1/invoices/{invoice_id}/issue"]
    opened, closed = shape
    inner = opened * depth + (closed * depth if closed == b"]" else b"1" + b"}" * depth)
    for field in ("invoice_id", "x"):
        asked = request(b'{"%b":%b}' % (field.encode(), inner), path={"invoice_id": ID})
        with pytest.raises(HttpProblem) as raised:
            await requests.command_payload(asked, route, "clinic", MAX_BYTES)
        refused(raised.value)


@examples(300)
@given(st.sampled_from(QUERIES), st.data())
def test_any_query_string_becomes_a_query_or_a_problem(route: Route, data: st.DataObject) -> None:
    known = [name for name in route.model.model_fields if name not in route.path_parameters]
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from([*known, "x"]), st.sampled_from([ID, *NASTY_TEXTS, "10"])), max_size=4)
    )
    text = "&".join(f"{name}={value[:40]}" for name, value in pairs).encode()
    query = data.draw(st.one_of(cut(text), st.binary(max_size=40)))
    at_least = data.draw(st.sampled_from((None, b"0/1", b"\xff", b"x" * 300)))
    asked = request(
        query=query,
        path={name: data.draw(paths) for name in route.path_parameters},
        headers={} if at_least is None else {requests.AT_LEAST: at_least},
    )
    try:
        payload = requests.query_payload(asked, route, "clinic")
    except HttpProblem as problem:
        refused(problem)
    else:
        checked(route, payload)


@examples(200)
@given(st.binary(max_size=300), st.sampled_from(COMMANDS))
def test_any_idempotency_key_is_an_id_or_a_problem(key: bytes, route: Route) -> None:
    asked = request(headers={requests.IDEMPOTENCY_KEY: key})
    try:
        found = requests.command_id(asked, route, "clinic")
    except HttpProblem as problem:
        refused(problem)
    else:
        assert found == requests.command_id(asked, route, "clinic") != requests.command_id(asked, route, "other")


@examples(100)
@given(st.binary(max_size=30) | st.sampled_from([b"9" * 5_000, "٣".encode(), b"-1", b"1e5", b"0x10"]))
async def test_any_announced_length_is_a_body_or_a_problem(announced: bytes) -> None:
    asked = request(b"{}", headers={"content-length": announced})
    try:
        assert await requests.read_body(asked, MAX_BYTES) == b"{}"
    except HttpProblem as problem:
        refused(problem)


@examples(60)
@given(st.sampled_from(COMMANDS), st.integers(1, 200), st.sampled_from(NASTY_TEXTS))
async def test_a_wide_body_is_a_problem_of_bounded_size(route: Route, width: int, text: str) -> None:
    body = orjson.dumps({f"{text[:40]}{number}": text[:100] for number in range(width)})
    with pytest.raises(HttpProblem) as raised:
        await requests.command_payload(
            request(body, path=dict.fromkeys(route.path_parameters, ID)), route, "clinic", MAX_BYTES
        )
    assert len(bytes(problems.response(raised.value, "c-1").body)) < 20_000
