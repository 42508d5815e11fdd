"""Logs without secrets or patients, probes that tell dead from unready, traces that reach a collector."""

import ast
import asyncio
import functools
import io
import json
import logging
import sys
import timeit
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from pydantic import ValidationError

from adapters.telemetry import logging as telemetry_logging
from adapters.telemetry import probes as probes_module
from adapters.telemetry import tracing
from adapters.telemetry.probes import Heartbeat, probes
from adapters.telemetry.redaction import SENSITIVE_KEYS
from schemas.account import OpenAccount
from tests.fixtures.otlp import collecting
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


def test_spans_reach_the_collector_as_children_of_the_caller() -> None:
    with collecting() as collector:
        tracing.configure("api", endpoint=collector.url)
        try:
            with tracing.span("outer", "server", traceparent=PARENT) as outgoing:
                assert outgoing is not None and outgoing.split("-")[1] == PARENT.split("-")[1] and outgoing != PARENT
                with pytest.raises(ValueError, match="Zmarai"), tracing.span("inner", "producer") as inner:
                    assert inner is not None and inner.split("-")[1] == PARENT.split("-")[1]
                    raise ValueError("Zmarai")
        finally:
            tracing.shutdown()
    assert collector.paths == {"/v1/traces"} and b"Zmarai" not in collector.bodies
    inner_span, outer_span = collector.spans
    assert (outer_span.name, outer_span.parent_id, outer_span.failed) == ("outer", PARENT.split("-")[2], False)
    assert (inner_span.name, inner_span.parent_id, inner_span.failed) == ("inner", outer_span.span_id, True)


def test_who_begins_a_trace_decides_whether_it_is_kept() -> None:
    unkept = PARENT[:-2] + "00"
    with collecting() as collector:
        tracing.configure("api", endpoint=collector.url, sample_ratio=0.0)
        try:
            with tracing.span("unkept", "server", traceparent=unkept) as outgoing:
                assert outgoing == unkept == tracing.current()
                with tracing.span("inner") as inner:
                    assert inner == unkept
            with tracing.span("ours") as ours:
                assert ours is not None and int(ours[-2:], 16) % 2 == 0  # the lowest bit of the flags: kept or not
                with tracing.span("inner") as inner:
                    assert inner == ours
            for traceparent in (unkept, None):
                assert tracing.hop("x", "consumer", traceparent=traceparent, attributes=dict) is None
            tracing.passed("x", "producer", [unkept, "forged"], 1, {})
            with tracing.span("kept", traceparent=PARENT):
                pass
        finally:
            tracing.shutdown()
    assert [span.name for span in collector.spans] == ["kept"]


def test_without_a_collector_a_hop_costs_next_to_nothing() -> None:
    """Per payment, on top of a pipeline of some 60 µs: a bound that only a forgotten `if` breaks."""
    rounds = 20_000
    hop = functools.partial(tracing.hop, "payment.record", "consumer", traceparent=PARENT, attributes=dict)
    best_seconds = min(timeit.repeat(hop, number=rounds, repeat=5)) / rounds
    assert best_seconds < 2e-6


def test_a_line_names_the_trace_it_belongs_to(lines: io.StringIO) -> None:
    log = structlog.get_logger()
    with tracing.span("x", traceparent=PARENT):
        log.info("inside")
        assert _last(lines)["trace_id"] == PARENT.split("-")[1]
        log.info("of a message", trace_id="ab" * 16)
        assert _last(lines)["trace_id"] == "ab" * 16
    log.info("outside", trace_id=None)
    assert "trace_id" not in _last(lines)
