"""What payment gateways say, in one vocabulary: the answers of their APIs and their webhooks; and a tenant's gateway."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from schemas.base import Currency, WireModel

GatewayAdapter = Literal["stripe", "generic"]
GatewayState = Literal["pending", "authorised", "captured", "declined", "cancelled", "refunded", "expired"]
GatewayFact = Literal[
    "state", "refund", "dispute_opened", "dispute_won", "dispute_lost", "payout"
]  # what a webhook is about
GatewayReference = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]  # the gateway's own id
# Why a gateway says no, in its own words: `insufficient_funds`, `card_expired`, `rate_limited`.
DeclineCode = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")]
CaptureMode = Literal["automatic", "manual"]

# Digits of a card number (ISO/IEC 7812-1), written with or without separators.
_SEPARATORS = re.compile(r"[ -]")
_CARD_DIGITS = re.compile(r"[0-9]{13,19}")
_SOURCE = re.compile(rb'("source"\s*:\s*")([0-9][0-9 -]{11,40}[0-9])"')
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # a digit doubled, its digits summed


def looks_like_card_number(text: str) -> bool:
    """13 to 19 digits whose check digit is right (Luhn). One in ten of all such numbers is no card's; tokens hardly ever are."""
    digits = _SEPARATORS.sub("", text)
    if not _CARD_DIGITS.fullmatch(digits):
        return False
    total = sum(int(digit) if place % 2 == 0 else _DOUBLED[int(digit)] for place, digit in enumerate(reversed(digits)))
    return total % 10 == 0


def without_card_numbers(body: bytes) -> bytes:
    """A body that is kept for people to look at: of a card number given as `source` only the last four digits stay."""
    return _SOURCE.sub(_masked, body)


def _masked(found: re.Match[bytes]) -> bytes:
    name, value = found[1], found[2].decode()
    if not looks_like_card_number(value):
        return found[0]
    return name + b"*" * (len(value) - 4) + value[-4:].encode() + b'"'


def _token(value: Any) -> Any:
    if isinstance(value, str) and looks_like_card_number(value):
        raise ValueError("a gateway's token is wanted; card numbers are not taken")
    return value


# The gateway's token for a card or wallet. Not a card number: nothing here may ever hold one (PCI DSS 3.5).
GatewaySource = Annotated[
    str, BeforeValidator(_token, json_schema_input_type=str), StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")
]


class GatewayProfile(WireModel):
    """A tenant's payment gateway. Its key is a secret of its own, never here.

    `url` None: the adapter's service itself. `account`: the merchant there. `currencies` empty: whatever the account's is.
    `capture`: of charges that do not say. What is held longer than `hold_hours` is released.
    """

    adapter: GatewayAdapter
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s\x00-\x1f]{1,200}$")] | None = None
    account: GatewayReference | None = None
    currencies: Annotated[tuple[Currency, ...], Field(max_length=50)] = ()
    capture: CaptureMode = "automatic"
    hold_hours: Annotated[int, Field(ge=1, le=720)] = 168
