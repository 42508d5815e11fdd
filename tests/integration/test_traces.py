"""One trace from an HTTP payment to its event, through every process; log lines that lead to it; no patient in either."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import nats
import pytest
from nats.aio.msg import Msg

from adapters.nats.topology import EVENTS_STREAM
from adapters.telemetry import tracing
from schemas import headers
from schemas.subjects import command_subject
from tests.fixtures.otlp import Collector, ReceivedSpan, collecting
from tests.fixtures.servers import TEMPLATE, Database, run_async
from tests.integration.pipeline_support import Rig, rigged
from tools.stack import NatsServer, Stack
from tools.stack.mesh import Mesh

TENANT = "herat-traced"
# Whatever names, notes or references a person may be known by: it must be in the ledger, and nowhere else.
CANARY = "Zmarai-Canary"
WAIT_SECONDS = 20.0


class Parent(NamedTuple):
    trace_id: str
    span_id: str
    flags: str = "01"

    @classmethod
    def new(cls, flags: str = "01") -> "Parent":
        return cls(uuid4().hex, uuid4().hex[:16], flags)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(stack: Stack, collector: Collector) -> Iterator[Mesh]:
    # Spans are exported ten times a second instead of every five seconds.
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Mesh.isolated(stack, template=TEMPLATE, tenants=(TENANT,), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def http(mesh: Mesh) -> Iterator[httpx.Client]:
    bearer = {"Authorization": f"Bearer {mesh.token(TENANT)}"}
    with httpx.Client(base_url=mesh.http_url, headers=bearer, timeout=WAIT_SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def account_id(http: httpx.Client) -> str:
    """An open account of a patient whose id is the canary."""
    account = str(uuid4())
    body = {"account_id": account, "patient": f"Patient/{CANARY}", "currency": "AFN"}
    opened = http.post("/v1/accounts", json=body)
    assert opened.status_code == 201, opened.text
    return account


def pay(http: httpx.Client, account: str, parent: Parent, currency: str = "AFN") -> httpx.Response:
    body = {
        "account_id": account,
        "amount": {"amount_minor": 7_654_321, "currency": currency},
        "method": "cash",
        "reference": CANARY,
    }
    given = {"traceparent": parent.traceparent, "Idempotency-Key": str(uuid4())}
    return http.post("/v1/payments", json=body, headers=given)


def test_one_http_payment_is_one_trace_with_all_its_hops(
    mesh: Mesh, http: httpx.Client, account_id: str, collector: Collector
) -> None:
    unkept, parent = Parent.new(flags="00"), Parent.new()
    assert pay(http, account_id, unkept).status_code == 201
    response = pay(http, account_id, parent)
    assert response.status_code == 201, response.text
    command_id = response.json()["command_id"]
    collector.wait_for(lambda spans: len([each for each in spans if each.trace_id == parent.trace_id]) >= 6)
    spans = collector.trace(parent.trace_id)
    # The relay's last word says of which stream: the event's and the audit event's leave by themselves.
    found = {(span.role, span.kind, span.name, span.attributes.get("billing.stream")): span for span in spans}
    request = found["api", "server", "POST /v1/payments", None]
    publish = found["api", "producer", "payment.record", None]
    command = found["handlers", "consumer", "payment.record", None]
    batch = found["handlers", "internal", "billing.batch", None]
    relayed = [found["worker", "producer", "billing.relay", stream] for stream in ("events", "audit")]
    assert len(spans) == len(found) == 6, "nothing twice, and nothing else"
    lineage = [request.parent_id, publish.parent_id, command.parent_id, batch.parent_id]
    assert lineage == [parent.span_id, request.span_id, publish.span_id, command.span_id]
    assert [span.parent_id for span in relayed] == [command.span_id, command.span_id]
    assert batch.links == {(parent.trace_id, command.span_id)} and command.links == {(parent.trace_id, batch.span_id)}
    assert not any(span.failed for span in spans)
    assert request.attributes["http.response.status_code"] == 201
    assert publish.attributes["billing.command_id"] == command.attributes["billing.command_id"] == command_id
    assert command.attributes["billing.outcome"] == "applied"

    events = {event.headers[headers.COMMAND_ID]: event for event in run_async(_events(mesh)) if event.headers}
    kept = events[command_id]
    assert kept.headers is not None
    assert kept.headers[headers.TRACEPARENT] == f"00-{parent.trace_id}-{command.span_id}-01"
    # What the edge decided not to keep stays one trace for whoever comes after, but nobody here makes a span for it.
    assert unkept.traceparent in [(event.headers or {}).get(headers.TRACEPARENT) for event in events.values()]
    assert collector.trace(unkept.trace_id) == []


def test_a_query_is_in_its_requests_trace(http: httpx.Client, account_id: str, collector: Collector) -> None:
    parent = Parent.new()
    answered = http.get(f"/v1/accounts/{account_id}/balance", headers={"traceparent": parent.traceparent})
    assert answered.status_code == 200
    collector.wait_for(lambda spans: len([each for each in spans if each.trace_id == parent.trace_id]) >= 3)
    by_kind = {(span.role, span.kind): span for span in collector.trace(parent.trace_id)}
    query = by_kind["handlers", "server"]
    assert (query.name, query.parent_id) == ("query account.balance", by_kind["api", "client"].span_id)
    assert query.attributes["billing.outcome"] == "ok"


async def _events(mesh: Mesh) -> list[Msg]:
    connection = await nats.connect(mesh.nats_url())
    try:
        stream = connection.jetstream()
        last = (await stream.stream_info(EVENTS_STREAM)).state.last_seq
        subscription = await stream.subscribe(f"billing.v1.evt.{TENANT}.>", stream=EVENTS_STREAM, ordered_consumer=True)
        events: list[Msg] = []
        while not events or events[-1].metadata.sequence.stream < last:
            events.append(await subscription.next_msg(timeout=WAIT_SECONDS))
        return events
    finally:
        await connection.close()


def test_log_lines_of_what_went_wrong_lead_to_command_and_trace(
    mesh: Mesh, http: httpx.Client, account_id: str
) -> None:
    refused, malformed = Parent.new(), Parent.new()
    response = pay(http, account_id, refused, currency="EUR")
    assert (response.status_code, response.json()["code"]) == (422, "currency_mismatch")
    buried = run_async(_malformed(mesh, malformed))
    lines = _lines(mesh["handlers"].log_path)
    expected: dict[str, tuple[str, Parent, str]] = {
        "command_refused": (response.json()["command_id"], refused, "currency_mismatch"),
        "command_dead_lettered": (str(buried), malformed, "malformed_command"),
    }
    for event, (command_id, parent, code) in expected.items():
        (line,) = [each for each in lines if each["event"] == event and each["command_id"] == command_id]
        assert (line["trace_id"], line["tenant_id"], line["code"]) == (parent.trace_id, TENANT, code)
        assert line["command"] == "payment.record"
    (shown,) = _shown(mesh, refused)
    assert (shown["event"], shown["command_id"], shown["status"]) == (
        "http_request", response.json()["command_id"], 422,
    )  # fmt: skip


async def _malformed(mesh: Mesh, parent: Parent) -> UUID:
    """Publishes a body that is none, full of what must not be seen, and waits until it has been dead-lettered."""
    connection = await nats.connect(mesh.nats_url())
    command_id, inbox = uuid4(), connection.new_inbox()
    try:
        outcome = await connection.subscribe(inbox)
        body = json.dumps({"account_id": CANARY, "patient": CANARY, CANARY: CANARY, "amount": CANARY})
        given = {
            headers.MESSAGE_ID: str(command_id),
            headers.REPLY_TO: inbox,
            headers.TRACEPARENT: parent.traceparent,
        }
        await connection.jetstream().publish(command_subject(TENANT, "payment.record"), body.encode(), headers=given)
        await outcome.next_msg(timeout=WAIT_SECONDS)
    finally:
        await connection.close()
    return command_id


def test_no_patient_is_in_any_log_line_or_span(mesh: Mesh, collector: Collector, account_id: str) -> None:
    """Last: it reads all that the tests above made the roles write. The ledger, in contrast, knows both."""
    collector.wait_for(lambda spans: any(span.attributes.get("billing.outcome") == "dead_lettered" for span in spans))
    for name in ("api", "handlers", "worker"):
        text = mesh[name].log_path.read_text()
        assert text and CANARY not in text and "7654321" not in text, name
    assert CANARY.encode() not in collector.bodies and b"7654321" not in collector.bodies
    assert account_id.encode() not in collector.bodies, "an account is a patient's, and no hop needs it"


def _shown(mesh: Mesh, parent: Parent) -> list[dict[str, Any]]:
    """The shim's lines of a request, which it writes when the response has left."""
    deadline = monotonic() + WAIT_SECONDS
    while monotonic() < deadline:
        if found := [each for each in _lines(mesh["api"].log_path) if each.get("trace_id") == parent.trace_id]:
            return found
        sleep(0.02)
    return []


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


async def test_a_batch_is_linked_with_each_of_its_commands(rig: Rig, tenant: str) -> None:
    """Five commands of three traces, one of them not kept and one without any: one transaction, found from each that is."""
    rig.add_tenant(tenant)
    account = await rig.account(tenant)
    parents = [Parent.new(), Parent.new(flags="00"), Parent.new(), None, Parent.new()]
    for parent in parents:
        more = {headers.TRACEPARENT: parent.traceparent} if parent else {}
        await rig.send(tenant, "payment.record", rig.payment(account), more=more)
    messages = await rig.pull("payments", len(parents))
    with collecting() as collector:
        tracing.configure("handlers", endpoint=collector.url, sample_ratio=0.0)
        try:
            await rig.handle("payments", messages)
        finally:
            tracing.shutdown()
    (batch,) = [span for span in collector.spans if span.name == "billing.batch"]
    commands: dict[str, ReceivedSpan] = {
        span.trace_id: span for span in collector.spans if span.name == "payment.record"
    }
    kept = [parent for parent in parents if parent and parent.flags == "01"]
    assert set(commands) == {parent.trace_id for parent in kept} and len(collector.spans) == 4
    assert batch.attributes["billing.commands"] == len(parents)
    assert batch.links == {(span.trace_id, span.span_id) for span in commands.values()}
    assert batch.parent_id == commands[kept[0].trace_id].span_id
    for parent in kept:
        span = commands[parent.trace_id]
        assert span.parent_id == parent.span_id and (batch.trace_id, batch.span_id) in span.links
