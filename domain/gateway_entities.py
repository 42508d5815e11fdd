"""The rows of payments through a gateway; entities as in domain/entities.py."""

from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from schemas.gateway import CaptureMode, GatewayAdapter
from schemas.hold import CircuitState, DisputeStage, HoldFault, HoldIntent, HoldStatus, RefundStatus

LIVE: frozenset[HoldStatus] = frozenset(
    {"pending", "authorised", "capturing", "cancelling", "unknown"}
)  # money may come in
ENDED: frozenset[HoldStatus] = frozenset({"captured", "declined", "cancelled", "expired"})


class Hold(NamedTuple):
    """A charge through a gateway; once captured, the payment of the same id has its money.

    `requested_minor`: how much of it is to be captured, None while nothing is. `authorised_minor`, `captured_minor`,
    `fee_minor`: what the gateway says it has. `refunded_minor`: what it gave back, as far as that is in the books. `revision`
    counts what was asked of the gateway job.
    """

    id: UUID
    account_id: UUID
    party_id: str | None
    adapter: GatewayAdapter
    status: HoldStatus
    intent: HoldIntent
    revision: int
    currency: str
    amount_minor: int
    capture: CaptureMode
    source: str
    requested_minor: int | None
    authorised_minor: int
    captured_minor: int
    refunded_minor: int
    fee_minor: int
    gateway_currency: str | None
    reference: str | None
    decline_code: str | None
    fault: HoldFault | None
    dispute: DisputeStage | None
    expires_at: datetime
    recorded_at: datetime
    changed_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class HoldAllocation(NamedTuple):
    """An invoice the charge is meant for, in the order given; what is no longer open on it at capture is unapplied credit."""

    payment_id: UUID
    invoice_id: UUID
    position: int
    amount_minor: int

    @property
    def key(self) -> tuple[UUID, UUID]:
        return (self.payment_id, self.invoice_id)


class GatewayRefund(NamedTuple):
    """A refund asked of a gateway. Once it is `done`, the refund of the same id has it in the books."""

    id: UUID
    payment_id: UUID
    status: RefundStatus
    revision: int
    amount_minor: int
    reason: str
    reference: str | None
    decline_code: str | None
    recorded_at: datetime
    changed_at: datetime

    @property
    def key(self) -> UUID:
        return self.id


class Payout(NamedTuple):
    """What a gateway paid out to the bank, by the gateway's own id."""

    adapter: GatewayAdapter
    id: str
    currency: str
    amount_minor: int
    fee_minor: int
    paid_on: date
    recorded_at: datetime

    @property
    def key(self) -> tuple[str, str]:
        return (self.adapter, self.id)


class Circuit(NamedTuple):
    """Whether charges may be sent to the tenant's gateway: not while `open` and before `open_until`."""

    adapter: GatewayAdapter
    state: CircuitState
    open_until: datetime | None
    recorded_at: datetime

    @property
    def key(self) -> str:
        return self.adapter
