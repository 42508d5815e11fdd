"""FHIR bundles → a plan: what is mapped how, what is refused how, and that nothing is lost without a remark."""

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.registry import COMMANDS
from tools.fhir_import.bundles import Loaded, find_files, load_files, read_bundle
from tools.fhir_import.mapping import plan_import
from tools.fhir_import.plan import Plan, Step
from tools.stack.paths import PROJECT_ROOT

DEMO = PROJECT_ROOT / "tools" / "demo" / "bundles" / "clinic.json"
Data = dict[str, Any]


def resources() -> dict[str, Data]:
    """The demo's bundle by `Type/id`, to be changed at will."""
    entries = json.loads(DEMO.read_text())["entry"]
    return {f"{each['resource']['resourceType']}/{each['resource']['id']}": each["resource"] for each in entries}


def bundle(*data: Data) -> bytes:
    """The demo's urn:uuid references keep working: its patients are written with their fullUrls."""
    urls = {e["resource"]["id"]: e["fullUrl"] for e in json.loads(DEMO.read_text())["entry"] if "fullUrl" in e}
    entries = [{"resource": each} | ({"fullUrl": urls[each["id"]]} if each.get("id") in urls else {}) for each in data]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


def plan_of(*contents: bytes, tenant: str = "kabul") -> Plan:
    loaded = Loaded([], [], 0)
    for number, content in enumerate(contents):
        read = read_bundle(content, f"file-{number}.json", number)
        loaded = Loaded(
            [*loaded.resources, *read.resources], [*loaded.remarks, *read.remarks], loaded.files + read.files
        )
    return plan_import(loaded, tenant)


def changed(key: str, **fields: Any) -> Plan:
    """The plan of the demo's bundle with some fields of one resource replaced; None takes one away."""
    data = resources()
    data[key] = {name: value for name, value in (data[key] | fields).items() if value is not None}
    return plan_of(bundle(*data.values()))


def steps_of(plan: Plan, resource: str, command: str = "") -> list[Step]:
    return [step for step in plan.steps if step.resource == resource and step.command.startswith(command)]


def said(plan: Plan, resource: str) -> dict[str, str]:
    """Codes and paths of what was said against a resource."""
    return {remark.code: remark.path for remark in plan.unmapped if remark.resource == resource}


# --- what becomes of what


def test_a_claim_becomes_charges_that_sum_to_its_total_and_one_invoice() -> None:
    plan = plan_of(DEMO.read_bytes())
    assert plan.remarks == []
    blood, rest = steps_of(plan, "Claim/claim-1", "charge")
    assert (blood.body["code_system"], blood.body["code"]) == ("http://loinc.org", "58410-2")
    assert (blood.body["quantity"], blood.body["unit_price"]) == ("2", {"amount_minor": 4025, "currency": "AED"})
    # What the total has beyond its items is the encounter's, whose item has no amount.
    assert (rest.body["code"], rest.body["unit_price"]["amount_minor"]) == ("185349003", 23050 - 8050)
    assert rest.body["encounter"] == "Encounter/visit-1"
    assert rest.body["performer"] == "Organization/clinic"
    assert {step.body["service_date"] for step in (blood, rest)} == {"2026-03-02"}
    (create,) = steps_of(plan, "Claim/claim-1", "invoice.create")
    assert create.body["charge_ids"] == [blood.body["charge_id"], rest.body["charge_id"]]
    assert set(create.needs) >= {blood.key, rest.key}


def test_the_insurer_is_a_responsible_party_and_its_remittance_settles_the_claim_s_invoice() -> None:
    plan = plan_of(DEMO.read_bytes())
    (account,) = steps_of(plan, "Patient/demo-7001", "account.open")
    patient, insurer = account.body["parties"]
    assert (patient["kind"], patient["share_basis_points"]) == ("patient", 10_000)
    assert (insurer["kind"], insurer["reference"]) == ("insurer", "Organization/gulf-care")
    assert insurer["policy_number"] == "GC-558120"
    assert (account.body["currency"], account.body["locale"]) == ("AED", "fa-AF")
    (payment,) = steps_of(plan, "ExplanationOfBenefit/benefit-1")
    assert payment.body["method"] == "insurer_remittance"
    assert payment.body["party_id"] == insurer["party_id"]
    assert (payment.body["amount"]["amount_minor"], payment.body["received_on"]) == (16440, "2026-03-25")
    assert payment.shares == (("Claim/claim-1#invoice", 16440),)


def test_charge_items_invoices_and_notices_keep_their_own_numbers() -> None:
    plan = plan_of(DEMO.read_bytes())
    (item,) = steps_of(plan, "ChargeItem/item-1")
    assert (item.body["quantity"], item.body["unit_price"]["amount_minor"]) == ("3", 9000)
    (own,) = steps_of(plan, "Invoice/invoice-1", "charge")
    assert own.body["unit_price"]["amount_minor"] == 12000 - 2000
    (create,) = steps_of(plan, "Invoice/invoice-1", "invoice.create")
    assert create.body["charge_ids"] == [item.body["charge_id"], own.body["charge_id"]]
    (notice,) = steps_of(plan, "PaymentNotice/notice-1")
    assert (notice.body["amount"]["amount_minor"], notice.body["method"]) == (15000, "bank")
    assert notice.shares == (("Invoice/invoice-1#invoice", 15000),)


def test_every_body_is_what_the_mesh_takes_and_follows_what_it_needs() -> None:
    plan = plan_of(DEMO.read_bytes())
    seen: set[str] = set()
    for lane in plan.lanes:
        for step in lane.steps:
            assert seen >= set(step.needs), step.key
            seen.add(step.key)
            if step.command != "invoice.issue":
                COMMANDS[step.command].payload.model_validate_json(json.dumps(step.body))
    assert len(seen) == len(plan.steps)


def test_ids_depend_on_the_tenant_and_the_resource_alone() -> None:
    data = list(resources().values())
    plans = [plan_of(bundle(*data)), plan_of(bundle(*reversed(data))), plan_of(bundle(*data[:5]), bundle(*data[5:]))]
    by_id = [{step.command_id: step.body for step in plan.steps} for plan in plans]
    assert by_id[0] == by_id[1] == by_id[2]
    assert len(by_id[0]) == len(plans[0].steps)
    other = plan_of(bundle(*data), tenant="herat")
    assert not by_id[0].keys() & {step.command_id for step in other.steps}


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("265.52", "USD", 26552),
        ("1", "USD", 100),
        ("90071992547409.93", "USD", 9007199254740993),  # one more than a float can tell from its neighbour
        ("1.005", "JOD", 1005),
        ("500", "JPY", 500),
        ("230.50000000000003", "AED", 23050),  # what float arithmetic leaves behind
    ],
)
def test_amounts_are_read_from_the_text_and_never_become_floats(text: str, currency: str, minor: int) -> None:
    data = resources()
    claim = data["Claim/claim-1"] | {"item": data["Claim/claim-1"]["item"][:1]}
    claim["total"] = {"value": "TEXT", "currency": currency}
    content = bundle(data["Patient/demo-7001"], data["Coverage/cover-7001"], data["Organization/gulf-care"], claim)
    plan = plan_of(content.replace(b'"TEXT"', text.encode()))
    charges = steps_of(plan, "Claim/claim-1", "charge")
    if minor > 10**15:
        assert said(plan, "Claim/claim-1") == {"amount_out_of_range": "total"}
    else:
        assert [step.body["unit_price"]["amount_minor"] for step in charges] == [minor]


def test_an_adjudicated_payment_is_rounded_half_up_and_noted() -> None:
    data = resources()
    data["ExplanationOfBenefit/benefit-1"]["payment"]["amount"]["value"] = "TEXT"
    plan = plan_of(bundle(*data.values()).replace(b'"TEXT"', b"112.41500000000001"))
    (payment,) = steps_of(plan, "ExplanationOfBenefit/benefit-1")
    assert payment.body["amount"]["amount_minor"] == 11242
    assert [remark.code for remark in plan.remarks] == ["rounded"]


def test_what_a_payment_has_beyond_the_bill_stays_credit() -> None:
    plan = changed("PaymentNotice/notice-1", amount={"value": 400, "currency": "AED"})
    (notice,) = steps_of(plan, "PaymentNotice/notice-1")
    assert notice.body["amount"]["amount_minor"] == 40000
    assert notice.shares[0].amount_minor == 37000
    assert [remark.code for remark in plan.remarks] == ["exceeds_bill"]


# --- what is refused, and how it is said

CLAIM, BENEFIT, ITEM = "Claim/claim-1", "ExplanationOfBenefit/benefit-1", "ChargeItem/item-1"
INVOICE, NOTICE = "Invoice/invoice-1", "PaymentNotice/notice-1"
AED = {"currency": "AED"}
NOBODY = {"reference": "Patient/nobody"}

REFUSED: dict[str, tuple[str, Data, dict[str, str]]] = {
    "negative total": (CLAIM, {"total": {"value": -1, **AED}, "item": []}, {"negative_amount": "total"}),
    "zero total": (CLAIM, {"total": {"value": 0, **AED}, "item": []}, {"nothing_to_bill": "total"}),
    "no total": (CLAIM, {"total": None}, {"no_amount": "total"}),
    "no value": (CLAIM, {"total": AED}, {"no_amount": "total"}),
    "no currency": (CLAIM, {"total": {"value": 1}}, {"no_currency": "total.currency"}),
    "unknown currency": (CLAIM, {"total": {"value": 1, "currency": "XQZ"}}, {"unknown_currency": "total.currency"}),
    "half a fils": (CLAIM, {"total": {"value": 1.005, **AED}}, {"amount_not_exact": "total"}),
    "items beyond the total": (CLAIM, {"total": {"value": 80, **AED}}, {"items_exceed_total": "total"}),
    "two currencies": (CLAIM, {"total": {"value": 230, "currency": "USD"}}, {"mixed_currencies": "item.net.currency"}),
    "cancelled": (CLAIM, {"status": "cancelled"}, {"not_active": "status"}),
    "preauthorization": (CLAIM, {"use": "preauthorization"}, {"not_a_claim": "use"}),
    "patient missing": (CLAIM, {"patient": NOBODY}, {"missing_reference": "patient"}),
    "patient is no patient": (CLAIM, {"patient": {"reference": "Organization/clinic"}}, {"wrong_reference": "patient"}),
    "date missing": (CLAIM, {"created": None}, {"no_date": "created"}),
    "date of nobody's time": (CLAIM, {"created": "1492-10-12"}, {"date_out_of_range": "created"}),
    "clawback": (BENEFIT, {"payment": {"amount": {"value": -5, **AED}}}, {"negative_amount": "payment.amount"}),
    "benefit of a claim elsewhere": (BENEFIT, {"claim": {"reference": "Claim/x"}}, {"missing_reference": "claim"}),
    "benefit of another's claim": (
        BENEFIT,
        {"patient": {"reference": "Patient/demo-7002"}},
        {"other_patient": "patient"},
    ),
    "benefit in other money": (
        BENEFIT,
        {"payment": {"amount": {"value": 5, "currency": "USD"}}},
        {"currency_mismatch": ""},
    ),
    "item without price": (ITEM, {"priceOverride": None}, {"no_amount": "priceOverride"}),
    "item without code": (ITEM, {"code": {"text": "words"}}, {"no_code": "code"}),
    "item aborted": (ITEM, {"status": "aborted"}, {"not_active": "status"}),
    "tax on the invoice": (INVOICE, {"totalGross": {"value": 388.5, **AED}}, {"taxed": "totalGross"}),
    "invoice cancelled": (INVOICE, {"status": "cancelled"}, {"not_active": "status"}),
    "invoice of another": (INVOICE, {"subject": {"reference": "Patient/demo-7001"}}, {"other_patient": "lineItem"}),
    "notice about nothing": (NOTICE, {"request": None}, {"missing_reference": "request"}),
    "notice of nothing": (NOTICE, {"amount": {"value": 0, **AED}}, {"nothing_paid": "amount"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_mapped_is_named_with_its_place_and_has_no_command(case: str) -> None:
    key, fields, expected = REFUSED[case]
    plan = changed(key, **fields)
    assert said(plan, key) == expected
    assert steps_of(plan, key) == []
    # Those that depend on it are said too, the others are imported.
    dependents = {CLAIM: {BENEFIT}, ITEM: {INVOICE, NOTICE}, INVOICE: {NOTICE}}.get(key, set())
    assert {remark.resource for remark in plan.unmapped} == {key} | dependents
    assert all(steps_of(plan, other) for other in {CLAIM, BENEFIT, ITEM, INVOICE, NOTICE} - {key} - dependents)


def test_a_payer_that_is_missing_is_said_and_the_claim_is_billed() -> None:
    data = resources()
    del data["Coverage/cover-7001"], data["Organization/gulf-care"]
    plan = plan_of(bundle(*data.values()))
    assert said(plan, CLAIM) == {"missing_reference": "insurance[0].coverage"}
    assert said(plan, BENEFIT) == {"missing_reference": "insurer"}
    (payment,) = steps_of(plan, BENEFIT)
    assert "party_id" not in payment.body


def test_circular_references_are_named_and_cost_only_what_hangs_on_them() -> None:
    data = resources()
    one, two = data["Patient/demo-7001"], {**data["Patient/demo-7002"], "id": "merged"}
    one["link"] = [{"type": "replaced-by", "other": {"reference": "Patient/merged"}}]
    two["link"] = [{"type": "replaced-by", "other": {"reference": "Patient/demo-7001"}}]
    data[ITEM]["partOf"] = [{"reference": ITEM}]
    plan = plan_of(bundle(*data.values(), two))
    assert said(plan, CLAIM) == {"circular_reference": "link.other"}
    assert said(plan, ITEM) == {"circular_reference": "partOf"}
    (remark,) = (remark for remark in plan.unmapped if remark.resource == CLAIM)
    assert "Patient/demo-7001 → Patient/merged → Patient/demo-7001" in remark.text
    assert plan.steps == []


def test_claims_related_in_a_circle_are_refused_and_others_noted() -> None:
    assert said(changed(CLAIM, related=[{"claim": {"reference": CLAIM}}]), CLAIM) == {
        "circular_reference": "related.claim"
    }
    plan = changed(CLAIM, related=[{"claim": {"reference": "Claim/elsewhere"}}])
    assert [remark.code for remark in plan.remarks] == ["related_claim"]


def test_a_merged_patient_s_bills_go_to_the_record_that_replaced_it() -> None:
    link = [{"type": "replaced-by", "other": {"reference": "Patient/demo-7002"}}]
    plan = changed("Patient/demo-7001", link=link)
    assert {step.resource for step in plan.steps if step.command == "account.open"} == {"Patient/demo-7002"}
    assert len(plan.lanes) == 1


def test_a_reference_into_contained_resources_is_followed() -> None:
    data = resources()
    data[BENEFIT]["contained"] = [{"resourceType": "Organization", "id": "payer", "name": "Contained Care"}]
    data[BENEFIT]["insurer"] = {"reference": "#payer"}
    plan = plan_of(bundle(*data.values()))
    (account,) = steps_of(plan, "Patient/demo-7001")
    named = {party.get("name"): party for party in account.body["parties"]}
    (payment,) = steps_of(plan, BENEFIT)
    assert payment.body["party_id"] == named["Contained Care"]["party_id"]
    assert "reference" not in named["Contained Care"]


def test_ids_twice_across_bundles() -> None:
    same, other = resources(), resources()
    once = plan_of(bundle(*same.values()))
    again = plan_of(bundle(*same.values()), bundle(*other.values()))
    assert [step.command_id for step in again.steps] == [step.command_id for step in once.steps]
    assert {remark.code for remark in again.remarks} == {"repeated"}
    other[CLAIM]["total"] = {"value": 999, **AED}
    conflict = plan_of(bundle(*same.values()), bundle(other[CLAIM]))
    assert said(conflict, CLAIM) == {"conflicting_duplicate": ""}
    assert set(said(conflict, BENEFIT)) == {"conflicting_duplicate"}
    assert not steps_of(conflict, CLAIM)
    assert steps_of(conflict, INVOICE)


def test_a_benefit_s_payment_is_not_recorded_twice_by_a_notice() -> None:
    plan = changed(NOTICE, request={"reference": CLAIM})
    assert steps_of(plan, NOTICE) == []
    assert "already_recorded" in {remark.code for remark in plan.remarks}


# --- files that are not what they say


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (DEMO.read_bytes()[: DEMO.stat().st_size // 2], ("not JSON", "line", "truncated")),
        (b"", ("not JSON", "line 1, column 1")),
        (b"\xff\xfe\x00", ("not UTF-8",)),
        (b"[1, 2]", ("not FHIR",)),
        (b'"text"', ("not FHIR",)),
        (b'{"hello": "world"}', ("not FHIR", "resourceType")),
        (b'{"resourceType": "Patient", "id": "p"}', ("Patient", "not a Bundle")),
        (b'{"resourceType": "Bundle", "entry": {}}', ("entry",)),
        (b'{"resourceType": "Bundle", "total": NaN}', ("NaN",)),
        (b"[" * 200_000, ("deep",)),
    ],
)
def test_a_file_that_is_no_bundle_is_named_with_the_reason(
    content: bytes, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    (tmp_path / "good.json").write_bytes(DEMO.read_bytes())
    plan = plan_import(load_files(find_files([tmp_path])), "kabul")
    (remark,) = plan.unmapped
    assert remark.source == str(tmp_path / "bad.json")
    assert all(word in remark.text for word in words), remark.text
    assert len(plan.steps) == len(plan_of(DEMO.read_bytes()).steps)
    assert plan.files == 1


def test_entries_that_are_no_resources_cost_only_themselves() -> None:
    content = json.loads(DEMO.read_text())
    claim = copy.deepcopy(resources()[CLAIM]) | {"id": "crooked", "total": "a lot"}
    junk = [None, {}, {"resource": {"id": "x"}}, {"resource": {"resourceType": "Claim"}}, {"resource": claim}]
    content["entry"] += junk
    plan = plan_of(json.dumps(content).encode())
    assert Counter(remark.code for remark in plan.unmapped) == {"not_a_resource": 3, "no_id": 1, "not_fhir": 1}
    assert "total" in next(remark.text for remark in plan.unmapped if remark.code == "not_fhir")
    assert len(plan.steps) == len(plan_of(DEMO.read_bytes()).steps)


def test_types_that_are_not_imported_are_counted_and_those_with_money_are_said() -> None:
    extra: list[Data] = [{"resourceType": "Observation", "id": f"o{number}"} for number in range(3)]
    extra.append({"resourceType": "ClaimResponse", "id": "r"})
    plan = plan_of(bundle(*resources().values(), *extra))
    assert {(remark.severity, remark.text.split(":")[0]) for remark in plan.remarks} == {
        ("note", "3 of type Observation"),
        ("unmapped", "1 of type ClaimResponse"),
    }


# --- whatever comes


JUNK: list[Any] = [
    None,
    [],
    {},
    "",
    "x",
    0,
    -1,
    True,
    1e300,
    [None],
    [{}],
    {"reference": "#"},
    {"value": 1},
    "\ud800",
    "{}",
    "[]",
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


def test_no_damage_to_a_bundle_raises_and_none_is_passed_over_in_silence() -> None:
    """Every place of the demo's bundle, each replaced by two kinds of junk (the same in every run)."""
    original = json.loads(DEMO.read_text())
    whole = len(plan_of(DEMO.read_bytes()).steps)
    chance = random.Random(7)
    for path in list(_places(original["entry"])):
        data = copy.deepcopy(original)
        holder = data["entry"]
        for key in path[:-1]:
            holder = holder[key]
        for junk in chance.sample(JUNK, 2):
            holder[path[-1]] = junk
            plan = plan_of(json.dumps(data).encode())
            assert len(plan.steps) >= whole or plan.remarks, (path, junk)


def test_remarks_hold_no_names() -> None:
    data = resources()
    data["Patient/demo-7001"]["gender"] = 7
    data["Patient/demo-7001"]["Invented"] = {"Maryam": 1}
    data[CLAIM]["patient"]["display"] = "Maryam Invented"
    plan = plan_of(bundle(*data.values()))
    assert plan.unmapped
    assert not any(name in json.dumps(remark) for remark in plan.remarks for name in ("Maryam", "Invented"))
