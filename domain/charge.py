"""Charges: captured as care is given, invoiced later, or voided."""

from typing import NamedTuple

from domain.common import needs_chart, unknown_ledger_code
from domain.decision import Accepted, Capability, Command, Decision, Event, Rejected, rejected
from domain.entities import Account, Charge
from domain.lookups import ACCOUNT, CHARGE, PRICES
from domain.money import extend
from domain.pricelist import price_in_effect
from domain.snapshot import Needs, Snapshot
from schemas.base import MAX_AMOUNT_MINOR
from schemas.charge import CaptureCharge, ChargeEvent, ChargeResult, VoidCharge
from schemas.codes import Code
from schemas.pricelist import TaxCategory


class _Priced(NamedTuple):
    unit_price_minor: int
    currency: str
    tax_category: TaxCategory
    revenue_code: str
    description: str | None


def needs_capture(command: Command[CaptureCharge]) -> Needs:
    body = command.body
    needs = [(ACCOUNT, body.account_id), *needs_chart([body.revenue_code])]
    if body.charge_id:
        needs.append((CHARGE, body.charge_id))
    if body.price_list:
        needs.append((PRICES, (body.price_list, body.code)))
    return needs


def decide_capture(snapshot: Snapshot, command: Command[CaptureCharge]) -> Decision:
    body = command.body
    account = snapshot.get(Account, body.account_id)
    if account is None:
        return rejected(Code.ACCOUNT_NOT_FOUND, account_id=str(body.account_id))
    if body.charge_id and snapshot.get(Charge, body.charge_id):
        return rejected(Code.ALREADY_EXISTS, charge_id=str(body.charge_id))
    priced = _price(snapshot, command)
    if isinstance(priced, Rejected):
        return priced
    if account.status == "closed":
        return rejected(Code.ACCOUNT_CLOSED, account_id=str(account.id))
    if priced.currency != account.currency:
        return rejected(Code.CURRENCY_MISMATCH, expected=account.currency, given=priced.currency)
    net_minor = extend(body.quantity, priced.unit_price_minor)
    if net_minor > MAX_AMOUNT_MINOR:
        return rejected(Code.AMOUNT_OUT_OF_RANGE, limit_minor=MAX_AMOUNT_MINOR)
    charge = Charge(
        id=body.charge_id or command.derive("charge"),
        account_id=account.id,
        code_system=body.code_system,
        code=body.code,
        description=body.description or priced.description,
        quantity=body.quantity,
        unit_price_minor=priced.unit_price_minor,
        net_minor=net_minor,
        currency=priced.currency,
        tax_category=priced.tax_category,
        revenue_code=priced.revenue_code,
        service_date=body.service_date or command.today,
        encounter=body.encounter,
        performer=body.performer,
        status="open",
        invoice_group_id=None,
        recorded_at=command.recorded_at,
    )
    return _accepted("charge.captured", charge)


def _price(snapshot: Snapshot, command: Command[CaptureCharge]) -> _Priced | Rejected:
    body = command.body
    if body.unit_price is not None:
        if unknown := unknown_ledger_code(snapshot, [body.revenue_code], revenue=True):
            return rejected(Code.LEDGER_ACCOUNT_UNKNOWN, code=unknown)
        return _Priced(
            body.unit_price.amount_minor, body.unit_price.currency, body.tax_category, body.revenue_code, None
        )
    service_date = body.service_date or command.today
    item = price_in_effect(snapshot.find(PRICES, (body.price_list, body.code)), service_date)
    if item is None:
        return rejected(
            Code.PRICE_NOT_FOUND, price_list=body.price_list, code=body.code, service_date=service_date.isoformat()
        )
    return _Priced(item.unit_price_minor, item.currency, item.tax_category, item.revenue_code, item.description)


def needs_void(command: Command[VoidCharge]) -> Needs:
    return [(CHARGE, command.body.charge_id)]


def decide_void(snapshot: Snapshot, command: Command[VoidCharge]) -> Decision:
    charge = snapshot.get(Charge, command.body.charge_id)
    if charge is None:
        return rejected(Code.CHARGE_NOT_FOUND, charge_id=str(command.body.charge_id))
    if charge.status != "open":
        return rejected(Code.CHARGE_NOT_OPEN, charge_id=str(charge.id), status=charge.status)
    return _accepted("charge.voided", charge._replace(status="void"))


def _accepted(event: str, charge: Charge) -> Accepted:
    data = ChargeEvent(
        charge_id=charge.id,
        account_id=charge.account_id,
        code_system=charge.code_system,
        code=charge.code,
        quantity=charge.quantity,
        unit_price_minor=charge.unit_price_minor,
        net_minor=charge.net_minor,
        currency=charge.currency,
        service_date=charge.service_date,
        status=charge.status,
        encounter=charge.encounter,
        performer=charge.performer,
    )
    result = ChargeResult(
        charge_id=charge.id, status=charge.status, net_minor=charge.net_minor, currency=charge.currency
    )
    return Accepted(result, (Event(event, str(charge.id), data),), (charge,))


CAPABILITIES = {
    "charge.capture": Capability(needs_capture, decide_capture),
    "charge.void": Capability(needs_void, decide_void),
}
