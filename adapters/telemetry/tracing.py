"""Traces over OTLP/HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set; otherwise `traceparent` is only passed on.

A caller never asks whether tracing is on:

    with tracing.span("payment.record", "producer", traceparent=incoming) as outgoing:
        headers = {"traceparent": outgoing} if outgoing else {}
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

TRACEPARENT = "traceparent"
EXPORT_TIMEOUT_SECONDS = 5

Kind = Literal["server", "client", "producer", "consumer", "internal"]
_KINDS = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
# W3C Trace Context, version 00; all-zero ids are invalid.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class _State:
    """What `configure` set up for this process; nothing, unless there is a collector to send to."""

    provider: TracerProvider | None = None
    tracer: trace.Tracer | None = None


def configure(role: str, *, endpoint: str | None, service_name: str = "billing", sample_ratio: float = 1.0) -> None:
    """Start exporting to `endpoint` (the collector's base URL), or do nothing when it is None."""
    shutdown()
    if endpoint is None:
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": service_name, "service.namespace": "billing", "billing.role": role}),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _State.provider, _State.tracer = provider, provider.get_tracer("billing")


def shutdown() -> None:
    """Send what is buffered and stop. Blocks up to a few seconds when the collector is away."""
    if _State.provider is not None:
        _State.provider.shutdown()
    _State.provider = _State.tracer = None


def valid(traceparent: str | None) -> str | None:
    """`traceparent` if it is one, else None: a header from outside is never passed on unread."""
    return traceparent if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) else None


@contextmanager
def span(
    name: str,
    kind: Kind = "internal",
    *,
    traceparent: str | None = None,
    attributes: Mapping[str, str | int] | None = None,
) -> Iterator[str | None]:
    """Run a block inside a span; yields the `traceparent` for what the block sends, or None.

    Attributes are ids and codes only. An exception marks the span as failed with its type, never with its text.
    """
    if _State.tracer is None:
        yield valid(traceparent)
        return
    started = _State.tracer.start_span(name, _parent(traceparent), _KINDS[kind], attributes=attributes)
    with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield _format(started.get_span_context())
        except Exception as error:
            started.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _parent(traceparent: str | None) -> Context | None:
    """The remote parent, or None for the current span of this task."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    remote = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return trace.set_span_in_context(NonRecordingSpan(remote))


def _format(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
