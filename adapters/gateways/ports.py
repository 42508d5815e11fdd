"""What the gateway job asks of a payment gateway, whoever answers.

Every request carries a key derived from our ids, so that asking twice moves money once. An answer is either an `Answer`
(the gateway said so), `Refused` (nothing happened, for certain) or the exception `Unknown` (money may have moved).
"""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from schemas.gateway import GatewayState


class Charge(NamedTuple):
    """Reserve `amount_minor`; with `capture` take it at once. `source` is the gateway's token for the card or wallet."""

    payment_id: UUID
    amount_minor: int
    currency: str
    source: str
    capture: bool


class Answer(NamedTuple):
    """What a gateway has for one payment now. Amounts in minor units; `fee_minor` None: not known (yet).

    About a refund: `reference` is the refund's own, `state` is `refunded` (done), `pending` (accepted, on its way) or `declined`
    (it failed), `refunded_minor` its amount, and nothing is said of the payment's other amounts (0).
    """

    state: GatewayState
    reference: str
    currency: str
    authorised_minor: int
    captured_minor: int = 0
    refunded_minor: int = 0
    fee_minor: int | None = None
    expires_at: datetime | None = None
    decline_code: str | None = None


class Reason(StrEnum):
    """Why a gateway was not asked, or did nothing."""

    CIRCUIT_OPEN = "circuit_open"  # it lately did not answer: not asked
    BUSY = "gateway_busy"  # our own limit for the tenant, or the gateway's (429)
    UNREACHABLE = "gateway_unreachable"  # no connection: the request was never sent
    NOT_CONFIGURED = "gateway_not_configured"  # no profile, no API key, or a host that is not allowed
    CREDENTIALS = "gateway_credentials"  # the gateway does not accept the API key
    REFUSED = "gateway_refused"  # it will not do this: an unknown token, more than is held, …


class Refused(NamedTuple):
    """Certainly not done. `code` is a `Reason`; `retryable`: the same request may succeed later. `detail`: the gateway's own
    code, bounded; never its free text."""

    code: str
    retryable: bool
    detail: str = ""


class Unknown(Exception):
    """No usable answer after the request may have arrived: the recovery asks with `find` what became of it."""


class Unasked(Unknown):
    """Of `find` only: the gateway was not reached, so nothing is known, as before. `code` is a `Reason`."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        super().__init__(f"{code}: {detail}" if detail else code)


class Gateway(Protocol):
    """One tenant's gateway. Keys: `<payment_id>` for the charge, `<payment_id>:capture:<amount>`, `<refund_id>` and so on; one
    key, one effect, for ever (an adapter whose service forgets keys has to look first)."""

    async def charge(self, charge: Charge) -> Answer | Refused:
        """Authorise, and capture if asked to. A declined card is an Answer. Raises Unknown."""
        ...

    async def capture(self, payment_id: UUID, reference: str, amount_minor: int) -> Answer | Refused:
        """Take `amount_minor` of what is held; the rest is released. Raises Unknown."""
        ...

    async def cancel(self, payment_id: UUID, reference: str) -> Answer | Refused:
        """Release what is held. Raises Unknown."""
        ...

    async def refund(self, payment_id: UUID, reference: str, refund_id: UUID, amount_minor: int) -> Answer | Refused:
        """Give back part of what was captured; an Answer about the refund. Raises Unknown."""
        ...

    async def find(self, payment_id: UUID) -> Answer | None:
        """What the gateway has for a payment, by our id; None: it has never heard of it. Raises Unknown."""
        ...

    async def find_refund(self, payment_id: UUID, refund_id: UUID) -> Answer | None:
        """What became of a refund, by our id; None: never heard of. Raises Unknown."""
        ...
