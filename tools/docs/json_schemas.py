"""JSON Schema 2020-12 of every body on the wire: `<name>` for what is sent, `<name>.result` for what comes back."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from schemas.outcome import Answer, Outcome
from schemas.registry import COMMANDS, EVENTS, QUERIES

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, dict[str, Any]]:
    """Every schema by file name without its ending, each complete in itself."""
    schemas: dict[str, dict[str, Any]] = {}
    for command in COMMANDS.values():
        schemas[command.name] = _schema(command.name, command.payload, "validation", f"Command: {command.summary}")
        schemas[f"{command.name}.result"] = _schema(
            f"{command.name}.result", command.result, "serialization", f"`result` of the outcome of {command.name}"
        )
    for event in EVENTS.values():
        schemas[event.name] = _schema(event.name, event.data, "serialization", f"Event: {event.summary}")
    for query in QUERIES.values():
        schemas[query.name] = _schema(query.name, query.request, "validation", f"Query: {query.summary}")
        schemas[f"{query.name}.result"] = _schema(
            f"{query.name}.result", query.result, "serialization", f"`result` of the answer to {query.name}"
        )
    schemas["outcome"] = _schema("outcome", Outcome, "serialization", "The answer to every command")
    schemas["answer"] = _schema("answer", Answer, "serialization", "The answer to every query")
    return schemas


def _schema(name: str, model: type[BaseModel], mode: JsonSchemaMode, summary: str) -> dict[str, Any]:
    generated = model.model_json_schema(mode=mode)
    about = [summary, generated.pop("description", "")]
    return {
        "$schema": DIALECT,
        "$id": f"urn:billing:v1:{name}",
        "title": name,
        "description": "\n\n".join(part for part in about if part),
        **{key: value for key, value in generated.items() if key != "title"},
    }
