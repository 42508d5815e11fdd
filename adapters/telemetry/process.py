"""Logs and traces of one process, from its settings."""

from collections.abc import Iterator
from contextlib import contextmanager

from adapters.settings import TelemetrySettings
from adapters.telemetry import logging, tracing


@contextmanager
def telemetry(role: str, settings: TelemetrySettings) -> Iterator[None]:
    """Configure logging and tracing for `role`; leaving the block sends the spans that are still buffered."""
    explicit = "log_format" in settings.model_fields_set
    logging.configure(role, level=settings.log_level, log_format=settings.log_format if explicit else None)
    tracing.configure(
        role,
        endpoint=settings.otel_exporter_otlp_endpoint,
        service_name=settings.otel_service_name,
        sample_ratio=settings.trace_sample_ratio,
    )
    try:
        yield
    finally:
        tracing.shutdown()
