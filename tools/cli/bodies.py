"""Message bodies from a file, stdin or the argument itself: one JSON document, or JSON Lines."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from tools.cli.errors import USAGE, CliError


class Body(NamedTuple):
    """`line` is where it stands in the source, from 1."""

    line: int
    data: bytes


def read_source(source: str) -> bytes:
    """The bytes of a file, of stdin (`-`), or the argument where it is JSON itself."""
    if source == "-":
        return sys.stdin.buffer.read()
    if source.lstrip().startswith("{"):
        return source.encode()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise CliError(f"{source}: {error.strerror}; give a file, - for stdin, or the JSON itself", USAGE) from None


def parse_bodies(text: bytes, source: str) -> list[Body]:
    """One body where the whole is one JSON object, else one per line. The bytes stay as they are.

    Raises CliError naming the line and column that is not JSON.
    """
    if not text.strip():
        raise CliError(f"{source}: empty; a body is a JSON object, {{}} at least", USAGE)
    whole = _error(text)
    if whole is None:
        return [Body(1, text.strip())]
    bodies = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        error = _error(line)
        if error is not None:
            # A pretty-printed document with a mistake is no JSON Lines: its own error is the one that helps.
            where = whole if number == 1 else f"line {number}: {error}"
            raise CliError(f"{source}: {where}", USAGE)
        bodies.append(Body(number, line.strip()))
    return bodies


def _error(text: bytes) -> str | None:
    try:
        value = json.loads(text)
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    return None if isinstance(value, dict) else "not a JSON object"
