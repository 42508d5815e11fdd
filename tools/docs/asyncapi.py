"""AsyncAPI 3 of the mesh: commands, queries and events on NATS.

FastStream generates it from a broker that never connects and is built from the registry: one typed subscriber per command
and query, one typed publisher per event. The real handlers take raw batches (one bad message must not fail its
neighbours), which leaves FastStream no payload to document. Headers, replies and parameters are added here.
"""

import json
from typing import Any

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from schemas import headers as names
from schemas.outcome import Answer, Outcome
from schemas.registry import COMMANDS, EVENTS, QUERIES, CommandSpec, EventSpec, QuerySpec
from schemas.subjects import COMMAND_PREFIX, EVENT_PREFIX, QUERY_PREFIX, TENANT

Json = dict[str, Any]

VERSION = "1"
TITLE = "Billing mesh"
DESCRIPTION = f"""
Publish **commands** to JetStream; each has exactly one effect, however often it is sent. Their outcomes come to the inbox
named in `{names.REPLY_TO}` (a plain NATS request would get JetStream's acknowledgement instead). Ask **queries** by NATS
request-reply. Every committed change leaves **events**, in commit order per tenant, in CloudEvents 1.0 binary mode.

`send` and `receive` are said from the mesh's side.
"""
_SCHEMA_REF = "#/components/schemas/{model}"
_QUEUE_GROUP = "billing-queries"
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def document() -> Json:
    """The whole document as JSON-ready data."""
    generated = _renamed(_from_faststream())
    return {
        "asyncapi": generated["asyncapi"],
        "info": {"title": TITLE, "version": VERSION, "description": DESCRIPTION.strip()},
        "defaultContentType": generated["defaultContentType"],
        "servers": {
            "nats": {"host": "nats:4222", "protocol": "nats", "description": "JetStream, nats-server 2.12 or later"}
        },
        "channels": {name: _channel(name, channel) for name, channel in generated["channels"].items()}
        | _reply_channels(),
        "operations": {name: _operation(name, operation) for name, operation in generated["operations"].items()},
        "components": {
            "messages": {name: _message(name, message) for name, message in generated["components"]["messages"].items()}
            | {"outcome": _reply_message("Outcome"), "answer": _reply_message("Answer")},
            "schemas": dict(sorted(_schemas().items())),
        },
    }


def _from_faststream() -> Json:
    broker = NatsBroker("nats://nats:4222")
    for prefix, specs in ((COMMAND_PREFIX, COMMANDS), (QUERY_PREFIX, QUERIES)):
        for spec in specs.values():
            _describe_subscriber(broker, prefix, spec)
    for event in EVENTS.values():
        broker.publisher(
            f"{EVENT_PREFIX}.{{tenant}}.{event.name}", title=event.name, description=event.summary, schema=event.data
        )
    specification = AsyncAPI(broker, title=TITLE, version=VERSION, schema_version="3.0.0").to_specification()
    generated: Json = json.loads(specification.to_json())
    # FastStream keeps subscribers in a set.
    for parent, key in ((generated, "channels"), (generated, "operations"), (generated["components"], "messages")):
        parent[key] = dict(sorted(parent[key].items()))
    return generated


def _describe_subscriber(broker: NatsBroker, prefix: str, spec: CommandSpec | QuerySpec) -> None:
    async def handler(body: BaseModel) -> None: ...

    handler.__annotations__["body"] = spec.payload if isinstance(spec, CommandSpec) else spec.request
    broker.subscriber(f"{prefix}.{{tenant}}.{spec.name}", title=spec.name, description=spec.summary)(handler)


def _renamed(document: Json) -> Json:
    """FastStream's message keys hold a colon, which AsyncAPI 3 does not allow in a key."""
    text = json.dumps(document)
    for suffix in (":SubscribeMessage", ":Message"):
        text = text.replace(f'{suffix}"', '"')
    renamed: Json = json.loads(text.replace("SubscribeMessage", "Message"))
    return renamed


def _spec(name: str) -> CommandSpec | EventSpec | QuerySpec:
    return COMMANDS.get(name) or EVENTS.get(name) or QUERIES[name]


def _channel(name: str, generated: Json) -> Json:
    pattern = TENANT.pattern
    return {
        "address": generated["address"],
        "description": generated["description"],
        "servers": [{"$ref": "#/servers/nats"}],
        "parameters": {
            "tenant": {"description": f"The tenant's id: {pattern}. NATS permissions bind a user to its tenants."}
        },
        "messages": {"Message": {"$ref": f"#/components/messages/{name}"}},
    }


def _reply_channels() -> Json:
    """No fixed address: an inbox of the client's."""
    return {
        "outcomes": {"address": None, "messages": {"Message": {"$ref": "#/components/messages/outcome"}}},
        "answers": {"address": None, "messages": {"Message": {"$ref": "#/components/messages/answer"}}},
    }


def _operation(name: str, generated: Json) -> Json:
    spec = _spec(name)
    operation = {**generated, "title": name, "summary": spec.summary}
    if isinstance(spec, CommandSpec):
        events = ", ".join(spec.events)
        money = " Moves money." if spec.money_moving else ""
        operation["description"] = f"Events: {events}. Scope over HTTP: {spec.scope}.{money}"
        address = {"location": f"$message.header#/{names.REPLY_TO}", "description": "An `_INBOX.` subject"}
        operation["reply"] = {"address": address} | _reply("outcomes")
    if isinstance(spec, QuerySpec):
        operation["description"] = f"Scope over HTTP: {spec.scope}."
        operation["bindings"] = {"nats": {"queue": _QUEUE_GROUP, "bindingVersion": "0.1.0"}}
        operation["reply"] = _reply("answers")
    return operation


def _reply(channel: str) -> Json:
    reference = f"#/channels/{channel}"
    return {"channel": {"$ref": reference}, "messages": [{"$ref": f"{reference}/messages/Message"}]}


def _message(name: str, generated: Json) -> Json:
    spec = _spec(name)
    headers = {CommandSpec: _command_headers, QuerySpec: _query_headers, EventSpec: _event_headers}[type(spec)]()
    message = {
        "name": name,
        "title": spec.summary,
        "contentType": "application/json",
        "headers": headers,
        "payload": generated["payload"],
    }
    if not isinstance(spec, EventSpec):
        message["x-result"] = {"$ref": _SCHEMA_REF.format(model=spec.result.__name__)}
    if not isinstance(spec, QuerySpec):
        message["correlationId"] = {"location": f"$message.header#/{names.CORRELATION_ID}"}
    return message


def _reply_message(model: str) -> Json:
    return {
        "name": model.lower(),
        "title": model,
        "contentType": "application/json",
        "payload": {"$ref": _SCHEMA_REF.format(model=model)},
    }


def _headers(required: tuple[str, ...], properties: dict[str, str], **patterns: str) -> Json:
    described = {name: {"type": "string", "description": text} for name, text in properties.items()}
    for name, pattern in patterns.items():
        described[name]["pattern"] = f"^{pattern}$"
    return {"type": "object", "required": list(required), "properties": described}


def _command_headers() -> Json:
    return _headers(
        (names.MESSAGE_ID,),
        {
            names.MESSAGE_ID: "The command id, `<uuid>`; `<uuid>:<attempt>` to send a known one again",
            names.REPLY_TO: "Where the outcome goes",
            names.ACTOR: "Who acts, for the audit trail",
            names.CORRELATION_ID: "Carried through to events and logs",
            names.TRACEPARENT: "W3C trace context",
        },
        **{
            names.MESSAGE_ID: f"{_UUID}(:[A-Za-z0-9-]{{1,36}})?",
            names.REPLY_TO: names.REPLY_TO_VALUE.pattern,
            names.ACTOR: names.ACTOR_VALUE.pattern,
        },
    )


def _query_headers() -> Json:
    return _headers((), {names.TRACEPARENT: "W3C trace context"})


def _event_headers() -> Json:
    required = (names.MESSAGE_ID, names.CE_ID, names.CE_TYPE, names.CE_SOURCE, names.CE_TIME, names.CE_SEQUENCE)
    return _headers(
        required,
        {
            names.MESSAGE_ID: "Equal to ce-id",
            names.CE_SPECVERSION: "1.0",
            names.CE_ID: "The event's id: dedupe on it",
            names.CE_TYPE: "The fact",
            names.CE_SOURCE: "The tenant's mesh",
            names.CE_SUBJECT: "What it is about",
            names.CE_TIME: "When it was recorded",
            names.CE_SEQUENCE: "Gapless per tenant: a consumer sees that it missed nothing",
            names.COMMAND_ID: "The command that caused it",
            names.CORRELATION_ID: "Of that command",
            names.TRACEPARENT: "W3C trace context",
        },
    )


def _schemas() -> Json:
    """Requests as they are validated; results and events as they are serialised."""
    sent: list[tuple[type[BaseModel], JsonSchemaMode]] = [(spec.payload, "validation") for spec in COMMANDS.values()]
    sent += [(query.request, "validation") for query in QUERIES.values()]
    received: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (spec.result, "serialization") for spec in COMMANDS.values()
    ]
    received += [(query.result, "serialization") for query in QUERIES.values()]
    received += [(event.data, "serialization") for event in EVENTS.values()]
    received += [(Outcome, "serialization"), (Answer, "serialization")]
    _, of_received = models_json_schema(received, ref_template=_SCHEMA_REF)
    _, of_sent = models_json_schema(sent, ref_template=_SCHEMA_REF)
    return {**of_received["$defs"], **of_sent["$defs"]}
