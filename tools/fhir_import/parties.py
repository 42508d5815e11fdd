"""Who pays: insurers and relatives from Claim.insurance, Coverage and ExplanationOfBenefit.insurer.

They are responsible parties with a standing share of nothing: a claim's total is not split in a fixed proportion (in Synthea
the insurer pays four fifths of the items and nothing of the encounter), so the document is the patient's, and what an insurer
remits is allocated to it. The patient owes the rest, which is what the bundles say.
"""

import re
import unicodedata
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from schemas.base import CODE
from tools.fhir_import.bundles import Resource
from tools.fhir_import.references import Found, Index, as_list
from tools.fhir_import.remarks import Unmapped

if TYPE_CHECKING:
    from tools.fhir_import.books import Books

THE_PATIENT: dict[str, Any] = {"party_id": "patient", "kind": "patient", "share_basis_points": 10_000}
# What bundles write where there is no insurer.
_NOBODY = {"no_insurance", "no-insurance", "none", "uninsured", "self-pay", "selfpay"}
_NAME_LENGTH = 200


def parties_of_claim(books: "Books", claim: Resource) -> list[dict[str, Any]]:
    """The payers of a claim besides its patient. One that cannot be resolved is remarked on and left out: the bill is right."""
    parties: list[dict[str, Any]] = []
    for number, insurance in enumerate(claim.data.get("insurance") or ()):
        path = f"insurance[{number}].coverage"
        try:
            parties += _of_coverage(books.index, claim, insurance.get("coverage") or {}, path)
        except Unmapped as reason:
            books.remark("unmapped", reason.code, claim, reason.path, f"{reason.text}: billed without that payer")
    if party := payer_of(books, claim, "insurer"):
        parties.append(party)
    return list({party["party_id"]: party for party in parties}.values())


def payer_of(books: "Books", holder: Resource, element: str) -> dict[str, Any] | None:
    """The party in an element of a resource, None without one; what cannot be resolved is remarked on and goes without."""
    reference = holder.data.get(element)
    if not reference:
        return None
    try:
        return payer(books.index, holder, reference, element)
    except Unmapped as reason:
        books.remark("unmapped", reason.code, holder, reason.path, f"{reason.text}: imported without that payer")
        return None


def payer(index: Index, holder: Resource, reference: dict[str, Any], path: str) -> dict[str, Any] | None:
    """The party a reference names, by what it refers to or by its display; None where that is the patient or nobody."""
    display = reference.get("display")
    try:
        found = index.resolve(holder, reference, path, "Organization", "Patient", "RelatedPerson")
    except Unmapped:
        if not isinstance(display, str):
            raise
        return _by_name(display)
    if found.type == "Patient":
        return None
    if found.type == "RelatedPerson":
        return _party(_party_id("relative", found.key.partition("/")[2]), "relative", None, found)
    name = found.data.get("name")
    return _party(_party_id("org", found.key.partition("/")[2]), "insurer", name, found)


def _of_coverage(index: Index, holder: Resource, reference: dict[str, Any], path: str) -> list[dict[str, Any]]:
    if not reference.get("reference"):
        display = reference.get("display")
        if not isinstance(display, str):
            raise Unmapped("missing_reference", path, "a coverage with neither a reference nor a display")
        party = _by_name(display)
        return [party] if party else []
    found = index.resolve(holder, reference, path, "Coverage")
    # References inside a contained resource are resolved where its container stands.
    of_coverage = index.resources.get(found.key, holder)
    policy = found.data.get("subscriberId")
    parties = []
    for number, payor in enumerate(as_list(found.data.get("payor"))):
        party = payer(index, of_coverage, payor, f"{path} → {found.key}: payor[{number}]")
        if party is not None:
            fits = isinstance(policy, str) and re.fullmatch(CODE, policy)
            parties.append(party | ({"policy_number": policy} if fits else {}))
    return parties


def _by_name(name: str) -> dict[str, Any] | None:
    return None if name.strip().lower() in _NOBODY else _party(_party_id("insurer", name), "insurer", name, None)


def _party(party_id: str, kind: str, name: Any, found: Found | None) -> dict[str, Any]:
    party: dict[str, Any] = {"party_id": party_id, "kind": kind, "share_basis_points": 0}
    cleaned = clean(name) if isinstance(name, str) else ""
    if cleaned:
        party["name"] = cleaned
    if found is not None and "#" not in found.key:
        party["reference"] = found.key
    return party


def clean(text: str) -> str:
    """One line of printable text of at most 200 characters, as the books store names and descriptions."""
    return "".join(" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in text).strip()[:_NAME_LENGTH]


def _party_id(prefix: str, identity: str) -> str:
    """`insurer-private`; a digest in place of what does not fit, so that two names never share an id."""
    candidate = f"{prefix}-{identity}"
    return candidate if re.fullmatch(CODE, candidate) else f"{prefix}-{sha256(identity.encode()).hexdigest()[:24]}"
