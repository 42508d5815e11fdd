"""What the tenant service says about a tenant; the static dev provider reads the same shape from a file."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.base import BasisPoints, Name, TenantId, WireModel
from schemas.gateway import GatewayProfile

CountryProfile = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]  # ISO 3166-1 alpha-3: AFG, ARE
FiscalCalendar = Literal["gregorian", "solar_hijri"]
Locale = Literal["en", "ar", "fa-AF", "ps"]
# Lines of a letterhead: more than these would push what matters off the first page.
Lines = Annotated[tuple[Name, ...], Field(max_length=8)]
ObjectKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9!_.*'()/=-]{0,899}$")]


class StatementProfile(WireModel):
    """What a tenant's statements carry, per language of the reader; one left out gets English, else any other.

    `names` are the hospital's own name where it differs by language. `logo_object_key` names a PNG or JPEG in the object
    store. `calendar` None: dates are shown in the fiscal calendar.
    """

    names: dict[Locale, Name] = {}  # noqa: RUF012  pydantic copies defaults
    legal_lines: dict[Locale, Lines] = {}  # noqa: RUF012
    payment_instructions: dict[Locale, Lines] = {}  # noqa: RUF012
    logo_object_key: ObjectKey | None = None
    calendar: FiscalCalendar | None = None


class TenantProfile(WireModel):
    """`region` is where the tenant's data must stay; `fiscal_year_start_month` counts in `fiscal_calendar` months."""

    tenant_id: TenantId
    name: Name
    entitled: bool = True
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{2,40}$")]
    cross_region_opt_in: bool = False
    country_profile: CountryProfile
    fiscal_calendar: FiscalCalendar = "gregorian"
    time_zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]+(/[A-Za-z_+0-9-]+)*$")] = "UTC"
    payment_terms_days: Annotated[int, Field(ge=0, le=365)] = 30
    tax_override_basis_points: BasisPoints | None = None
    statement: StatementProfile | None = None
    gateway: GatewayProfile | None = None
