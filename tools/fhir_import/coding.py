"""Codes, texts and prices of FHIR items."""

from decimal import Decimal
from typing import Any

from schemas.base import EXPONENTS
from tools.fhir_import.amounts import Amount
from tools.fhir_import.remarks import Unmapped

_QUANTITY_DECIMALS = 3  # schemas.base.Quantity
_QUANTITY_LIMIT = 10**9


def coding_of(concept: Any, path: str) -> tuple[str, str]:
    """(system, code): the first coding that has both. Raises Unmapped: a charge without a code cannot be validated."""
    for coding in (concept or {}).get("coding") or ():
        if coding.get("system") and coding.get("code"):
            return coding["system"], coding["code"]
    raise Unmapped("no_code", path, "no coding with a system and a code")


def text_of(concept: Any) -> str | None:
    """The words that go with a code."""
    concept = concept or {}
    displays = (coding.get("display") for coding in concept.get("coding") or ())
    text = concept.get("text") or next(filter(None, displays), None)
    return text if isinstance(text, str) else None


def price_of(item: dict[str, Any], net: Amount) -> tuple[str, int]:
    """(quantity, unit price in minor units) that multiply to `net` exactly: as the item has them, else one at the net."""
    quantity = (item.get("quantity") or {}).get("value")
    if quantity is None or isinstance(quantity, bool):
        return "1", net.minor
    return split(Decimal(quantity), net.minor, net.currency, item.get("unitPrice"))


def split(quantity: Decimal, net_minor: int, currency: str, unit_price: Any = None) -> tuple[str, int]:
    """`net_minor` as a quantity times a whole unit price, or one at the net where that is not exact."""
    one = ("1", net_minor)
    if not 0 < quantity < _QUANTITY_LIMIT or quantity != round(quantity, _QUANTITY_DECIMALS):
        return one
    value = unit_price.get("value") if isinstance(unit_price, dict) else None
    each = Decimal(net_minor) / quantity if value is None else Decimal(value).scaleb(EXPONENTS[currency])
    if each != int(each) or each < 1 or each * quantity != net_minor:
        return one
    return f"{quantity.normalize():f}", int(each)
