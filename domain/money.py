"""Arithmetic on integer minor units. Never a float (DOMAIN rule 1)."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

INT64_MAX = 2**63 - 1


def round_half_up(value: Decimal) -> int:
    """To the nearest whole minor unit, halves away from zero."""
    return int(value.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def extend(quantity: Decimal, unit_price_minor: int) -> int:
    """Quantity times unit price in minor units. Exact before rounding: 12 digits × 16 digits is within Decimal's 28."""
    return round_half_up(quantity * unit_price_minor)


def share_out(total_minor: int, weights: Sequence[int]) -> list[int]:
    """Splits a total by weights with the largest-remainder method: the parts sum to the total exactly, whatever its sign.

    Equal remainders go to the earlier weight. Raises ValueError where no weight is positive or one is negative.
    """
    weight_sum = sum(weights)
    if weight_sum <= 0 or min(weights) < 0:
        raise ValueError("shares need weights that are not negative and sum to more than zero")
    sign, magnitude = (-1, -total_minor) if total_minor < 0 else (1, total_minor)
    parts = [magnitude * weight // weight_sum for weight in weights]
    remainders = [magnitude * weight % weight_sum for weight in weights]
    missing = magnitude - sum(parts)
    for position in sorted(range(len(weights)), key=lambda index: (-remainders[index], index))[:missing]:
        parts[position] += 1
    return [sign * part for part in parts]


def proportion(part_minor: int, whole_minor: int, of_minor: int) -> int:
    """`of_minor` × part ÷ whole, rounded half up; 0 where whole is 0. All arguments are 0 or more."""
    if whole_minor == 0:
        return 0
    return (2 * of_minor * part_minor + whole_minor) // (2 * whole_minor)
