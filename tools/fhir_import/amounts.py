"""FHIR Money and dates → minor units and business dates. Amounts come from the JSON text as Decimal or int, never as floats."""

from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from schemas.base import EXPONENTS, MAX_AMOUNT_MINOR
from tools.fhir_import.remarks import Unmapped

# Systems that compute in floats write 125.00000000000001 for 125.00. A millionth of a minor unit is no amount anybody meant,
# and sixteen digits leave residues far below it for any amount the ledger takes.
_RESIDUE_MINOR = Decimal("0.000001")
_FIRST, _LAST = date(1900, 1, 1), date(2199, 12, 31)  # schemas.base.BusinessDate


class Amount(NamedTuple):
    """`rounded` where the value in the bundle was not a whole number of minor units."""

    minor: int
    currency: str
    rounded: bool = False


def billed(money: Any, path: str) -> Amount:
    """An amount that goes on an invoice: whole minor units, or Unmapped. May be 0 or negative."""
    amount, residue = _amount(money, path)
    if abs(residue) > _RESIDUE_MINOR:
        raise Unmapped("amount_not_exact", path, f"not a whole number of minor units of {amount.currency}")
    return amount


def paid(money: Any, path: str) -> Amount:
    """Money received, rounded half up to the minor unit: adjudications are products of rates. May be 0 or negative."""
    return _amount(money, path)[0]


def business_date(text: Any, path: str) -> date:
    """The day of a FHIR date or dateTime as it is written, in its own offset; the first day of a partial one.

    Raises Unmapped where there is none, or it is beyond what the ledger holds.
    """
    if not isinstance(text, str) or not text:
        raise Unmapped("no_date", path, "a date is missing")
    try:
        day = date.fromisoformat(text[:10] + {4: "-01-01", 7: "-01"}.get(len(text), ""))
    except ValueError:
        raise Unmapped("no_date", path, "not a FHIR date") from None
    if not _FIRST <= day <= _LAST:
        raise Unmapped("date_out_of_range", path, f"before {_FIRST} or after {_LAST}")
    return day


def _amount(money: Any, path: str) -> tuple[Amount, Decimal]:
    if not isinstance(money, dict) or money.get("value") is None:
        raise Unmapped("no_amount", path, "an amount is missing")
    currency = money.get("currency")
    if currency is None:
        raise Unmapped("no_currency", f"{path}.currency", "an amount without a currency")
    if currency not in EXPONENTS:
        raise Unmapped("unknown_currency", f"{path}.currency", "not an active ISO 4217 currency code")
    value = money["value"]
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise Unmapped("no_amount", path, "the amount is not a number")
    exact = Decimal(value).scaleb(EXPONENTS[currency])
    if abs(exact) > MAX_AMOUNT_MINOR:
        raise Unmapped("amount_out_of_range", path, f"more than {MAX_AMOUNT_MINOR} minor units")
    minor = int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
    residue = exact - minor
    return Amount(minor, currency, abs(residue) > _RESIDUE_MINOR), residue
