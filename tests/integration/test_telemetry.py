"""Logs without secrets or patients, probes that tell dead from unready, traces that reach a collector."""

import ast
import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError

from adapters.telemetry import logging as telemetry_logging
from adapters.telemetry import probes as probes_module
from adapters.telemetry import tracing
from adapters.telemetry.probes import Heartbeat, probes
from adapters.telemetry.redaction import SENSITIVE_KEYS
from schemas.account import OpenAccount
from tools.stack.paths import PROJECT_ROOT

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a role writes on stderr, with JSON logs."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    handlers, level = logging.root.handlers[:], logging.root.level
    telemetry_logging.configure("test", level="info", log_format="json")
    yield stream
    logging.basicConfig(handlers=handlers, level=level, force=True)
    structlog.reset_defaults()


def _last(stream: io.StringIO) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return line


def test_a_line_has_ids_and_no_patient(lines: io.StringIO) -> None:
    structlog.get_logger().info(
        "refused",
        code="account_closed",
        payload={"patient": "Patient/1"},
        context={"invoice_id": "i-1", "guarantor": "Zmarai", "deeper": {"note": "Zmarai"}},
    )
    line = _last(lines)
    assert (line["event"], line["level"], line["role"], line["code"]) == ("refused", "info", "test", "account_closed")
    assert line["context"] == {"invoice_id": "i-1", "deeper": {}}
    assert "Zmarai" not in lines.getvalue() and "Patient" not in lines.getvalue() and line["timestamp"]


def test_no_line_is_written_with_a_key_that_is_dropped() -> None:
    """What is dropped was meant to be read by somebody: it needs another name, or not to be logged."""
    found = [
        f"{path}:{call.lineno} {keyword.arg}"
        for package in ("adapters", "domain", "gateway_shim", "handlers", "tools")
        for path in (PROJECT_ROOT / package).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-2:-1] in (["log"], ["_log"])
        for keyword in call.keywords
        if keyword.arg in SENSITIVE_KEYS
    ]
    assert found == []


def test_urls_and_tokens_lose_their_secrets(lines: io.StringIO) -> None:
    structlog.get_logger().warning("away", server="nats://shim:hunter2@nats-0:4222,nats://shim:hunter2@nats-1:4222")
    structlog.get_logger().warning("odd", header="Bearer abc.def", found=["eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln"])
    text = lines.getvalue()
    assert "hunter2" not in text and "abc.def" not in text and "eyJ" not in text
    assert "nats-0:4222" in text and "nats-1:4222" in text


def test_libraries_take_the_same_way_out(lines: io.StringIO) -> None:
    logging.getLogger("driver").error("cannot reach %s", "postgresql://app:hunter2@db/billing")
    line = _last(lines)
    assert (line["logger"], line["level"], line["role"]) == ("driver", "error", "test")
    assert "hunter2" not in line["event"] and "db/billing" in line["event"]


def test_an_exception_shows_the_place_and_no_input(lines: io.StringIO) -> None:
    try:
        OpenAccount.model_validate({"patient": "Zmarai of Herat", "currency": "AFN"})
    except ValidationError:
        structlog.get_logger().exception("broken")
    line = _last(lines)
    assert line["exception"]["type"].endswith("ValidationError")
    assert any("test_telemetry.py" in place for place in line["exception"]["at"])
    assert "Zmarai" not in lines.getvalue()


def test_the_text_of_an_exception_stays_out(lines: io.StringIO) -> None:
    """`int("Zmarai")` quotes its input on the first line of its message."""
    try:
        int("Zmarai of Herat")
    except ValueError:
        structlog.get_logger().exception("broken")
    assert _last(lines)["exception"]["text"] is None
    assert "Zmarai" not in lines.getvalue()


async def test_probes_tell_dead_from_unready() -> None:
    state: dict[str, str | None] = {"fetch": None, "nats": "not connected"}

    async def slow() -> str | None:
        return state["nats"]

    liveness = {"fetch": lambda: state["fetch"]}
    async with (
        probes(0, host="127.0.0.1", liveness=liveness, readiness={"nats": slow}) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        assert (await http.get("/livez")).json() == {"status": "ok", "failing": {}, "checks": ["event_loop", "fetch"]}
        unready = await http.get("/readyz")
        assert (unready.status_code, unready.json()["failing"]) == (503, {"nats": "not connected"})
        state.update(fetch="no fetch for 90 s", nats=None)
        dead = await http.get("/livez")
        assert (dead.status_code, dead.json()["failing"]) == (503, {"fetch": "no fetch for 90 s"})
        assert (await http.get("/readyz")).status_code == 200
        metrics = await http.get("/metrics")
        assert "billing_event_loop_lag_seconds" in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain")


async def test_a_check_that_breaks_or_hangs_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "CHECK_TIMEOUT_SECONDS", 0.05)

    def breaks() -> str | None:
        raise RuntimeError("Zmarai")

    async def hangs() -> str | None:
        await asyncio.Event().wait()
        return None

    checks: dict[str, probes_module.Check] = {"breaks": breaks, "hangs": hangs}
    async with probes(0, host="127.0.0.1", readiness=checks) as port, httpx.AsyncClient() as http:
        failing = (await http.get(f"http://127.0.0.1:{port}/readyz")).json()["failing"]
    assert failing["breaks"] == "check failed: RuntimeError"
    assert failing["hangs"].startswith("check took longer")


async def test_a_taken_port_stops_the_role() -> None:
    async with probes(0, host="127.0.0.1") as port:
        with pytest.raises(OSError, match="in use"):
            async with probes(port, host="127.0.0.1"):
                pass


def test_a_silent_heartbeat_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = Heartbeat()
    assert heartbeat.check() is None
    monkeypatch.setattr(probes_module, "STALLED_AFTER_SECONDS", -1)
    assert heartbeat.check() == "no heartbeat for 0 s"


def test_without_a_collector_traceparent_is_passed_on() -> None:
    with tracing.span("x", traceparent=PARENT) as outgoing:
        assert outgoing == PARENT
    for forged in ("", "00-0", PARENT + "\r\nx: y", PARENT.upper(), f"00-{'0' * 32}-00f067aa0ba902b7-01"):
        with tracing.span("x", traceparent=forged) as outgoing:
            assert outgoing is None, forged


class _Collector(BaseHTTPRequestHandler):
    """The least that OTLP/HTTP wants of a collector."""

    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, body))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test looks at what arrived."""


def test_spans_reach_the_collector_as_children_of_the_caller() -> None:
    handler = type("Handler", (_Collector,), {"received": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        tracing.configure("api", endpoint=f"http://127.0.0.1:{server.server_address[1]}")
        try:
            with tracing.span("outer", "server", traceparent=PARENT) as outgoing:
                assert outgoing is not None and outgoing.split("-")[1] == PARENT.split("-")[1] and outgoing != PARENT
                with pytest.raises(ValueError, match="Zmarai"), tracing.span("inner", "producer") as inner:
                    assert inner is not None and inner.split("-")[1] == PARENT.split("-")[1]
                    raise ValueError("Zmarai")
        finally:
            tracing.shutdown()
            server.shutdown()
            thread.join()
    [(path, body)] = handler.received  # type: ignore[attr-defined]
    assert path == "/v1/traces" and b"Zmarai" not in body
    request = ExportTraceServiceRequest.FromString(body)
    spans = {span.name: span for span in request.resource_spans[0].scope_spans[0].spans}
    assert spans["outer"].parent_span_id.hex() == PARENT.split("-")[2]
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert (spans["inner"].status.message, spans["outer"].status.code) == ("ValueError", 0)
