"""Traces over OTLP/HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set; otherwise `traceparent` is only passed on.

A caller never asks whether tracing is on:

    with tracing.span("payment.record", "producer", traceparent=incoming) as outgoing:
        headers = {"traceparent": outgoing} if outgoing else {}

Who begins a trace decides whether it is kept; whoever comes after keeps to that, and makes no span for a trace that is not.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from time import time_ns
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

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


_CURRENT: ContextVar[str | None] = ContextVar("traceparent", default=None)


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


def trace_id(traceparent: str | None) -> str | None:
    """For log lines: the 32 hexadecimal digits of a `traceparent` that has been found valid."""
    return traceparent[3:35] if traceparent else None


def current() -> str | None:
    """The `traceparent` of the innermost `span` block this task is in."""
    return _CURRENT.get()


def annotate(attributes: Mapping[str, str | int], *, name: str | None = None, failed: str | None = None) -> None:
    """Says more of the innermost `span` block: what is known only later. `failed`, a few words without data, marks it as such."""
    if _State.tracer is not None:
        inner = trace.get_current_span()
        inner.set_attributes(dict(attributes))
        if name is not None:
            inner.update_name(name)
        if failed is not None:
            inner.set_status(Status(StatusCode.ERROR, failed))


@contextmanager
def span(
    name: str,
    kind: Kind = "internal",
    *,
    traceparent: str | None = None,
    attributes: Mapping[str, str | int] | None = None,
    links: Sequence["Hop"] = (),
) -> Iterator[str | None]:
    """Run a block inside a span; yields the `traceparent` for what the block sends, or None.

    Without `traceparent`, the parent is the block around this one. Attributes are ids and codes only. An exception marks the span
    as failed with its type, never with its text.
    """
    parent = valid(traceparent) or _CURRENT.get()
    started = None
    if _State.tracer is not None and (parent is None or _sampled(parent)):
        attached = [Link(link.context) for link in links]
        started = _State.tracer.start_span(name, _context(parent), _KINDS[kind], attributes=attributes, links=attached)
        for link in links:
            link.add_link(started)
    outgoing = parent if started is None else _format(started.get_span_context())
    token = _CURRENT.set(outgoing)
    try:
        if started is None:
            yield outgoing
        else:
            with _current(started):
                yield outgoing
    finally:
        _CURRENT.reset(token)


class Hop:
    """A span that no block of code encloses: one message among those of a batch. End it with `end`."""

    __slots__ = ("_span", "context", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.context = span.get_span_context()
        self.traceparent = _format(self.context)

    def add_link(self, other: Span) -> None:
        """Each finds the other: a batch its messages, a message its batch."""
        self._span.add_link(other.get_span_context())

    def end(self, attributes: Mapping[str, str | int], failed: str | None = None) -> None:
        self._span.set_attributes(dict(attributes))
        if failed is not None:
            self._span.set_status(Status(StatusCode.ERROR, failed))
        self._span.end()


def hop(
    name: str, kind: Kind, *, traceparent: str | None, attributes: Callable[[], Mapping[str, str | int]]
) -> Hop | None:
    """Begin a span for one message; None, at no cost, where there is no collector or its trace is not kept.

    A message without `traceparent` begins a trace of its own. `traceparent` has been found valid.
    """
    if _State.tracer is None or (traceparent is not None and not _sampled(traceparent)):
        return None
    # The context is always given: what happens to be current here is another message's.
    parent = _context(traceparent) or Context()
    started = _State.tracer.start_span(name, parent, _KINDS[kind], attributes=attributes())
    return Hop(started) if started.is_recording() else None


def passed(
    name: str, kind: Kind, traceparents: Sequence[str], since_ns: int, attributes: Mapping[str, str | int]
) -> None:
    """One span, from `since_ns` until now, in each of the traces that are kept: what was done to many messages at once."""
    if _State.tracer is None:
        return
    now = time_ns()
    for traceparent in traceparents:
        if valid(traceparent) and _sampled(traceparent):
            started = _State.tracer.start_span(
                name, _context(traceparent), _KINDS[kind], attributes=attributes, start_time=since_ns
            )
            started.end(now)


def exports() -> bool:
    """Whether there is a collector: for work that would be done only to say something of it."""
    return _State.tracer is not None


@contextmanager
def _current(started: Span) -> Iterator[None]:
    with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except Exception as error:
            started.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _sampled(traceparent: str) -> bool:
    return traceparent[-1] in "13579bdf"


def _context(traceparent: str | None) -> Context | None:
    """The remote parent; None begins a trace, or goes on in that of the current task."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    remote = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return trace.set_span_in_context(NonRecordingSpan(remote))


def _format(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
