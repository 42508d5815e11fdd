"""The generated documents are what the code generates now, and are what they claim to be."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from schemas.charge import CaptureCharge
from schemas.codes import Code
from schemas.registry import COMMANDS, EVENTS, QUERIES
from tools.docs import asyncapi, json_schemas
from tools.docs.generate import ROOT, difference, write
from tools.stack.paths import PROJECT_ROOT

NAMES = [*COMMANDS, *EVENTS, *QUERIES]
CHARGE = {
    "account_id": "0198c0de-0000-7000-8000-000000000001",
    "code_system": "http://loinc.org",
    "code": "1234-5",
    "unit_price": {"amount_minor": 1250, "currency": "AFN"},
    "quantity": "1.5",
}


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict[str, Any]]:
    return json_schemas.documents()


@pytest.fixture(scope="module")
def mesh() -> dict[str, Any]:
    return asyncapi.document()


def test_docs_are_fresh() -> None:
    found = difference()
    assert not found.stale, f"run `billing docs` and commit: {', '.join(found.stale)}"
    assert not found.extra, f"nothing generates these any more: {', '.join(found.extra)}"


def test_a_stale_missing_or_leftover_file_is_named_and_mended(tmp_path: Path) -> None:
    write(tmp_path)
    assert difference(tmp_path) == ((), ())
    (tmp_path / "docs" / "api" / "openapi.json").write_text("{}")
    (tmp_path / "docs" / "api" / "schemas" / "charge.capture.json").unlink()
    (tmp_path / "docs" / "api" / "schemas" / "charge.forget.json").write_text("{}")
    found = difference(tmp_path)
    assert found.stale == ("docs/api/openapi.json", "docs/api/schemas/charge.capture.json")
    assert found.extra == ("docs/api/schemas/charge.forget.json",)
    write(tmp_path)
    assert difference(tmp_path) == ((), ())


def test_every_body_on_the_wire_has_a_valid_schema(schemas: dict[str, dict[str, Any]]) -> None:
    assert {*NAMES, "outcome", "answer"} <= schemas.keys()
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
        assert _unknown_keywords(schema) == set()


@pytest.mark.parametrize(
    ("quantity", "valid"),
    [
        *((quantity, True) for quantity in ("1.5", 2, "0.001", 999_999_999, "999999999.999")),
        *((quantity, False) for quantity in (0, "0", "0.000", -1, 10**9, "1.2345", "x", 1.5, True, None, "1,5", "1e3")),
    ],
)
def test_schema_and_model_agree_on_quantities(
    schemas: dict[str, dict[str, Any]], quantity: object, valid: bool
) -> None:
    body = CHARGE | {"quantity": quantity}
    assert Draft202012Validator(schemas["charge.capture"]).is_valid(body) is valid
    assert _accepted(CaptureCharge, body) is valid


def test_asyncapi_has_every_command_query_and_event(mesh: dict[str, Any]) -> None:
    assert mesh["asyncapi"] == "3.0.0"
    assert set(mesh["channels"]) == {*NAMES, "outcomes", "answers"}
    assert set(mesh["operations"]) == set(NAMES)
    for name in NAMES:
        operation, message = mesh["operations"][name], mesh["components"]["messages"][name]
        assert operation["action"] == ("send" if name in EVENTS else "receive")
        assert ("reply" in operation) is (name not in EVENTS)
        assert mesh["channels"][name]["address"].endswith("{tenant}." + name)
        assert message["payload"]["$ref"].removeprefix("#/components/schemas/") == _model(name).__name__
    assert mesh["components"]["messages"]["payment.record"]["headers"]["required"] == ["Nats-Msg-Id"]


def test_asyncapi_references_resolve_and_keys_are_allowed(mesh: dict[str, Any]) -> None:
    for reference in _references(mesh):
        node: Any = mesh
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
    for part in mesh["components"].values():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", key) for key in part)
    for schema in mesh["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_asyncapi_headers_are_checked_by_their_schema(mesh: dict[str, Any]) -> None:
    headers = Draft202012Validator(mesh["components"]["messages"]["payment.record"]["headers"])
    message_id = "0198c0de-0000-7000-8000-000000000001"
    assert headers.is_valid({"Nats-Msg-Id": message_id, "Billing-Reply-To": "_INBOX.abc.1"})
    assert headers.is_valid({"Nats-Msg-Id": f"{message_id}:2"})
    assert not headers.is_valid({})
    assert not headers.is_valid({"Nats-Msg-Id": "17"})
    assert not headers.is_valid({"Nats-Msg-Id": message_id, "Billing-Reply-To": "billing.v1.cmd.t.payment.record"})


def test_every_rejection_code_is_documented() -> None:
    text = (ROOT / "docs" / "api" / "rejection-codes.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(documented) == sorted(code.value for code in Code)


def _model(name: str) -> type[BaseModel]:
    if name in COMMANDS:
        return COMMANDS[name].payload
    return EVENTS[name].data if name in EVENTS else QUERIES[name].request


def _accepted(model: type[BaseModel], body: object) -> bool:
    try:
        model.model_validate_json(json.dumps(body))
    except ValidationError:
        return False
    return True


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return {found for each in node for found in _references(each)}
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return own | {found for each in node.values() for found in _references(each)}


def _unknown_keywords(schema: Any) -> set[str]:
    """Words in schema position that JSON Schema does not know: it would silently ignore them."""
    known = {"$schema", "$id", "$defs", "$ref", "title", "description", "default", "type", "enum", "const", "format"}
    known |= {"properties", "required", "additionalProperties", "items", "minItems", "maxItems", "uniqueItems"}
    known |= {"minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    known |= {"anyOf", "oneOf", "allOf", "not", "prefixItems", "propertyNames", "discriminator", "examples"}
    unknown = set(schema) - known
    for word in ("properties", "$defs"):
        for each in schema.get(word, {}).values():
            unknown |= _unknown_keywords(each)
    for word in ("items", "not", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            unknown |= _unknown_keywords(schema[word])
    for word in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for each in schema.get(word, []):
            unknown |= _unknown_keywords(each)
    return unknown


IMAGINED = {"schemas/deposit.py", "domain/deposit.py"}  # the capability that architecture.md adds, say


def test_the_tests_and_modules_that_the_documents_name_exist() -> None:
    pages = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").rglob("*.md"))]
    named = re.compile(r"`((?:tests|tools|schemas|domain|adapters|handlers|gateway_shim|docs)/[\w./*-]+)`")
    missing = [
        f"{page.relative_to(PROJECT_ROOT)}: {path}"
        for page in pages
        for path in named.findall(page.read_text())
        if path not in IMAGINED and not any(PROJECT_ROOT.glob(path.rstrip("/")))
    ]
    assert missing == []
