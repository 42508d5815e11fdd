"""Payments over HTTP: who gets no answer, a 202 or a 5xx sends the same request again under the same key, until it is decided."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Self
from uuid import UUID

import httpx

from tools.faults.history import History, Sent
from tools.faults.witness import Witness

# Above the shim's own 2.5 s of waiting for an outcome: what takes longer is frozen, or dead.
_TIMEOUT_SECONDS = 4.0
_RETRY_SECONDS = 0.2
# 401: whose clock was put back or forward does not trust a token of today.
_TRY_AGAIN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_DECIDED = (HTTPStatus.OK, HTTPStatus.CREATED)


class HttpDesk:
    """`urls` of several shims; each try goes to any of them, as behind a balancer. `tokens` by tenant."""

    def __init__(
        self, urls: Sequence[str], tokens: Mapping[str, str], history: History, witness: Witness, *, seed: int
    ) -> None:
        self._urls, self._tokens, self._history, self._witness = urls, tokens, history, witness
        self._random = random.Random(f"http {seed}")  # noqa: S311  repeatable on purpose

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def pay(self, tenant: str, body: dict[str, Any], *, twice: bool) -> None:
        """Returns once it is decided. `twice`: the request is sent once more afterwards, and has one effect nevertheless."""
        stored = await self._until_decided(tenant, body, None)
        if stored is not None and twice:
            self._history.sent_again(stored)
            await self._until_decided(tenant, body, stored)

    async def _until_decided(self, tenant: str, body: dict[str, Any], stored: UUID | None) -> UUID | None:
        """The command's id, or None for what should not have been said."""
        while True:
            answer = await self._try(tenant, body)
            if answer is None or answer.status_code in _TRY_AGAIN or answer.is_server_error:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not answer.is_success:
                self._history.surprise(f"{tenant}: {body['reference']} over HTTP: {answer.status_code} {answer.text}")
                return None
            said = answer.json()
            command_id = UUID(said["command_id"])
            if stored is None:
                stored = command_id
                self._history.over_http += 1
                self._history.acknowledged(Sent(tenant, "payment.record", command_id, str(body["reference"])))
            if answer.status_code in _DECIDED:
                self._history.answered(command_id, str(said["status"]))
                if (committed := await self._witness.committed(command_id)) is not None:
                    self._history.looked(command_id, committed)
                return command_id
            await asyncio.sleep(_RETRY_SECONDS)  # 202: queued, to be decided

    async def _try(self, tenant: str, body: dict[str, Any]) -> httpx.Response | None:
        headers = {"Authorization": f"Bearer {self._tokens[tenant]}", "Idempotency-Key": f"till/{body['reference']}"}
        with suppress(httpx.TransportError):
            return await self._http.post(f"{self._random.choice(self._urls)}/v1/payments", json=body, headers=headers)
        return None
