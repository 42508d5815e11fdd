"""Stripe: PaymentIntents with our payment id in their metadata, through Stripe's own library over our guarded connection.

Stripe forgets idempotency keys (after 24 hours at the earliest), and its search knows a new PaymentIntent only after up to a
minute. Together they are enough: as long as the key lives, asking again moves no money twice; when it may be forgotten, the
search knows, and is asked first. A payment id that says when it was made (UUIDv7) spares the young ones that search.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import stripe

from adapters.gateways.keys import Credentials, capture_key
from adapters.gateways.ports import Answer, Charge, Reason, Refused, Unasked, Unknown
from adapters.gateways.stripe_answers import (
    PAYMENT_ID,
    REFUND_ID,
    ErrorSaid,
    Found,
    Intent,
    StripeRefund,
    intent_of,
    read,
    takes,
)
from adapters.gateways.wire import NotSent, Wire

KEY_LIFE_SECONDS = 20 * 3600  # Stripe keeps idempotency keys for 24 hours
_CLOCK_SECONDS = 300  # an id from this far in the future is a clock that is wrong, not a young id
_BASE = "https://stripe.invalid"  # requests go where the wire goes
_UNSET_KEY = "unset"  # every request brings its own
_EXPAND = ["latest_charge.balance_transaction"]
_PAGE = 100

Options = stripe.RequestOptions
Ask = Callable[[Options], Awaitable[stripe.StripeObject]]


class _Declined(NamedTuple):
    """HTTP 402: the request was understood, and the card's answer is no."""

    said: ErrorSaid


class _Denied(NamedTuple):
    code: str


class StripeGateway:
    """One tenant's. `account`: a connected account of the key's owner, where it is not the owner itself."""

    def __init__(self, wire: Wire, credentials: Credentials, *, account: str | None = None) -> None:
        stripe.enable_telemetry = False
        logging.getLogger("stripe").setLevel(logging.WARNING)  # below it writes down requests with their tokens
        self._credentials, self._account = credentials, account
        self._client = stripe.StripeClient(
            _UNSET_KEY, http_client=_OverWire(wire), base_addresses={"api": _BASE}, max_network_retries=0
        ).v1

    async def charge(self, charge: Charge) -> Answer | Refused:
        if not takes(charge.amount_minor, charge.currency):
            return Refused(Reason.REFUSED, False, "currency_unsupported")
        if may_be_forgotten(charge.payment_id):
            found = await self._acting(self.find(charge.payment_id))
            if found is not None:
                return found
        params: Any = {
            "amount": charge.amount_minor,
            "currency": charge.currency.lower(),
            "payment_method": charge.source,
            "payment_method_types": ["card"],
            "capture_method": "automatic" if charge.capture else "manual",
            "confirm": True,
            "error_on_requires_action": True,  # nobody is there who could answer a challenge
            "metadata": {PAYMENT_ID: str(charge.payment_id)},
            "expand": _EXPAND,
        }
        said = await self._act(
            lambda options: self._client.payment_intents.create_async(params, options), str(charge.payment_id)
        )
        if isinstance(said, Refused):
            return said
        if isinstance(said, _Declined):
            return _declined(said.said, charge)
        intent = intent_of(said, charge.payment_id)
        if intent.amount != charge.amount_minor or intent.currency != charge.currency.lower():
            raise Unknown("an answer about another amount")
        if intent.status == "requires_action":
            released = await self.cancel(charge.payment_id, intent.id)
            if isinstance(released, Refused):
                raise Unknown("a challenge that cannot be taken back")
            return released._replace(state="declined", decline_code="authentication_required")
        return intent.answer()

    async def capture(self, payment_id: UUID, reference: str, amount_minor: int) -> Answer | Refused:
        params: Any = {"amount_to_capture": amount_minor, "expand": _EXPAND}
        return await self._change(
            payment_id,
            reference,
            lambda options: self._client.payment_intents.capture_async(reference, params, options),
            capture_key(payment_id, amount_minor),
        )

    async def cancel(self, payment_id: UUID, reference: str) -> Answer | Refused:
        params: Any = {"expand": _EXPAND}
        return await self._change(
            payment_id,
            reference,
            lambda options: self._client.payment_intents.cancel_async(reference, params, options),
            f"{payment_id}:cancel",
        )

    async def _change(self, payment_id: UUID, reference: str, ask: Ask, key: str) -> Answer | Refused:
        """A refusal may only mean that it was done before, under a key that is forgotten: what Stripe has decides."""
        said = await self._act(ask, key)
        if isinstance(said, _Declined):
            said = Refused(Reason.REFUSED, False, said.said.decline_code or said.said.code or "declined")
        if not isinstance(said, Refused):
            return intent_of(said, payment_id).answer()
        if said.code != Reason.REFUSED:
            return said
        found = await self._retrieve(reference, payment_id)
        return said if found.status in ("requires_capture", "processing") else found.answer()

    async def refund(self, payment_id: UUID, reference: str, refund_id: UUID, amount_minor: int) -> Answer | Refused:
        made = await self._acting(self._refund_of(reference, refund_id))
        if made is not None:
            return made
        params: Any = {
            "payment_intent": reference,
            "amount": amount_minor,
            "metadata": {PAYMENT_ID: str(payment_id), REFUND_ID: str(refund_id)},
        }
        said = await self._act(lambda options: self._client.refunds.create_async(params, options), str(refund_id))
        if isinstance(said, _Declined):
            return Refused(Reason.REFUSED, False, said.said.decline_code or said.said.code or "declined")
        if isinstance(said, Refused):
            return said
        refund = read(StripeRefund, said)
        if refund.metadata.get(REFUND_ID) != str(refund_id) or refund.amount != amount_minor:
            raise Unknown("an answer about another refund")
        return refund.answer()

    async def find(self, payment_id: UUID) -> Answer | None:
        intent = await self._search(payment_id)
        return intent.answer() if intent is not None else None

    async def find_refund(self, payment_id: UUID, refund_id: UUID) -> Answer | None:
        intent = await self._search(payment_id)
        return await self._refund_of(intent.id, refund_id) if intent is not None else None

    async def _search(self, payment_id: UUID) -> Intent | None:
        params: Any = {"query": f"metadata['{PAYMENT_ID}']:'{payment_id}'", "limit": 2}
        said = await self._ask(lambda options: self._client.payment_intents.search_async(params, options))
        found = [read(Intent, each) for each in read(Found, said).data]
        if not found:
            return None
        if len(found) > 1 or not found[0].is_of(payment_id):
            raise Unknown("a search that found something else, or too much")
        # What the search knows may be old; what it names is not.
        return await self._retrieve(found[0].id, payment_id)

    async def _retrieve(self, reference: str, payment_id: UUID) -> Intent:
        params: Any = {"expand": _EXPAND}
        said = await self._ask(lambda options: self._client.payment_intents.retrieve_async(reference, params, options))
        return intent_of(said, payment_id)

    async def _refund_of(self, reference: str, refund_id: UUID) -> Answer | None:
        params: Any = {"payment_intent": reference, "limit": _PAGE}
        page = read(Found, await self._ask(lambda options: self._client.refunds.list_async(params, options)))
        mine = [refund for refund in page.data if (refund.get("metadata") or {}).get(REFUND_ID) == str(refund_id)]
        if not mine and page.has_more:
            raise Unknown("more refunds than one page")
        return read(StripeRefund, mine[0]).answer() if mine else None

    async def _acting(self, asking: Awaitable[Answer | None]) -> Answer | Refused | None:
        """A look before something is done: where it could not be taken, nothing was done."""
        try:
            return await asking
        except Unasked as error:
            return Refused(error.code, True, str(error))

    async def _ask(self, ask: Ask) -> dict[str, Any]:
        """Raises Unknown; Unasked where Stripe says nothing of the matter."""
        said = await self._act(ask, None)
        if isinstance(said, Refused):
            raise Unasked(said.code, said.detail)
        if isinstance(said, _Declined):
            raise Unknown("declined to say")
        return said

    async def _act(self, ask: Ask, key: str | None) -> dict[str, Any] | _Declined | Refused:
        """One request, its answer as plain data. Raises Unknown."""

        async def attempt(api_key: str) -> dict[str, Any] | _Declined | Refused | _Denied:
            options: Options = {"api_key": api_key, "idempotency_key": key, "stripe_account": self._account}
            return await _judged(ask(options))

        result = await self._credentials.use(attempt, lambda found: isinstance(found, _Denied))
        return Refused(Reason.CREDENTIALS, True, result.code) if isinstance(result, _Denied) else result


class _OverWire(stripe.HTTPClient):
    """Stripe's library decides what is sent; where to, how long and how much is ours."""

    name: ClassVar[str] = "billing"

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[Any, int, Any]:
        content = post_data.encode() if isinstance(post_data, str) else None
        reply = await self._wire.send(method.upper(), url.removeprefix(_BASE), headers=headers, content=content)
        return reply.body, reply.status, reply.headers


async def _judged(asking: Awaitable[stripe.StripeObject]) -> dict[str, Any] | _Declined | Refused | _Denied:
    """What the library's answer or exception means. Its texts quote what was sent: none is kept. Raises Unknown."""
    try:
        found = await asking
        return found.to_dict()
    except NotSent as error:
        return Refused(Reason.UNREACHABLE if error.configured else Reason.NOT_CONFIGURED, True, str(error))
    except stripe.CardError as error:
        return _Declined(_error_said(error))
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        return _Denied(_error_said(error).code or "denied")
    except stripe.RateLimitError as error:
        return Refused(Reason.BUSY, True, _error_said(error).code or "rate_limit")
    except stripe.IdempotencyError:
        raise Unknown("the key was used for another request") from None
    except stripe.InvalidRequestError as error:
        return Refused(Reason.REFUSED, False, _error_said(error).code or "invalid_request")
    except stripe.StripeError as error:
        raise Unknown(f"{type(error).__name__} {error.http_status}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        # The library builds objects of whatever came; an answer of another shape breaks it somewhere inside.
        raise Unknown(f"not an answer: {type(error).__name__}") from None


def _error_said(error: stripe.StripeError) -> ErrorSaid:
    body: Any = error.json_body
    return read(ErrorSaid, body.get("error") if isinstance(body, dict) else None)


def _declined(said: ErrorSaid, charge: Charge) -> Answer:
    """Raises Unknown where the error is about another payment."""
    reference = said.charge
    if said.payment_intent is not None:
        reference = intent_of(said.payment_intent, charge.payment_id).id
    if reference is None:
        raise Unknown("declined, but what?")
    code = said.decline_code or said.code or "declined"
    return Answer("declined", reference, charge.currency, 0, decline_code=code)


def may_be_forgotten(payment_id: UUID) -> bool:
    """Whether Stripe may no longer know the id's idempotency key: unless the id itself says that it is young enough."""
    if payment_id.version != 7:
        return True
    made_at = (payment_id.int >> 80) / 1000
    return not -_CLOCK_SECONDS <= time.time() - made_at < KEY_LIFE_SECONDS
