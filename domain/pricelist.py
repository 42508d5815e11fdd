"""Price lists: published versions are immutable; which one applies is decided by the service date."""

from collections.abc import Iterable
from datetime import date

from domain.common import needs_chart, unknown_ledger_code
from domain.decision import Accepted, Capability, Command, Decision, Event, rejected
from domain.entities import PriceItem, PriceList
from domain.lookups import PRICE_LISTS
from domain.snapshot import Needs, Snapshot
from schemas.codes import Code
from schemas.pricelist import PriceListPublished, PriceListResult, PublishPriceList


def price_in_effect(items: Iterable[PriceItem], service_date: date) -> PriceItem | None:
    """Of all published prices of one code, the one in effect on that date: the latest effective date, then version."""
    candidates = [item for item in items if item.effective_from <= service_date]
    return max(candidates, key=lambda item: (item.effective_from, item.version), default=None)


def needs_publish(command: Command[PublishPriceList]) -> Needs:
    codes = (price.revenue_code for price in command.body.prices)
    return [(PRICE_LISTS, command.body.price_list), *needs_chart(codes)]


def decide_publish(snapshot: Snapshot, command: Command[PublishPriceList]) -> Decision:
    body = command.body
    if len({price.code for price in body.prices}) != len(body.prices):
        return rejected(Code.DUPLICATE_REFERENCE, field="prices")
    unknown = unknown_ledger_code(snapshot, {price.revenue_code: None for price in body.prices}, revenue=True)
    if unknown:
        return rejected(Code.LEDGER_ACCOUNT_UNKNOWN, code=unknown)
    versions = [row.version for row in snapshot.find(PRICE_LISTS, body.price_list)]
    published = PriceList(
        id=command.derive("price_list"),
        price_list=body.price_list,
        version=max(versions, default=0) + 1,
        currency=body.currency,
        effective_from=body.effective_from,
        recorded_at=command.recorded_at,
    )
    items = [
        PriceItem(
            price_list_id=published.id,
            code=price.code,
            price_list=published.price_list,
            version=published.version,
            effective_from=published.effective_from,
            currency=published.currency,
            unit_price_minor=price.unit_price_minor,
            tax_category=price.tax_category,
            revenue_code=price.revenue_code,
            description=price.description,
        )
        for price in body.prices
    ]
    result = PriceListResult(price_list_id=published.id, price_list=published.price_list, version=published.version)
    data = PriceListPublished(
        **result.model_dump(), effective_from=published.effective_from, currency=published.currency, prices=len(items)
    )
    event = Event("pricelist.published", str(published.id), data)
    return Accepted(result, (event,), (published, *items))


CAPABILITIES = {"pricelist.publish": Capability(needs_publish, decide_publish)}
