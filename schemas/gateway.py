"""What payment gateways say, in one vocabulary: the answers of their APIs and their webhooks."""

from typing import Annotated, Literal

from pydantic import StringConstraints

GatewayAdapter = Literal["stripe", "generic"]
GatewayState = Literal["pending", "authorised", "captured", "declined", "cancelled", "refunded", "expired"]
GatewayFact = Literal[
    "state", "refund", "dispute_opened", "dispute_won", "dispute_lost", "payout"
]  # what a webhook is about
GatewayReference = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]  # the gateway's own id
