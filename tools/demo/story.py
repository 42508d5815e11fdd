"""The day of each hospital. Amounts are minor units: 50000 is AFN 500.00."""

import uuid
from typing import Any

from schemas.tenant import TenantProfile
from tools.demo.hospital import Hospital

BURST_PAYMENTS = 300  # a counter that was offline sends its morning at once


def tenants(region: str) -> list[TenantProfile]:
    return [
        TenantProfile(
            tenant_id="kabul-central",
            name="Kabul Central Hospital",
            region=region,
            country_profile="AFG",
            fiscal_calendar="solar_hijri",
            time_zone="Asia/Kabul",
        ),
        TenantProfile(
            tenant_id="dubai-marina",
            name="Dubai Marina Clinic",
            region=region,
            country_profile="ARE",
            cross_region_opt_in=True,  # a deployment of another country: residency refuses it otherwise
            time_zone="Asia/Dubai",
        ),
        TenantProfile(
            tenant_id="herat-clinic", name="Herat Clinic", region=region, country_profile="AFG", time_zone="Asia/Kabul"
        ),
    ]


CURRENCIES = {"kabul-central": "AFN", "dubai-marina": "AED", "herat-clinic": "AFN"}


def _party(party_id: str, kind: str, share: int) -> dict[str, Any]:
    return {"party_id": party_id, "kind": kind, "share_basis_points": share}


def _price(code: str, unit_price_minor: int, revenue_code: str, tax_category: str = "health_service") -> dict[str, Any]:
    return {
        "code": code,
        "unit_price_minor": unit_price_minor,
        "revenue_code": revenue_code,
        "tax_category": tax_category,
    }


async def kabul(hospital: Hospital) -> None:
    """A sponsor pays most for one family; a cheque bounces; a debt is written off; a charity's grant arrives."""
    prices = [
        _price("consultation", 50_000, "4100"),
        _price("blood-count", 30_000, "4200"),
        _price("x-ray", 80_000, "4200"),
        _price("ward-night", 250_000, "4400"),
    ]
    await hospital.send(
        "pricelist.publish",
        {"price_list": "general", "currency": "AFN", "effective_from": "2026-03-21", "prices": prices},
    )
    await _sponsored_family(hospital)
    await _bounced_cheque(hospital)
    await _written_off(hospital)
    await _mistakes(hospital)


async def _sponsored_family(hospital: Hospital) -> None:
    parties = [_party("red-crescent", "sponsor", 7_000), _party("father", "relative", 3_000)]
    account = await hospital.open_account("ahmad-1001", parties, "fa-AF")
    charges = [await hospital.charge(account, code) for code in ("consultation", "blood-count", "x-ray")]
    documents = {document["party_id"]: document for document in await hospital.bill(account, charges)}
    sponsor, father = documents["red-crescent"], documents["father"]
    await hospital.pay(
        account, sponsor["open_minor"], "bank", sponsor, party_id="red-crescent", reference="RC-2026-118"
    )
    await hospital.pay(account, 20_000, "mobile_money", father, party_id="father")  # the rest next month


async def _bounced_cheque(hospital: Hospital) -> None:
    account = await hospital.open_account("fatima-1002", locale="ps")
    nights = await hospital.charge(account, "ward-night", "2")
    [document] = await hospital.bill(account, [nights])
    cheque = await hospital.pay(account, document["open_minor"], "cheque", document, reference="AZIZI-88231")
    await hospital.send("payment.reverse", {"payment_id": cheque, "reason": "returned unpaid by the bank"})
    await hospital.pay(account, document["total_minor"], "cash", {**document, "open_minor": document["total_minor"]})
    await hospital.send("account.close", {"account_id": account})


async def _written_off(hospital: Hospital) -> None:
    account = await hospital.open_account("gul-1003", locale="fa-AF")
    visit = await hospital.charge(account, "consultation")
    [document] = await hospital.bill(account, [visit])
    await hospital.pay(account, 10_000, "cash", document)
    reason = "family without means, social fund decision 41"
    await hospital.send("invoice.write_off", {"invoice_id": document["invoice_id"], "reason": reason})


async def _mistakes(hospital: Hospital) -> None:
    """What goes wrong at a counter every day; each has one clear answer and changes nothing."""
    account = await hospital.open_account("zahra-1004")
    visit = await hospital.charge(account, "consultation")
    [document] = await hospital.bill(account, [visit])
    twice = str(uuid.uuid4())
    for expect in ("applied", "duplicate"):
        await hospital.pay(account, 15_000, "cash", document, command_id=twice, expect=expect, via="nats")
    await hospital.pay(account, 16_000, "cash", document, command_id=twice, expect="idempotency_key_reused", via="nats")
    too_much = {"invoice_id": document["invoice_id"], "amount_minor": 999_999}
    body = {"account_id": account, "amount": hospital.money(999_999), "method": "cash", "allocations": [too_much]}
    await hospital.send("payment.record", body, expect="allocation_exceeds_open_amount")
    dollars = {"account_id": account, "amount": {"amount_minor": 5_000, "currency": "USD"}, "method": "cash"}
    await hospital.send("payment.record", dollars, expect="currency_mismatch")
    await hospital.send("account.close", {"account_id": account}, expect="account_has_balance")
    unknown = {
        "account_id": account,
        "code_system": "urn:not:ours",
        "code": "x",
        "quantity": "1",
        "price_list": "general",
    }
    await hospital.send("charge.capture", unknown, expect="charge_code_unknown")
    await hospital.nats.raw("payment.record", b'{"account_id": "not closed', str(uuid.uuid4()))
    await hospital.nats.raw("payment.record", b'{"amount": 12.5, "patient_name": "x"}', str(uuid.uuid4()))


async def dubai(hospital: Hospital) -> None:
    """VAT by recipient; insurer and patient share; an over-payment, a credit note on a paid invoice, refunds, a closed month."""
    prices = [
        _price("consultation", 35_000, "4100"),
        _price("mri", 180_000, "4200"),
        _price("botox", 120_037, "4000", "standard"),
        _price("night-guard", 9_950, "4300", "standard"),
    ]
    await hospital.send(
        "pricelist.publish",
        {"price_list": "general", "currency": "AED", "effective_from": "2026-01-01", "prices": prices},
    )
    await _insured(hospital)
    await _cosmetic(hospital)
    await _supplied_hospital(hospital)
    await hospital.send("period.close", {"period": "2026-01"})
    late = {"debit_code": "1010", "credit_code": "4900", "amount": hospital.money(100), "effective_on": "2026-01-15"}
    await hospital.send("ledger.adjust", late | {"reason": "bank interest found late"}, expect="period_closed")
    await hospital.send("ledger.adjust", late | {"reason": "bank interest", "effective_on": "2026-02-01"})


async def _insured(hospital: Hospital) -> None:
    parties = [_party("daman", "insurer", 8_000), _party("patient", "patient", 2_000)]
    account = await hospital.open_account("omar-2001", parties, "ar")
    charges = [await hospital.charge(account, "consultation"), await hospital.charge(account, "mri")]
    documents = {document["party_id"]: document for document in await hospital.bill(account, charges)}
    insurer, patient = documents["daman"], documents["patient"]
    await hospital.pay(account, insurer["open_minor"], "insurer_remittance", insurer, party_id="daman")
    overpaid = await hospital.pay(account, patient["open_minor"] + 7_000, "cash", patient, party_id="patient")
    refund = {"payment_id": overpaid, "amount_minor": 7_000, "reason": "paid too much"}
    refunded = await hospital.send("payment.refund", refund)
    again = {"payment_id": refunded.result["refund_id"], "amount_minor": 100, "reason": "refund of a refund"}
    await hospital.send("payment.refund", again, expect="refund_not_refundable")


async def _cosmetic(hospital: Hospital) -> None:
    """Standard-rated, settled in cash with rounding, then partly credited: the money becomes the patient's credit again."""
    account = await hospital.open_account("layla-2002", locale="en")
    charges = [await hospital.charge(account, "botox"), await hospital.charge(account, "night-guard", "3")]
    [document] = await hospital.bill(account, charges)
    due = document["open_minor"]
    rounding = due % 25
    payment = await hospital.pay(account, due - rounding, "cash", document, cash_rounding_minor=rounding)
    credit = {
        "invoice_id": document["invoice_id"],
        "lines": [{"line_number": 2, "net_minor": 9_950}],
        "reason": "one guard returned",
    }
    noted = await hospital.send("credit_note.issue", credit)
    released = noted.result["released_minor"]
    await hospital.send("payment.refund", {"payment_id": payment, "amount_minor": released, "reason": "returned goods"})
    over = {
        "invoice_id": document["invoice_id"],
        "lines": [{"line_number": 2, "net_minor": 30_000}],
        "reason": "too much",
    }
    await hospital.send("credit_note.issue", over, expect="credit_exceeds_invoice")


async def _supplied_hospital(hospital: Hospital) -> None:
    """The same service, taxed because the recipient is a hospital."""
    account = await hospital.open_account("referral-2003", [_party("jebel-ali", "hospital", 10_000)])
    scan = await hospital.charge(account, "mri")
    [document] = await hospital.bill(account, [scan])
    await hospital.pay(account, document["open_minor"], "bank", document, reference="SWIFT-7741")


async def herat(hospital: Hospital) -> None:
    """A small clinic whose line was down: the morning's payments arrive at once, then a void and an un-allocation."""
    prices = [_price("consultation", 30_000, "4100"), _price("delivery", 400_000, "4400")]
    await hospital.send(
        "pricelist.publish",
        {"price_list": "general", "currency": "AFN", "effective_from": "2026-01-01", "prices": prices},
    )
    account = await hospital.open_account("maryam-3001", locale="fa-AF")
    birth = await hospital.charge(account, "delivery")
    [document] = await hospital.bill(account, [birth])
    await hospital.burst(
        "payment.record",
        [{"account_id": account, "amount": hospital.money(1_000), "method": "cash"} for _ in range(BURST_PAYMENTS)],
    )
    instalment = await hospital.pay(account, 50_000, "mobile_money", document)
    undo = {"payment_id": instalment, "invoice_id": document["invoice_id"], "reason": "meant for the second child"}
    await hospital.send("payment.unallocate", undo)
    wrong = await hospital.charge(account, "consultation")
    [mistake] = await hospital.bill(account, [wrong])
    await hospital.send("invoice.void", {"invoice_id": mistake["invoice_id"], "reason": "wrong patient"})
    await hospital.send("charge.void", {"charge_id": wrong, "reason": "wrong patient"})
    ghost = {"account_id": str(uuid.uuid4()), "amount": hospital.money(100), "method": "cash"}
    await hospital.send("payment.record", ghost, expect="account_not_found")


STORIES = {"kabul-central": kabul, "dubai-marina": dubai, "herat-clinic": herat}
