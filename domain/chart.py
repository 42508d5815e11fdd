"""The chart of accounts every tenant starts with (DOMAIN "Chart of accounts"); `ledger.define_account` extends it."""

from typing import NamedTuple

from schemas.ledger import LedgerAccountKind
from schemas.payment import PaymentMethod

CASH, BANK, MOBILE_MONEY, GATEWAY_CLEARING, CHEQUES = "1000", "1010", "1020", "1030", "1040"
RECEIVABLE = "1100"  # a sub-ledger account per billing account and responsible party
UNAPPLIED_CREDIT = "2100"  # a sub-ledger account per billing account
TAX_PAYABLE = "2200"
ADJUSTMENTS, BAD_DEBT, GATEWAY_FEES, ROUNDING = "4900", "5100", "5200", "5900"
SUB_LEDGERS = frozenset({RECEIVABLE, UNAPPLIED_CREDIT})


class TemplateEntry(NamedTuple):
    name: str
    kind: LedgerAccountKind


TEMPLATE: dict[str, TemplateEntry] = {
    CASH: TemplateEntry("Cash", "asset"),
    BANK: TemplateEntry("Bank", "asset"),
    MOBILE_MONEY: TemplateEntry("Mobile money", "asset"),
    GATEWAY_CLEARING: TemplateEntry("Gateway clearing", "asset"),
    CHEQUES: TemplateEntry("Cheques in hand", "asset"),
    RECEIVABLE: TemplateEntry("Accounts receivable", "asset"),
    UNAPPLIED_CREDIT: TemplateEntry("Unapplied credit", "liability"),
    TAX_PAYABLE: TemplateEntry("Tax payable", "liability"),
    "4000": TemplateEntry("Revenue: general services", "revenue"),
    "4100": TemplateEntry("Revenue: consultations", "revenue"),
    "4200": TemplateEntry("Revenue: laboratory and imaging", "revenue"),
    "4300": TemplateEntry("Revenue: pharmacy", "revenue"),
    "4400": TemplateEntry("Revenue: surgery and wards", "revenue"),
    ADJUSTMENTS: TemplateEntry("Adjustments and allowances", "revenue"),
    BAD_DEBT: TemplateEntry("Bad debt", "expense"),
    GATEWAY_FEES: TemplateEntry("Gateway fees", "expense"),
    ROUNDING: TemplateEntry("Rounding", "expense"),
}

METHOD_ACCOUNT: dict[PaymentMethod, str] = {
    "cash": CASH,
    "bank": BANK,
    "mobile_money": MOBILE_MONEY,
    "cheque": CHEQUES,
    "insurer_remittance": BANK,
    "gateway": GATEWAY_CLEARING,
}
