"""Bundles → a plan. Pure: no clock, no I/O, and the same bundles give the same plan whatever their order of files."""

from collections import Counter
from collections.abc import Callable

from tools.fhir_import.books import Books
from tools.fhir_import.bundles import CONSULTED, MAPPED, Loaded, Resource
from tools.fhir_import.claims import map_benefit, map_claim
from tools.fhir_import.native import ChargeItems, map_invoice, map_notice
from tools.fhir_import.plan import STAGES, Plan
from tools.fhir_import.references import Index
from tools.fhir_import.remarks import Remark, Unmapped

# They hold money, and none of it is imported: worth more than a note.
_MONEY_TYPES = ("Account", "ClaimResponse", "Contract", "PaymentReconciliation")


def plan_import(loaded: Loaded, tenant_id: str) -> Plan:
    """The commands that bring the bundles into a tenant's books, and remarks on what stays outside."""
    index = Index(sorted(loaded.resources, key=_in_order))
    books = Books(tenant_id, index)
    charge_items = ChargeItems(books)
    mappers: dict[str, Callable[[Resource], None]] = {
        # In this order: a bill before what pays it.
        "Claim": lambda claim: map_claim(books, claim),
        "ChargeItem": charge_items.map,
        "Invoice": lambda invoice: map_invoice(books, charge_items, invoice),
        "ExplanationOfBenefit": lambda benefit: map_benefit(books, benefit),
        "PaymentNotice": lambda notice: map_notice(books, notice),
    }
    for kind, mapper in mappers.items():
        for resource in index.of_type(kind):
            try:
                mapper(resource)
            except Unmapped as reason:
                books.remark("unmapped", reason.code, resource, reason.path, reason.text)
    charge_items.end()
    lanes = books.open_accounts()
    for lane in lanes:
        lane.steps.sort(key=lambda step: STAGES.index(step.command))  # stable: resources stay in order
    _unused_patients(books, {lane.patient for lane in lanes})
    seen = Counter(resource.type for resource in loaded.resources)
    remarks = [*loaded.remarks, *index.remarks, *books.remarks, *_other_types(seen)]
    return Plan(tenant_id, lanes, remarks, dict(seen), loaded.files)


def _in_order(resource: Resource) -> tuple[str, str, str, str]:
    """By date, so that legal numbers follow a patient's bills; two resources of one id in the same order every time."""
    stated = next(filter(None, map(resource.data.get, ("created", "date", "occurrenceDateTime"))), "")
    return resource.type, str(stated), resource.id, resource.source


def _unused_patients(books: Books, used: set[str]) -> None:
    for patient in books.index.of_type("Patient"):
        if patient.key not in used:
            books.note("nothing_to_bill", patient, "", "nothing in the bundles is billed to this record: no account")


def _other_types(seen: Counter[str]) -> list[Remark]:
    remarks = []
    for kind in sorted(set(seen) - set(MAPPED) - set(CONSULTED)):
        holds_money = kind in _MONEY_TYPES
        text = f"{seen[kind]} of type {kind[:64]}: " + ("not imported" if holds_money else "no billing data")
        remarks.append(Remark("unmapped" if holds_money else "note", "type_not_imported", "", "", text, ""))
    return remarks
