"""The base of every message body, and the bounded scalar types they are made of.

Bodies are strict JSON: unknown fields and wrong types are refused, nothing is coerced. Text excludes control characters
(U+0000 cannot be stored in PostgreSQL at all) but keeps ZWNJ and the other joiners that Dari and Pashto names need.
"""

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema

# Largest amount of one command: 10^15 minor units (ten trillion dirhams). An int64 balance holds 9,223 such postings, so
# no realistic ledger account overflows, and every sum inside one command (at most 1,000 lines) stays within int64 too.
MAX_AMOUNT_MINOR = 10**15
MAX_LINES = 500  # of one invoice or credit note: bounds a batch's statement size (500 lines × 500 commands)
MAX_PRICES = 2_000  # of one published price list version: 2,000 × ~150 bytes stays under the 1 MiB message limit
MAX_PAGE = 200  # rows of one query page: an answer of 200 rows × ~1.5 kB stays well under the 1 MiB message limit

CODE = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$"
REFERENCE = r"^[A-Za-z]{1,32}/[A-Za-z0-9.-]{1,64}$"  # a FHIR literal reference: Patient/123 (FHIR R4 §2.3, id type)
URI = r"^[a-z][a-z0-9+.-]*:[^\s\x00-\x1f]{1,200}$"

# C1 controls, and the embeddings, overrides and isolates that would let a name rearrange the line it is printed on (UTR 36 §2.6);
# the plain marks (LRM, RLM) and the joiners stay allowed.
_REARRANGING = r"\x7f-\x9f\u202a-\u202e\u2066-\u2069"
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=rf"^[^\x00-\x1f{_REARRANGING}]+$")]
Note = Annotated[
    str, StringConstraints(min_length=1, max_length=1000, pattern=rf"^[^\x00-\x08\x0b-\x1f{_REARRANGING}]+$")
]
Code = Annotated[str, StringConstraints(pattern=CODE)]
CodeSystem = Annotated[str, StringConstraints(pattern=URI)]
FhirReference = Annotated[str, StringConstraints(pattern=REFERENCE)]
LedgerCode = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{3}$")]
PeriodKey = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
TenantId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
AmountMinor = Annotated[int, Field(ge=1, le=MAX_AMOUNT_MINOR)]
NonNegativeMinor = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]
SignedMinor = Annotated[int, Field(ge=-MAX_AMOUNT_MINOR, le=MAX_AMOUNT_MINOR)]
# Both calendars, a period before and one after, and PostgreSQL hold these; a year 9999 on the wire is a typing error.
BusinessDate = Annotated[date, Field(ge=date(1900, 1, 1), le=date(2199, 12, 31))]
BasisPoints = Annotated[int, Field(ge=0, le=10_000)]

_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")


def _decimal(value: Any) -> Any:
    """Quantities are strings or whole numbers: a JSON float has already lost what was meant."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    raise ValueError('a quantity is a decimal string such as "1.5" or a whole number, at most 3 decimals')


def _canonical(quantity: Decimal) -> str:
    """Without trailing zeros: "2", whether a command said 2.0 a moment ago or the database has had 2.000 for a year."""
    return f"{quantity.normalize():f}"


# Written out: pydantic would put the decimal's bounds, which JSON Schema has no words for on a string, on both forms.
_QUANTITY_TEXT = {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,3})?$", "not": {"pattern": r"^0+(\.0+)?$"}}
_QUANTITY_NUMBER = {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10**9}
Quantity = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(gt=0, lt=Decimal(10**9)),
    PlainSerializer(_canonical, return_type=str),
    WithJsonSchema({"anyOf": [_QUANTITY_TEXT, _QUANTITY_NUMBER]}, mode="validation"),
    WithJsonSchema(_QUANTITY_TEXT, mode="serialization"),
]


class WireModel(BaseModel):
    """A message body or a part of one: strict, closed, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Money(WireModel):
    """An amount in minor units of an ISO 4217 currency: `{"amount_minor": 125000, "currency": "AED"}` is AED 1,250.00."""

    amount_minor: AmountMinor
    currency: "Currency"


class CommandBody(WireModel):
    """The body of a command. The subject's tenant is the authority; a body may repeat it, never contradict it."""

    tenant_id: "TenantId | None" = None


class Cursor(WireModel):
    """Keyset pagination: pass `next_cursor` of one page as `cursor` of the next."""

    cursor: Annotated[str, StringConstraints(max_length=200)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50


class QueryBody(WireModel):
    """The body of a query. `at_least` is a `position` of an outcome: the answer reflects that commit or says it cannot."""

    tenant_id: "TenantId | None" = None
    at_least: Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}$")] | None = None


def _currency(value: Any) -> Any:
    if isinstance(value, str) and value not in EXPONENTS:
        raise ValueError("not an active ISO 4217 currency code")
    return value


Currency = Annotated[
    str, BeforeValidator(_currency, json_schema_input_type=str), StringConstraints(min_length=3, max_length=3)
]

# ISO 4217 active currencies by number of minor-unit digits (amendment 176); funds codes and metals are left out.
_BY_EXPONENT = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP "
        "CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES "
        "KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK "
        "NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB "
        "TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW ZWG"
    ),
}
EXPONENTS: dict[str, int] = {code: digits for digits, codes in _BY_EXPONENT.items() for code in codes.split()}

for _model in (Money, CommandBody, QueryBody):
    _model.model_rebuild()

__all__ = [
    "EXPONENTS",
    "MAX_AMOUNT_MINOR",
    "MAX_LINES",
    "MAX_PAGE",
    "MAX_PRICES",
    "UUID",
    "AmountMinor",
    "BasisPoints",
    "BusinessDate",
    "Code",
    "CodeSystem",
    "CommandBody",
    "Currency",
    "Cursor",
    "FhirReference",
    "LedgerCode",
    "Money",
    "Name",
    "NonNegativeMinor",
    "Note",
    "PeriodKey",
    "Quantity",
    "QueryBody",
    "SignedMinor",
    "TenantId",
    "WireModel",
]
