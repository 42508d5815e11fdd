"""What a line of a GL export holds. A change of columns or their text is a new LAYOUT: files of one layout never change.

Detail: two lines per ledger entry, its debit first. Summary: one line per GL account, ledger account and currency.
Amounts are decimal text with as many digits as the currency has (ISO 4217); the side that has none is 0.
"""

from typing import NamedTuple

from schemas.base import EXPONENTS
from schemas.gl import GlForm

LAYOUT = 1

DETAIL = (
    "sequence",
    "side",
    "effective_on",
    "recorded_at",
    "kind",
    "document_id",
    "reverses_document_id",
    "account_id",
    "party_id",
    "ledger_code",
    "gl_code",
    "gl_name",
    "currency",
    "debit",
    "credit",
)
SUMMARY = ("ledger_code", "gl_code", "gl_name", "currency", "entries", "debit", "credit")
COLUMNS: dict[GlForm, tuple[str, ...]] = {"detail": DETAIL, "summary": SUMMARY}

INTEGERS = frozenset({"sequence", "entries"})
AMOUNTS = frozenset({"debit", "credit"})
EXTENSIONS = {"csv": "csv", "jsonl": "jsonl", "parquet": "parquet"}
CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}

# Values in the order of the form's columns; None is an absent value.
Line = tuple[str | int | None, ...]


class GlCodes(NamedTuple):
    """The customer's code and name for a ledger account."""

    gl_code: str
    gl_name: str


def amount_text(amount_minor: int, currency: str) -> str:
    """Minor units (≥ 0) as decimal text: 125000 AED is `1250.00`, 5 JPY is `5`, 5 JOD is `0.005`."""
    digits = EXPONENTS[currency]
    if not digits:
        return str(amount_minor)
    whole, rest = divmod(amount_minor, 10**digits)
    return f"{whole}.{rest:0{digits}}"
