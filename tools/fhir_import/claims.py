"""Claim → charges and an issued invoice; ExplanationOfBenefit → the insurer's remittance, allocated to that invoice."""

from typing import Any

from tools.fhir_import.amounts import Amount, billed, business_date, paid
from tools.fhir_import.books import REMAINDER_CODE, REMAINDER_SYSTEM, Books, Line
from tools.fhir_import.bundles import Resource
from tools.fhir_import.coding import coding_of, price_of, text_of
from tools.fhir_import.parties import parties_of_claim, payer_of
from tools.fhir_import.references import RELATED_CLAIM
from tools.fhir_import.remarks import Unmapped


def map_claim(books: Books, claim: Resource) -> None:
    """Adds the steps of a claim. Raises Unmapped, and then has added none."""
    data = claim.data
    _refuse_what_is_no_bill(data)
    patient = books.patient(claim, "patient")
    items = _items(data)
    total = _total(data, items)
    account = books.account(patient, total.currency)
    account.lane.declared.billed_minor += total.minor
    _related(books, claim)
    if total.minor <= 0:
        raise Unmapped("nothing_to_bill" if total.minor == 0 else "negative_amount", "total", "not more than nothing")
    parties = parties_of_claim(books, claim)
    lines = _lines(books, claim, items, total)
    charges = [books.charge(claim, account, line) for line in lines]
    day = business_date(data.get("created"), "created")
    bill, steps = books.invoice(claim, account, charges, day, issue=True)
    bill.left_minor, bill.payers = total.minor, tuple(party["party_id"] for party in parties)
    account.add(parties)
    account.lane.steps += [*charges, *steps]
    books.bills[claim.key] = bill


def map_benefit(books: Books, benefit: Resource) -> None:
    """Adds the payment that an explanation of benefit states. Raises Unmapped."""
    data = benefit.data
    _refuse_what_is_no_bill(data)
    patient = books.patient(benefit, "patient")
    stated = (data.get("payment") or {}).get("amount")
    if stated is None:
        books.note("nothing_paid", benefit, "payment.amount", "states no payment: nothing to record")
        return
    amount = paid(stated, "payment.amount")
    if amount.minor < 0:
        raise Unmapped("negative_amount", "payment.amount", "money taken back is not imported")
    books.account(patient, amount.currency).lane.declared.paid_minor += amount.minor
    found = books.index.resolve(benefit, data.get("claim"), "claim", "Claim")
    bill = books.bills.get(found.key)
    if bill is None:
        raise Unmapped("depends_on_unmapped", "claim", f"{found.key} was not imported")
    if bill.account.lane.patient != patient:
        raise Unmapped("other_patient", "patient", f"{found.key} is of another patient")
    _compare_totals(books, benefit, found.data)
    if amount.minor == 0:
        books.note("nothing_paid", benefit, "payment.amount", "the insurer paid nothing: nothing to record")
        return
    day = business_date(data["payment"].get("date") or data.get("created"), "payment.date")
    books.payment(benefit, bill, amount, day, payer_of(books, benefit, "insurer"), "insurer_remittance")
    bill.paid_by_benefit = True


def _refuse_what_is_no_bill(data: dict[str, Any]) -> None:
    if data.get("status") != "active":
        raise Unmapped("not_active", "status", "only active ones are imported")
    if data.get("use", "claim") != "claim":
        raise Unmapped("not_a_claim", "use", "asks what would be paid: nothing was billed")


def _items(data: dict[str, Any]) -> list[tuple[dict[str, Any], Amount | None]]:
    """Each item with its net amount; None where it has none."""
    items = []
    for number, item in enumerate(data.get("item") or ()):
        path = f"item[{number}].net"
        net = billed(item["net"], path) if item.get("net") is not None else None
        if net is not None and net.minor < 0:
            raise Unmapped("negative_amount", path, "an invoice has no negative lines; a credit note is not a claim")
        items.append((item, net))
    return items


def _total(data: dict[str, Any], items: list[tuple[dict[str, Any], Amount | None]]) -> Amount:
    """The claim's own total, or the sum of its items where it states none."""
    nets = [net for _, net in items if net is not None]
    if data.get("total") is not None:
        total = billed(data["total"], "total")
    elif nets and len(nets) == len(items):
        total = Amount(sum(net.minor for net in nets), nets[0].currency)
    else:
        raise Unmapped("no_amount", "total", "no total, and not every item has a net amount")
    if any(net.currency != total.currency for net in nets):
        raise Unmapped("mixed_currencies", "item.net.currency", "items and total are in different currencies")
    return total


def _lines(
    books: Books, claim: Resource, items: list[tuple[dict[str, Any], Amount | None]], total: Amount
) -> list[Line]:
    """A line per item with an amount, and one for what the total has beyond them."""
    data = claim.data
    performer = books.optional(claim, data.get("provider"), "provider")
    lines = []
    for number, (item, net) in enumerate(items):
        if net is None or net.minor == 0:
            continue
        line = _line(books, claim, item, number, performer)
        line.quantity, line.price_minor = price_of(item, net)
        lines.append(line)
    beyond = total.minor - sum(net.minor for _, net in items if net is not None)
    if beyond < 0:
        raise Unmapped("items_exceed_total", "total", "the items are more than the claim's total")
    if beyond:
        lines.append(_remainder(books, claim, items, beyond, performer))
    # The remainder's charge stands for one item, or for none where it has a code of its own.
    stand_ins = int(beyond > 0 and lines[-1].coding != (REMAINDER_SYSTEM, REMAINDER_CODE))
    without = len(items) - (len(lines) - (beyond > 0)) - stand_ins
    if without:
        books.note(
            "item_without_amount", claim, "item", f"{without} items without an amount have no charge of their own"
        )
    return lines


def _remainder(
    books: Books, claim: Resource, items: list[tuple[dict[str, Any], Amount | None]], beyond: int, performer: str | None
) -> Line:
    """The charge for what no item has an amount for. It carries the code of the first item without one, the encounter's if
    there is one: in Synthea's claims that is what the money is for."""
    unpriced = [(number, item) for number, (item, net) in enumerate(items) if net is None and _has_code(item)]
    unpriced.sort(key=lambda each: (not each[1].get("encounter"), each[0]))
    if not unpriced:
        books.note("remainder", claim, "total", f"more than the items: the rest is charged as {REMAINDER_CODE}")
        day = _service_day(claim.data, {})
        coding = (REMAINDER_SYSTEM, REMAINDER_CODE)
        return Line("charge/beyond", coding, "Beyond the items", beyond, day, performer=performer)
    number, item = unpriced[0]
    line = _line(books, claim, item, number, performer)
    line.purpose, line.price_minor = "charge/beyond", beyond
    return line


def _line(books: Books, claim: Resource, item: dict[str, Any], number: int, performer: str | None) -> Line:
    path = f"item[{number}]"
    concept = item.get("productOrService")
    encounters = item.get("encounter") or [None]
    encounter = books.optional(claim, encounters[0], f"{path}.encounter[0]")
    coding = coding_of(concept, f"{path}.productOrService")
    day = _service_day(claim.data, item)
    return Line(f"charge/{number}", coding, text_of(concept), 0, day, encounter=encounter, performer=performer)


def _has_code(item: dict[str, Any]) -> bool:
    try:
        coding_of(item.get("productOrService"), "")
    except Unmapped:
        return False
    return True


def _service_day(claim: dict[str, Any], item: dict[str, Any]) -> Any:
    served = item.get("servicedDate") or (item.get("servicedPeriod") or {}).get("start")
    return business_date(
        served or (claim.get("billablePeriod") or {}).get("start") or claim.get("created"), "billablePeriod.start"
    )


def _related(books: Books, claim: Resource) -> None:
    """Refuses circles of related claims; a claim that only names another is billed, and noted: one may replace the other."""
    if not claim.data.get("related"):
        return
    try:
        books.index.follow(claim, RELATED_CLAIM)
    except Unmapped as reason:
        if reason.code == "circular_reference":
            raise
    books.note("related_claim", claim, "related", "names a related claim: both are billed if both are in the bundles")


def _compare_totals(books: Books, benefit: Resource, claim: dict[str, Any]) -> None:
    """Notes where the insurer saw another total submitted than the claim has."""
    for total in benefit.data.get("total") or ():
        codings = (total.get("category") or {}).get("coding") or ()
        if not any(coding.get("code") == "submitted" for coding in codings) or claim.get("total") is None:
            continue
        if total.get("amount") != claim["total"]:
            books.note("totals_differ", benefit, "total", "states another submitted total than the claim")
