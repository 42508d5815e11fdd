"""Tax by country profile, category, recipient and service date (DOMAIN rule 3).

Sources: UAE Federal Decree-Law 8/2017 on VAT, article 45 (zero-rated preventive and basic healthcare services) and Cabinet
Decision 52/2017, articles 41 and 59(7) (rounding per line to the nearest fils). Afghanistan: Income Tax Law 2009, chapter 8
(business receipts tax) is not charged on the patient's document, so nothing is added by default.
"""

from datetime import date
from typing import NamedTuple

from domain.money import proportion
from schemas.account import PartyKind
from schemas.pricelist import TaxCategory
from schemas.tenant import TenantProfile


class Rate(NamedTuple):
    """In effect from that date until the next entry of the same profile."""

    effective_from: date
    standard_basis_points: int


RATES: dict[str, tuple[Rate, ...]] = {
    "ARE": (Rate(date(2018, 1, 1), 500),),
    "AFG": (),
}


def rate_basis_points(tenant: TenantProfile, category: TaxCategory, recipient: PartyKind, service_date: date) -> int:
    """The rate of one line. A health service is zero-rated for its patient (whoever pays for the patient) and taxed at the
    standard rate between hospitals; a profile that has no rates charges nothing."""
    if category in ("zero", "exempt") or (category == "health_service" and recipient != "hospital"):
        return 0
    if tenant.tax_override_basis_points is not None:
        return tenant.tax_override_basis_points
    in_effect = [rate for rate in RATES.get(tenant.country_profile, ()) if rate.effective_from <= service_date]
    return max(in_effect).standard_basis_points if in_effect else 0


def tax_minor(net_minor: int, basis_points: int) -> int:
    """The tax of one line, rounded half up to the minor unit."""
    return proportion(basis_points, 10_000, net_minor)
