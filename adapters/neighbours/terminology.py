"""The terminology service: FHIR R4 `GET /CodeSystem/$validate-code?url=…&code=…` → Parameters.

Fails closed: a code is valid only where the service said so, about that very code and system, within the cache's time. Whatever
else happens is `terminology_unavailable`, which is retryable; never a charge that was not validated.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from adapters.neighbours.cache import Cache, Found
from adapters.neighbours.client import Ask, Neighbour, Reply, Unavailable
from adapters.neighbours.ports import CodedItem
from schemas.codes import Code
from schemas.outcome import Problem, problem

VALID_SECONDS = 600.0  # a code that is withdrawn is still charged for ten minutes
PATIENCE_SECONDS = 1.0  # of a batch with a code nobody has asked for lately
SIZE = 50_000
_PATH = "/CodeSystem/$validate-code"
_NOT_FOUND = 404
_SAYS_UNKNOWN = frozenset({"not-found", "code-invalid"})  # FHIR IssueType
_FHIR_JSON = "application/fhir+json"


class HttpTerminology:
    """`adapters.neighbours.ports.Terminology` over HTTP."""

    def __init__(
        self,
        neighbour: Neighbour,
        *,
        valid_seconds: float = VALID_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._neighbour, self._valid_seconds = neighbour, valid_seconds
        self._cache: Cache[CodedItem, bool] = Cache(
            neighbour, self._fetch, patience_seconds=patience_seconds, size=SIZE
        )

    async def validate(self, items: Iterable[CodedItem]) -> Mapping[CodedItem, Problem | None]:
        """All at once; the neighbour's limits bound how many are really under way."""
        asked = list(dict.fromkeys(items))
        return dict(zip(asked, await asyncio.gather(*map(self._validity, asked)), strict=True))

    async def aclose(self) -> None:
        await self._cache.aclose()
        await self._neighbour.aclose()

    async def _validity(self, item: CodedItem) -> Problem | None:
        try:
            valid = await self._cache.get(item)
        except Unavailable:
            return problem(Code.TERMINOLOGY_UNAVAILABLE)
        return None if valid else problem(Code.CHARGE_CODE_UNKNOWN, None, system=item.system, code=item.code)

    async def _fetch(self, item: CodedItem) -> Found[bool]:
        ask = Ask(
            "GET",
            _PATH,
            params={"url": item.system, "code": item.code},
            headers={"Accept": _FHIR_JSON},
            expected=frozenset({200, _NOT_FOUND}),
        )
        valid = await self._neighbour.ask(ask, lambda reply: _read(item, reply))
        # Not kept where it is not valid: it may be added any minute, and such charges are rare.
        return Found(valid, self._valid_seconds if valid else 0, 0)


def _read(item: CodedItem, reply: Reply) -> bool:
    """Raises ValueError for what is no answer to the question."""
    resource = orjson.loads(reply.body)
    if not isinstance(resource, dict):
        raise ValueError("not a resource")
    if reply.status == _NOT_FOUND:
        if resource.get("resourceType") == "OperationOutcome" and _issue_codes(resource) & _SAYS_UNKNOWN:
            return False  # the code system itself is not known
        raise ValueError("not the terminology service's 404")
    if resource.get("resourceType") != "Parameters":
        raise ValueError("not Parameters")
    values = _values(resource)
    result = values.get("result")
    if not isinstance(result, bool):
        raise ValueError("no result")
    # Echoes are optional in FHIR; where they are there, they must be of what was asked.
    if values.get("code", item.code) != item.code or values.get("system", item.system) != item.system:
        raise ValueError("the answer is about another code")
    return result


def _values(parameters: dict[str, Any]) -> dict[str, Any]:
    """`{name: value}`, whatever the value[x] is called. A name that is given twice is none of ours, or a lie."""
    values: dict[str, Any] = {}
    for parameter in _objects(parameters.get("parameter")):
        given = [value for key, value in parameter.items() if key.startswith("value")]
        name = parameter.get("name")
        if isinstance(name, str) and given:
            if name in values:
                raise ValueError("a parameter is given twice")
            values[name] = given[0]
    return values


def _issue_codes(outcome: dict[str, Any]) -> set[Any]:
    return {issue["code"] for issue in _objects(outcome.get("issue")) if isinstance(issue.get("code"), str)}


def _objects(listed: Any) -> list[dict[str, Any]]:
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
