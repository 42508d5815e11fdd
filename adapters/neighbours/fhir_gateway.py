"""interop-service (the fhir-gateway): our resources in, each only over an older state of itself.

    PUT /{type}/{id} with If-None-Match: * or If-Match: W/"version"  →  200, 201; 412 or 409: it is not that version
    GET /{type}/{id}                                                  →  200, 404

Versions are FHIR's own (`meta.versionId`, R4 §3.1.0.5 "versioned update"): so a PUT that was stuck on its way, or one of a worker
that read earlier, cannot overwrite what is newer.
"""

import re
from typing import Any, NamedTuple

import orjson

from adapters.neighbours.client import Ask, Neighbour, Reply
from adapters.neighbours.pools import Limits

_NOT_FOUND = frozenset({404, 410})
_CONFLICT = frozenset({409, 412})
# Trying again changes nothing: the resource itself is refused. 401, 403 and 429 are about us, and end.
_REFUSED = frozenset({400, 404, 405, 410, 413, 415, 422})
_STORED = frozenset({200, 201})
_ISSUE_CODE = re.compile(r"[a-z]+(-[a-z]+)*")
_MAX_CODE = 32

MAX_RESOURCE_BYTES = 1024 * 1024  # an invoice of 500 lines comes back with about 300 kB


def limits(*, seconds: float, concurrency: int) -> Limits:
    """One try per question: what fails is tried again by whoever holds the event, later and later."""
    return Limits(
        read_seconds=seconds,
        deadline_seconds=seconds,
        tries=1,
        concurrency=concurrency,
        max_answer_bytes=MAX_RESOURCE_BYTES,
    )


class Refused(Exception):
    """The gateway will never take this resource. `code` is the OperationOutcome's issue code; its texts may name a patient."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


class Conflict(Exception):
    """Somebody else wrote meanwhile: look again."""


class Kept(NamedTuple):
    """What the gateway has."""

    version: str
    resource: dict[str, Any]


class FhirGateway:
    """Raises `adapters.neighbours.client.Unavailable` where no answer is to be believed, beside what is said below."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    async def aclose(self) -> None:
        await self._neighbour.aclose()

    async def get(self, kind: str, resource_id: str) -> Kept | None:
        ask = Ask("GET", f"/{kind}/{resource_id}", headers=_ACCEPT, expected=_STORED | _NOT_FOUND)
        return await self._neighbour.ask(ask, lambda reply: _read(kind, resource_id, reply))

    async def put(self, resource: dict[str, Any], over: str | None) -> str:
        """Stores it over version `over`, or anew; the version it is now. Raises Conflict and Refused."""
        kind, resource_id = resource["resourceType"], resource["id"]
        condition = {"If-None-Match": "*"} if over is None else {"If-Match": f'W/"{over}"'}
        ask = Ask(
            "PUT",
            f"/{kind}/{resource_id}",
            body=resource,
            headers=_ACCEPT | {"Content-Type": "application/fhir+json", "Prefer": "return=representation"} | condition,
            expected=_STORED | _CONFLICT | _REFUSED,
        )
        found = await self._neighbour.ask(ask, lambda reply: _stored(kind, resource_id, reply))
        if isinstance(found, Exception):
            raise found
        return found.version


_ACCEPT = {"Accept": "application/fhir+json"}


def _stored(kind: str, resource_id: str, reply: Reply) -> Kept | Conflict | Refused:
    if reply.status in _CONFLICT:
        return Conflict()
    if reply.status in _REFUSED:
        return Refused(reply.status, _issue_code(reply))
    kept = _read(kind, resource_id, reply)
    if kept is None:
        raise ValueError("no resource")
    return kept


def _read(kind: str, resource_id: str, reply: Reply) -> Kept | None:
    """Raises ValueError for what is no answer to the question."""
    if reply.status in _NOT_FOUND:
        _issue_code(reply)  # any proxy on the way says 404
        return None
    resource = orjson.loads(reply.body)
    if not isinstance(resource, dict) or (resource.get("resourceType"), resource.get("id")) != (kind, resource_id):
        raise ValueError("another resource")
    version = (resource.get("meta") or {}).get("versionId")
    if not isinstance(version, str) or not re.fullmatch(r"[A-Za-z0-9.-]{1,64}", version):
        raise ValueError("no version")
    return Kept(version, resource)


def _issue_code(reply: Reply) -> str:
    """Raises ValueError where it is not the FHIR server that speaks."""
    outcome = orjson.loads(reply.body)
    if not isinstance(outcome, dict) or outcome.get("resourceType") != "OperationOutcome":
        raise ValueError("no OperationOutcome")
    issues = outcome.get("issue")
    code = issues[0].get("code") if isinstance(issues, list) and issues and isinstance(issues[0], dict) else None
    known = isinstance(code, str) and len(code) <= _MAX_CODE and _ISSUE_CODE.fullmatch(code)
    return str(code) if known else "unknown"
