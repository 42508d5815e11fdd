"""Account, ChargeItem, Invoice and PaymentNotice of FHIR R4, from the rows they tell about (docs/decisions/0032).

Every resource is validated with the models of `fhir.resources` before it leaves. R4B's are R4's for these four. Totals are the
ledger's to the minor unit; what R4 has no element for (what is open, paid, credited, refunded) is an extension.
"""

from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ValidationError

from adapters.fhir.ids import reference, resource_id
from domain.entities import Account, Charge, Invoice, InvoiceLine, Payment
from schemas.base import EXPONENTS

Json = dict[str, Any]

EXTENSIONS = "urn:billing:fhir"
SEQUENCE = f"{EXTENSIONS}:event-sequence"
_ACCOUNT_STATUS = {"open": "active", "closed": "inactive"}
_CHARGE_STATUS = {"open": "billable", "invoiced": "billed", "void": "entered-in-error"}
_INVOICE_STATUS = {"draft": "draft", "issued": "issued", "settled": "balanced", "void": "cancelled"}
_PAYMENT_STATUS = "http://terminology.hl7.org/CodeSystem/paymentstatus"


class NotFhir(Exception):
    """A row that cannot be said in FHIR: a bug in the mapping. Names the places, never the values."""


def account(tenant_id: str, sequence: int, row: Account) -> Json:
    """Without guarantor and parties: contact data stays sealed, and a push has no need of it."""
    body = {
        "status": _ACCOUNT_STATUS[row.status],
        "subject": [{"reference": row.patient}],
        "owner": _organization(tenant_id),
    }
    return _resource("Account", tenant_id, sequence, row.id, body)


def charge_item(tenant_id: str, sequence: int, row: Charge, of: Account) -> Json:
    code: Json = {"coding": [{"system": row.code_system, "code": row.code}]}
    if row.description:
        code["text"] = row.description
    body: Json = {
        "status": _CHARGE_STATUS[row.status],
        "code": code,
        "subject": {"reference": of.patient},
        "occurrenceDateTime": row.service_date.isoformat(),
        "enteredDate": row.recorded_at.isoformat(timespec="seconds"),
        "quantity": {"value": float(row.quantity)},
        "priceOverride": money(row.net_minor, row.currency),
        "account": [reference(tenant_id, "Account", row.account_id)],
    }
    if row.encounter:
        body["context"] = {"reference": row.encounter}
    if row.performer:
        body["performer"] = [{"actor": {"reference": row.performer}}]
    return _resource("ChargeItem", tenant_id, sequence, row.id, body)


def invoice(tenant_id: str, sequence: int, row: Invoice, lines: list[InvoiceLine], of: Account) -> Json:
    """`totalNet` and `totalGross` are the document's at issue; payments, credits and write-offs are extensions beside them."""
    body: Json = {
        "status": _INVOICE_STATUS[row.status],
        "subject": {"reference": of.patient},
        "date": row.invoice_date.isoformat(),
        "issuer": _organization(tenant_id),
        "account": reference(tenant_id, "Account", row.account_id),
        "lineItem": [_line(tenant_id, row.currency, line) for line in lines],
        "totalNet": money(row.net_minor, row.currency),
        "totalGross": money(row.total_minor, row.currency),
    }
    if row.party_kind == "patient":
        body["recipient"] = {"reference": of.patient}
    extensions = {
        "open": row.open_minor,
        "paid": row.paid_minor,
        "credited": row.credited_minor,
        "written-off": row.written_off_minor,
    }
    more = [{"system": f"{EXTENSIONS}:{tenant_id}:number", "value": row.number}] if row.number else []
    return _resource("Invoice", tenant_id, sequence, row.id, body, amounts(extensions, row.currency), more)


def payment_notice(tenant_id: str, sequence: int, row: Payment, invoices: list[UUID]) -> Json:
    """`invoices` are those it is allocated to now: R4 has room for one, the account stands for none or several.

    `payment` is a logical reference: what moved the money is in somebody else's books.
    """
    about = reference(tenant_id, *(("Invoice", invoices[0]) if len(invoices) == 1 else ("Account", row.account_id)))
    body = {
        "status": "cancelled" if row.status == "reversed" else "active",
        "created": row.recorded_at.isoformat(timespec="seconds"),
        "request": about,
        "payment": {"identifier": _identifier(tenant_id, "payment", row.id)},
        "paymentDate": row.received_on.isoformat(),
        "payee": _organization(tenant_id),
        "recipient": _organization(tenant_id),
        "amount": money(row.amount_minor, row.currency),
        "paymentStatus": {"coding": [{"system": _PAYMENT_STATUS, "code": "paid"}]},
    }
    extensions = {"unapplied": row.unapplied_minor, "refunded": row.refunded_minor, "allocated": row.allocated_minor}
    return _resource("PaymentNotice", tenant_id, sequence, row.id, body, amounts(extensions, row.currency))


def money(amount_minor: int, currency: str) -> Json:
    """FHIR Money. A float holds every amount the ledger takes exactly to its minor unit: 10^15 have sixteen digits."""
    exponent = EXPONENTS[currency]
    value = float(Decimal(amount_minor).scaleb(-exponent)) if exponent else amount_minor
    return {"value": value, "currency": currency}


def amounts(named: dict[str, int], currency: str) -> list[Json]:
    return [
        {"url": f"{EXTENSIONS}:{name}", "valueMoney": money(minor, currency)} for name, minor in named.items() if minor
    ]


def sequence_of(resource: Json) -> int:
    """The tenant's event sequence whose state a resource shows; 0 for one that we did not write."""
    for extension in resource.get("extension") or ():
        if isinstance(extension, dict) and extension.get("url") == SEQUENCE:
            text = str(extension.get("valueString", ""))
            return int(text) if text.isascii() and text.isdecimal() else 0
    return 0


def _resource(
    kind: str,
    tenant_id: str,
    sequence: int,
    key: UUID,
    body: Json,
    extensions: list[Json] | None = None,
    identifiers: list[Json] | None = None,
) -> Json:
    resource = {
        "resourceType": kind,
        "id": resource_id(tenant_id, kind, key),
        "extension": [{"url": SEQUENCE, "valueString": str(sequence)}, *(extensions or ())],
        "identifier": [_identifier(tenant_id, kind, key), *(identifiers or ())],
        **body,
    }
    try:
        _model(kind).model_validate(resource)
    except ValidationError as error:
        places = sorted({".".join(map(str, each["loc"])) for each in error.errors(include_input=False)})
        raise NotFhir(f"{kind}: {', '.join(places)[:200]}") from None
    return resource


@cache
def _model(kind: str) -> type[BaseModel]:
    from fhir.resources.R4B import get_fhir_model_class  # half a second to import, and only who pushes needs it

    model: type[BaseModel] = get_fhir_model_class(kind)
    return model


def _line(tenant_id: str, currency: str, line: InvoiceLine) -> Json:
    components: list[Json] = [{"type": "base", "amount": money(line.net_minor, currency)}]
    if line.tax_minor:
        tax = {"type": "tax", "factor": line.tax_rate_basis_points / 10_000, "amount": money(line.tax_minor, currency)}
        components.append(tax)
    found: Json = {"sequence": line.line_number, "priceComponent": components}
    if line.charge_id is not None:
        return found | {"chargeItemReference": reference(tenant_id, "ChargeItem", line.charge_id)}
    return found | {"chargeItemCodeableConcept": {"text": line.description}}


def _organization(tenant_id: str) -> Json:
    return {"identifier": {"system": f"{EXTENSIONS}:tenant", "value": tenant_id}}


def _identifier(tenant_id: str, kind: str, key: UUID) -> Json:
    return {"system": f"{EXTENSIONS}:{tenant_id}:{kind.lower()}", "value": str(key)}
