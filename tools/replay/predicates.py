"""What a message must be like to be selected: `amount.amount_minor>=100000`, `Billing-Actor=nurse-7`, `method~^ca`."""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from tools.replay.errors import ReplayError

# The longer operators first: `>=` must not be read as `>` with a value of `=…`.
_FORM = re.compile(r"(?P<path>[A-Za-z0-9_.-]+)\s*(?P<operator>>=|<=|!=|=|<|>|~)\s*(?P<value>.*)", re.DOTALL)
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    ">": operator.gt,
}
_MISSING = object()


class Predicate(NamedTuple):
    """`path` is a header's name, or a dotted path into the body; a number in it is an index of a list."""

    path: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Predicate":
        """Raises ReplayError for what is not PATH OPERATOR VALUE."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ReplayError(
                f"{text!r}: not a predicate; write for example method=cash or amount.amount_minor>=100000"
            )
        found = cls(match["path"], match["operator"], match["value"])
        if found.operator == "~":
            try:
                re.compile(found.value)
            except re.error as error:
                raise ReplayError(f"{text!r}: not a regular expression: {error}") from None
        return found

    def holds_for_header(self, headers: Mapping[str, str]) -> bool:
        name = next((name for name in headers if name.lower() == self.path.lower()), None)
        return self._holds(headers[name] if name is not None else _MISSING)

    def holds_for_body(self, data: bytes) -> bool:
        """A body that is not JSON has nothing in it."""
        try:
            found: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            return self._holds(_MISSING)
        for part in self.path.split("."):
            if isinstance(found, dict):
                found = found.get(part, _MISSING)
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                found = _MISSING
        return self._holds(found)

    def _holds(self, found: Any) -> bool:
        if found is _MISSING:
            return self.operator == "!="
        if self.operator == "~":
            return isinstance(found, str) and re.search(self.value, found) is not None
        if self.operator in _ORDER:
            return _ordered(_ORDER[self.operator], found, self.value)
        return (_text(found) == self.value) == (self.operator == "=")

    def __str__(self) -> str:
        return f"{self.path}{self.operator}{self.value}"


def _ordered(compare: Callable[[Any, Any], bool], found: Any, value: str) -> bool:
    """Numbers as numbers; anything else as text, which for ISO dates is their order."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            return compare(found, float(value))
        except ValueError:
            return False
    return isinstance(found, str) and compare(found, value)


def _text(found: Any) -> str:
    return found if isinstance(found, str) else orjson.dumps(found).decode()
