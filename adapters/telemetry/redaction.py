"""What must never reach a log line: patient data by key, secrets by shape."""

import re
from typing import Any

from structlog.typing import EventDict, WrappedLogger

# Keys whose values are free text about people, amounts, or secrets. Ids and codes are what a log is for.
_KEYS = """
    allocations amount amount_minor api_key authorization body cookie creds data database_url description details
    guarantor headers jwt lines message_body name nats_url notes note parties party password patient payload
    policy_number prices private_key query_string reason reference result secret seed statement token
"""
SENSITIVE_KEYS = frozenset(_KEYS.split())
REDACTED = "[redacted]"
MAX_TEXT = 2_000  # characters of one value: a log line is for finding a thing, not for carrying it
MAX_DEPTH = 4

_URL_PASSWORD = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/@]+@", re.IGNORECASE)
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.?[A-Za-z0-9_-]*")
_BEARER = re.compile(r"bearer\s+\S+", re.IGNORECASE)


def text(value: str) -> str:
    """`value` without URL credentials and tokens, cut to `MAX_TEXT` characters."""
    if "://" in value:
        value = _URL_PASSWORD.sub(rf"\g<scheme>{REDACTED}@", value)
    value = _BEARER.sub(f"Bearer {REDACTED}", _JWT.sub(REDACTED, value))
    return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor: drops sensitive keys at any depth and scrubs every string."""
    return {key: _value(value, MAX_DEPTH) for key, value in event.items() if key.lower() not in SENSITIVE_KEYS}


def _value(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool | int | float | None):
        return value
    if depth == 0:
        return REDACTED
    if isinstance(value, dict):
        return {
            str(key): _value(item, depth - 1) for key, item in value.items() if str(key).lower() not in SENSITIVE_KEYS
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(item, depth - 1) for item in value]
    return text(str(value))
