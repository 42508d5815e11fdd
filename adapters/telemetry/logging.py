"""Structured logs on stderr: one JSON object per line, ids and reason codes only.

`configure(role)` once per process; then `structlog.get_logger()` anywhere. Records of libraries that use the standard
`logging` module take the same way out, redaction included.
"""

import logging
import sys
import traceback
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from adapters.telemetry import redaction, tracing

MAX_FRAMES = 12  # of a traceback: enough to find the place
Format = Literal["json", "console"]

# Chatty at INFO, and some of it holds URLs with credentials.
_QUIET = ("httpx", "httpcore", "botocore", "aiobotocore", "urllib3", "asyncio", "uvicorn", "opentelemetry")


def configure(role: str, *, level: str = "info", log_format: Format | None = None) -> None:
    """Send structlog and standard logging to stderr. `log_format` left out: console on a terminal, else JSON."""
    chosen: Format = log_format or ("console" if sys.stderr.isatty() else "json")
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _role(role),
        _trace,
        _exception,
        redaction.redact,
    ]
    structlog.configure(
        processors=[*shared, *_renderers(chosen)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # tests and the CLI configure more than once
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(chosen)],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _renderers(log_format: Format) -> list[Processor]:
    if log_format == "console":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [structlog.processors.JSONRenderer(serializer=_json)]


def _json(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _role(role: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["role"] = role
        return event

    return add


def _trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The trace that the line belongs to, so that one leads to the other. A line about a message of a batch names its own."""
    if event.get("trace_id") is None:
        event.pop("trace_id", None)
        if found := tracing.trace_id(tracing.current()):
            event["trace_id"] = found
    return event


def _logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


def _exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Type and places of an exception, the SQLSTATE where it has one, and the system's own words for an OSError. Any other
    text may quote what was being worked on, which may be a patient's."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
        event["exception"] = {
            "type": f"{type(error).__module__}.{type(error).__qualname__}",
            "sqlstate": getattr(error, "sqlstate", None),
            "text": error.strerror if isinstance(error, OSError) else None,
            "at": [f"{_place(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames],
        }
    return event


def _place(filename: str) -> str:
    return "/".join(filename.replace("\\", "/").rsplit("/", 2)[-2:])
