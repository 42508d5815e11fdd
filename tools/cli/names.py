"""What is wrong with a subject, and which one was probably meant."""

import difflib
from collections.abc import Iterable

from schemas.registry import COMMANDS, QUERIES
from schemas.subjects import COMMAND_PREFIX, QUERY_PREFIX, command_subject, parse, query_subject


def check_command_subject(subject: str) -> str | None:
    """None where the subject is that of a command there is; else what is wrong, in a sentence."""
    return _problem(subject, COMMAND_PREFIX, COMMANDS, "command")


def check_query_subject(subject: str) -> str | None:
    """None where the subject is that of a query there is; else what is wrong, in a sentence."""
    return _problem(subject, QUERY_PREFIX, QUERIES, "query")


def explain_refused_subject(subject: str) -> str:
    """Why no stream takes a subject."""
    reason = check_command_subject(subject)
    if reason is not None:
        return f"{subject}: no stream takes this subject: {reason}"
    return f"{subject}: no stream takes this subject; `billing migrate` declares the streams"


def _problem(subject: str, prefix: str, known: Iterable[str], kind: str) -> str | None:
    address = parse(subject)
    if address is None or not subject.startswith(prefix + "."):
        return f"a {kind} goes to {prefix}.<tenant>.<aggregate>.<verb>, the tenant of 1 to 64 letters, digits, _ or -"
    if address.name in known:
        return None
    make = command_subject if kind == "command" else query_subject
    close = [make(address.tenant_id, name) for name in close_matches(address.name, known)]
    hint = f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(sorted(known))}"
    return f"there is no {kind} {address.name}{hint}"


def close_matches(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names like `name`: misspelt, or with the right verb on another aggregate."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    verb = name.partition(".")[2]
    return (close or [other for other in names if other.partition(".")[2] == verb])[:3]
