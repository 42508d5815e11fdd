"""The generic HTTP protocol (docs/payment-gateway-protocol.md): what a bank's small bridge speaks in front of its own system.

What is believed: an answer about the payment that was asked about, in the currency and over the amount that was asked for, whose
amounts make sense together. Anything else is `Unknown`, since something answered and nobody knows what it did.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import orjson
from pydantic import ValidationError

from adapters.gateways.generic_answers import PaymentSaid, RefundSaid, Said
from adapters.gateways.keys import Credentials, capture_key
from adapters.gateways.ports import Answer, Charge, Reason, Refused, Unasked, Unknown
from adapters.gateways.wire import NotSent, Reply, Wire
from schemas.gateway import DeclineCode

# Refusals in the bridge's own words (an error body): it has looked at the request and done nothing. 409 is not among them: the
# same key is in use, so something is going on. 408, 425 and all 5xx say nothing about what was done.
_CERTAIN = frozenset({400, 401, 403, 404, 410, 413, 415, 422, 429})
_CREDENTIALS = frozenset({401, 403})
_TOO_MANY = 429
_OK = frozenset({200, 201, 202})


class _Error(Said):
    code: DeclineCode
    retryable: bool = False


class _ErrorBody(Said):
    error: _Error


S = TypeVar("S", PaymentSaid, RefundSaid)


class GenericGateway:
    """One tenant's gateway. `wire` is to the bridge's base URL."""

    def __init__(self, wire: Wire, credentials: Credentials) -> None:
        self._wire, self._credentials = wire, credentials

    async def charge(self, charge: Charge) -> Answer | Refused:
        body = {
            "payment_id": str(charge.payment_id),
            "amount_minor": charge.amount_minor,
            "currency": charge.currency,
            "source": charge.source,
            "capture": charge.capture,
        }

        def right(said: PaymentSaid) -> bool:
            whole = said.authorised_minor in (charge.amount_minor, 0)
            return said.payment_id == charge.payment_id and said.currency == charge.currency and whole

        return await self._act("/v1/payments", str(charge.payment_id), body, PaymentSaid, right)

    async def capture(self, payment_id: UUID, reference: str, amount_minor: int) -> Answer | Refused:
        def right(said: PaymentSaid) -> bool:
            return _is(said, payment_id, reference) and said.captured_minor in (amount_minor, 0)

        path, body = f"/v1/payments/{payment_id}/capture", {"amount_minor": amount_minor}
        return await self._act(path, capture_key(payment_id, amount_minor), body, PaymentSaid, right)

    async def cancel(self, payment_id: UUID, reference: str) -> Answer | Refused:
        def right(said: PaymentSaid) -> bool:
            return _is(said, payment_id, reference)

        return await self._act(f"/v1/payments/{payment_id}/cancel", f"{payment_id}:cancel", {}, PaymentSaid, right)

    async def refund(self, payment_id: UUID, reference: str, refund_id: UUID, amount_minor: int) -> Answer | Refused:
        def right(said: RefundSaid) -> bool:
            return (said.payment_id, said.refund_id, said.amount_minor) == (payment_id, refund_id, amount_minor)

        body = {"refund_id": str(refund_id), "amount_minor": amount_minor}
        return await self._act(f"/v1/payments/{payment_id}/refunds", str(refund_id), body, RefundSaid, right)

    async def find(self, payment_id: UUID) -> Answer | None:
        path = f"/v1/payments/{payment_id}"
        return await self._ask(path, "payment_not_found", PaymentSaid, lambda said: said.payment_id == payment_id)

    async def find_refund(self, payment_id: UUID, refund_id: UUID) -> Answer | None:
        def right(said: RefundSaid) -> bool:
            return (said.payment_id, said.refund_id) == (payment_id, refund_id)

        path = f"/v1/payments/{payment_id}/refunds/{refund_id}"
        return await self._ask(path, "refund_not_found", RefundSaid, right)

    async def _act(
        self, path: str, key: str, body: dict[str, Any], said: type[S], right: Callable[[S], bool]
    ) -> Answer | Refused:
        content = orjson.dumps(body)
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        reply: Reply | Refused
        try:
            reply = await self._send("POST", path, headers, content)
        except NotSent as error:
            return not_sent(error)
        if isinstance(reply, Refused):
            return reply
        if reply.status in _OK:
            return believed(reply.body, said, right).answer()
        return refusal(reply)

    async def _ask(self, path: str, missing: str, said: type[S], right: Callable[[S], bool]) -> Answer | None:
        try:
            reply = await self._send("GET", path, {}, None)
        except NotSent as error:
            refused = not_sent(error)
            raise Unasked(refused.code, refused.detail) from None
        if isinstance(reply, Refused):
            raise Unasked(reply.code, reply.detail)
        if reply.status in _OK:
            return believed(reply.body, said, right).answer()
        answer = refusal(reply)
        if reply.status == 404 and answer.detail == missing:
            return None
        raise Unasked(answer.code, answer.detail)

    async def _send(self, method: str, path: str, headers: dict[str, str], content: bytes | None) -> Reply | Refused:
        """With the key of the moment; once more where the gateway does not know it and it has been replaced meanwhile."""

        async def attempt(key: str) -> Reply:
            return await self._wire.send(
                method, path, headers={**headers, "Authorization": f"Bearer {key}"}, content=content
            )

        return await self._credentials.use(attempt, lambda reply: reply.status in _CREDENTIALS)


def believed(body: bytes, said: type[S], right: Callable[[S], bool]) -> S:
    """What the gateway says, if it is about what was asked. Raises Unknown."""
    try:
        found = said.model_validate(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError, RecursionError) as error:
        raise Unknown(f"not an answer: {type(error).__name__}") from None
    if not right(found):
        raise Unknown("an answer about something else")
    return found


def refusal(reply: Reply) -> Refused:
    """What a status other than success means. Raises Unknown where it does not say for certain that nothing was done."""
    if reply.status not in _CERTAIN:
        raise Unknown(f"status {reply.status}")
    try:
        error = _ErrorBody.model_validate(orjson.loads(reply.body)).error
    except (orjson.JSONDecodeError, ValidationError, RecursionError):
        raise Unknown(f"status {reply.status} in nobody's words") from None
    if reply.status in _CREDENTIALS:
        return Refused(Reason.CREDENTIALS, True, error.code)
    if reply.status == _TOO_MANY:
        return Refused(Reason.BUSY, True, error.code)
    return Refused(Reason.REFUSED, error.retryable, error.code)


def not_sent(error: NotSent) -> Refused:
    """Retryable either way: hosts come back, and configuration is put right."""
    return Refused(Reason.UNREACHABLE if error.configured else Reason.NOT_CONFIGURED, True, str(error))


def _is(said: PaymentSaid, payment_id: UUID, reference: str) -> bool:
    return said.payment_id == payment_id and said.reference == reference
