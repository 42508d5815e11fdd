"""What the gateway job asks of a payment gateway, whoever answers.

Every request carries a key derived from our ids, so that asking twice moves money once. An answer is either an `Answer`
(the gateway said so), `Refused` (nothing happened, for certain) or the exception `Unknown` (money may have moved).
"""

from datetime import datetime
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
    """What a gateway has for one payment now. Amounts in minor units; `fee_minor` None: not known (yet)."""

    state: GatewayState
    reference: str
    currency: str
    authorised_minor: int
    captured_minor: int = 0
    refunded_minor: int = 0
    fee_minor: int | None = None
    expires_at: datetime | None = None
    decline_code: str | None = None


class Refused(NamedTuple):
    """Certainly not done. `code` is ours (schemas.codes.Code value); `retryable`: the same request may succeed later."""

    code: str
    retryable: bool
    detail: str = ""


class Unknown(Exception):
    """No usable answer after the request may have arrived: the recovery asks with `find` what became of it."""


class Gateway(Protocol):
    """One tenant's gateway. Keys: `<payment_id>` for the charge, `<payment_id>:capture`, `<refund_id>` and so on; one key,
    one effect, for ever (an adapter whose service forgets keys has to look first)."""

    async def charge(self, charge: Charge) -> Answer | Refused:
        """Authorise, and capture if asked to. Raises Unknown."""
        ...

    async def capture(self, payment_id: UUID, reference: str, amount_minor: int) -> Answer | Refused:
        """Take `amount_minor` of what is held; the rest is released. Raises Unknown."""
        ...

    async def cancel(self, payment_id: UUID, reference: str) -> Answer | Refused:
        """Release what is held. Raises Unknown."""
        ...

    async def refund(self, payment_id: UUID, reference: str, refund_id: UUID, amount_minor: int) -> Answer | Refused:
        """Give back part of what was captured. Raises Unknown."""
        ...

    async def find(self, payment_id: UUID) -> Answer | None:
        """What the gateway has for a payment, by our id; None: it has never heard of it. Raises Unknown."""
        ...

    async def find_refund(self, payment_id: UUID, refund_id: UUID) -> Answer | None:
        """What became of a refund, by our id; None: never heard of. Raises Unknown."""
        ...
