"""ChargeItem, Invoice and PaymentNotice: FHIR's own names for what the mesh keeps."""

from datetime import date
from decimal import Decimal
from typing import Any

from tools.fhir_import.amounts import Amount, billed, business_date, paid
from tools.fhir_import.books import REMAINDER_CODE, REMAINDER_SYSTEM, Account, Books, Line
from tools.fhir_import.bundles import Resource
from tools.fhir_import.coding import coding_of, split, text_of
from tools.fhir_import.plan import Step
from tools.fhir_import.references import PART_OF
from tools.fhir_import.remarks import Unmapped

_BILLED = ("billable", "billed")
_ISSUED = ("issued", "balanced")
_ADDS, _TAKES, _SAYS_ONLY = ("base", "surcharge"), ("deduction", "discount"), ("informational",)


class ChargeItems:
    """The charge items of an import. Those without a price of their own may get it from the invoice line that names them."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._charged: dict[str, tuple[Account, Step, int]] = {}
        self._unpriced: dict[str, tuple[Resource, str]] = {}
        self._invoiced: set[str] = set()

    def map(self, item: Resource) -> None:
        """Adds a charge, or keeps the item until an invoice prices it. Raises Unmapped."""
        if item.data.get("status") not in _BILLED:
            raise Unmapped("not_active", "status", "not to be billed")
        self._books.index.follow(item, PART_OF)
        patient = self._books.patient(item, "subject")
        if item.data.get("priceOverride") is None:
            self._unpriced[item.key] = (item, patient)
            return
        price = billed(item.data["priceOverride"], "priceOverride")
        if price.minor <= 0:
            raise Unmapped("negative_amount" if price.minor < 0 else "nothing_to_bill", "priceOverride", "not positive")
        self._charge(item, patient, price)

    def invoiced(self, key: str, stated: Amount | None, path: str) -> tuple[Account, Step, int]:
        """The charge that an invoice line names, priced by the line where the item has no price. Raises Unmapped."""
        if key in self._invoiced:
            raise Unmapped("charge_already_invoiced", path, f"{key} is on another invoice")
        if key in self._unpriced and stated is not None:
            if stated.minor <= 0:
                raise Unmapped("negative_amount", path, "a line that is not more than nothing")
            item, patient = self._unpriced[key]
            self._charge(item, patient, stated)
            del self._unpriced[key]
        if key not in self._charged:
            raise Unmapped("depends_on_unmapped", path, f"{key} was not imported")
        account, step, net_minor = self._charged[key]
        if stated is not None and stated[:2] != (net_minor, account.lane.currency):
            raise Unmapped("totals_differ", path, f"another price than {key} has")
        return account, step, net_minor

    def take(self, keys: list[str]) -> None:
        self._invoiced.update(keys)

    def end(self) -> None:
        """Remarks on what was never priced."""
        for item, _ in self._unpriced.values():
            text = "no priceOverride, and no invoice that prices it"
            self._books.remark("unmapped", "no_amount", item, "priceOverride", text)

    def _charge(self, item: Resource, patient: str, price: Amount) -> None:
        data, books = item.data, self._books
        account = books.account(patient, price.currency)
        quantity, each = split(Decimal((data.get("quantity") or {}).get("value") or 1), price.minor, price.currency)
        performers = [performer.get("actor") for performer in data.get("performer") or ()]
        line = Line(
            "charge",
            coding_of(data.get("code"), "code"),
            text_of(data.get("code")),
            each,
            _occurrence(data),
            quantity,
            books.optional(item, data.get("context"), "context"),
            books.optional(item, performers[0] if performers else None, "performer[0].actor"),
        )
        step = books.charge(item, account, line)
        account.lane.steps.append(step)
        self._charged[item.key] = (account, step, price.minor)


def map_invoice(books: Books, charge_items: ChargeItems, invoice: Resource) -> None:
    """Adds an invoice from charge items and lines of its own. Raises Unmapped."""
    data = invoice.data
    status = data.get("status")
    if status not in (*_ISSUED, "draft"):
        raise Unmapped("not_active", "status", "not a bill")
    patient = books.patient(invoice, "subject")
    total = _total(data)
    day = business_date(data.get("date"), "date")
    lines = data.get("lineItem") or ()
    prices = [_line_price(line, f"lineItem[{number}].priceComponent") for number, line in enumerate(lines)]
    currency = next((amount.currency for amount in (total, *prices) if amount is not None), None)
    named = [_named_item(books, invoice, number) for number in range(len(prices))]
    if total is not None and status in _ISSUED:
        books.account(patient, total.currency).lane.declared.billed_minor += total.minor
    if len(set(filter(None, named))) != len(list(filter(None, named))):
        raise Unmapped("charge_already_invoiced", "lineItem", "one charge item on two lines")
    used = [
        charge_items.invoiced(key, price, f"lineItem[{number}]") if key else None
        for number, (key, price) in enumerate(zip(named, prices, strict=True))
    ]
    currency = currency or next((each[0].lane.currency for each in used if each), None)
    if currency is None:
        raise Unmapped("no_amount", "totalNet", "neither a total nor a line with a price")
    account = books.account(patient, currency)
    if any(each is not None and each[0] is not account for each in used):
        raise Unmapped("other_patient", "lineItem", "a charge item of another patient or in another currency")
    own = _own_lines(books, invoice, account, prices, named, day)
    sum_minor = sum(each[2] for each in used if each) + sum(net for _, net in own)
    if total is not None and total.minor > sum_minor:
        books.note("remainder", invoice, "totalNet", f"more than its lines: the rest is charged as {REMAINDER_CODE}")
        coding = (REMAINDER_SYSTEM, REMAINDER_CODE)
        rest = Line("charge/beyond", coding, "Beyond the lines", total.minor - sum_minor, day)
        own.append((books.charge(invoice, account, rest), rest.price_minor))
    elif total is not None and total.minor < sum_minor:
        raise Unmapped("items_exceed_total", "totalNet", "the lines are more than the invoice's total")
    charges = [*(each[1] for each in used if each), *(step for step, _ in own)]
    if not charges:
        raise Unmapped("nothing_to_bill", "lineItem", "nothing to bill")
    bill, steps = books.invoice(invoice, account, charges, day, issue=status in _ISSUED)
    bill.left_minor = total.minor if total is not None else sum_minor
    if total is None and status in _ISSUED:
        account.lane.declared.billed_minor += sum_minor
    account.lane.steps += [*(step for step, _ in own), *steps]
    charge_items.take([key for key in named if key])
    books.bills[invoice.key] = bill


def map_notice(books: Books, notice: Resource) -> None:
    """Adds the payment a notice tells of, against the claim or invoice it is about. Raises Unmapped."""
    data = notice.data
    if data.get("status") != "active":
        raise Unmapped("not_active", "status", "only active ones are imported")
    found = books.index.resolve(notice, data.get("request"), "request", "Claim", "Invoice")
    amount = paid(data.get("amount"), "amount")
    if amount.minor <= 0:
        raise Unmapped("negative_amount" if amount.minor < 0 else "nothing_paid", "amount", "not more than nothing")
    bill = books.bills.get(found.key)
    if bill is not None and bill.paid_by_benefit:
        text = f"an explanation of benefit of {found.key} states its payment already: not recorded twice"
        books.note("already_recorded", notice, "request", text)
        return
    if bill is None:
        raise Unmapped("depends_on_unmapped", "request", f"{found.key} was not imported")
    day = business_date(data.get("paymentDate") or data.get("created"), "paymentDate")
    sole = bill.payers[0] if found.type == "Claim" and len(bill.payers) == 1 else None
    party = bill.account.parties.get(sole) if sole else None
    books.payment(notice, bill, amount, day, party, "insurer_remittance" if found.type == "Claim" else "bank")
    bill.account.lane.declared.paid_minor += amount.minor


def _named_item(books: Books, invoice: Resource, number: int) -> str | None:
    """The ChargeItem a line names; None for a line of its own."""
    reference = invoice.data["lineItem"][number].get("chargeItemReference")
    if reference is None:
        return None
    return books.index.resolve(invoice, reference, f"lineItem[{number}].chargeItemReference", "ChargeItem").key


def _own_lines(
    books: Books, invoice: Resource, account: Account, prices: list[Amount | None], named: list[str | None], day: date
) -> list[tuple[Step, int]]:
    lines = []
    for number, price in enumerate(prices):
        if named[number] is not None:
            continue
        path = f"lineItem[{number}]"
        if price is None or price.minor <= 0:
            raise Unmapped("no_amount" if price is None else "negative_amount", path, "a line without a positive price")
        if price.currency != account.lane.currency:
            raise Unmapped("mixed_currencies", path, "lines in different currencies")
        concept = invoice.data["lineItem"][number].get("chargeItemCodeableConcept")
        coding = coding_of(concept, f"{path}.chargeItemCodeableConcept")
        line = Line(f"charge/{number}", coding, text_of(concept), price.minor, day)
        lines.append((books.charge(invoice, account, line), price.minor))
    return lines


def _total(data: dict[str, Any]) -> Amount | None:
    net = billed(data["totalNet"], "totalNet") if data.get("totalNet") is not None else None
    gross = billed(data["totalGross"], "totalGross") if data.get("totalGross") is not None else None
    if net is not None and gross is not None and net != gross:
        raise Unmapped("taxed", "totalGross", "carries tax; the mesh computes tax by the tenant's own rules")
    return net or gross


def _line_price(line: dict[str, Any], path: str) -> Amount | None:
    """What the price components of a line come to; None where it has none."""
    sum_minor, currency = 0, None
    for number, component in enumerate(line.get("priceComponent") or ()):
        kind = component.get("type")
        if kind in _SAYS_ONLY:
            continue
        if kind not in (*_ADDS, *_TAKES):
            raise Unmapped(
                "taxed",
                f"{path}[{number}]",
                "tax, or a type there is not: the mesh computes tax by the tenant's own rules",
            )
        amount = billed(component.get("amount"), f"{path}[{number}].amount")
        if currency not in (None, amount.currency):
            raise Unmapped("mixed_currencies", path, "components in different currencies")
        currency = amount.currency
        sum_minor += amount.minor if kind in _ADDS else -abs(amount.minor)
    return Amount(sum_minor, currency) if currency else None


def _occurrence(data: dict[str, Any]) -> date:
    stated = data.get("occurrenceDateTime") or (data.get("occurrencePeriod") or {}).get("start")
    return business_date(stated or data.get("enteredDate"), "occurrenceDateTime")
