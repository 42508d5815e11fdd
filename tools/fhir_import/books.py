"""What the mappers of the resource types share: accounts, steps under construction, and who was billed for what."""

import re
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from schemas.base import CODE, MAX_LINES, REFERENCE
from schemas.registry import COMMANDS
from tools.fhir_import.amounts import Amount
from tools.fhir_import.bundles import Resource
from tools.fhir_import.parties import THE_PATIENT, clean
from tools.fhir_import.plan import Lane, Share, Step, derived
from tools.fhir_import.references import REPLACED_BY, Index
from tools.fhir_import.remarks import Remark, Severity, Unmapped

# A total's remainder where no item of the resource says what it is for. The terminology service has to know it.
REMAINDER_SYSTEM, REMAINDER_CODE = "urn:hospital:services", "unitemised"
_MAX_PAYERS = 19  # schemas.account.Parties, less the patient
_LOCALES = {"ar": "ar", "fa": "fa-AF", "prs": "fa-AF", "ps": "ps", "pbu": "ps", "pst": "ps"}


@dataclass
class Account:
    """A patient's billing account in one currency, and the payers its bundles name."""

    lane: Lane
    parties: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, parties: list[dict[str, Any]]) -> None:
        """As many as an account takes besides its patient."""
        for party in parties:
            if len(self.parties) < _MAX_PAYERS:
                self.parties.setdefault(party["party_id"], party)

    @property
    def open_key(self) -> str:
        return f"{self.lane.patient}#open/{self.lane.currency}"


@dataclass
class Bill:
    """What became of a Claim or Invoice. `left_minor` is what planned payments leave open."""

    account: Account
    create_key: str
    issue_key: str | None
    left_minor: int
    payers: tuple[str, ...] = ()
    paid_by_benefit: bool = False


@dataclass
class Line:
    """One charge to be: `price_minor` each, in the account's currency."""

    purpose: str
    coding: tuple[str, str]
    description: str | None
    price_minor: int
    day: date
    quantity: str = "1"
    encounter: str | None = None
    performer: str | None = None


class Books:
    """Collects steps and remarks. Steps of a resource are added when all of it could be mapped, or not at all."""

    def __init__(self, tenant_id: str, index: Index) -> None:
        self.tenant_id, self.index = tenant_id, index
        self.remarks: list[Remark] = []
        self.accounts: dict[tuple[str, str], Account] = {}
        self.bills: dict[str, Bill] = {}

    def remark(self, severity: Severity, code: str, resource: Resource, path: str, text: str) -> None:
        self.remarks.append(Remark(severity, code, resource.key, path, text, resource.source))

    def note(self, code: str, resource: Resource, path: str, text: str) -> None:
        self.remark("note", code, resource, path, text)

    def account(self, patient: str, currency: str) -> Account:
        account = self.accounts.get((patient, currency))
        if account is None:
            account_id = derived(self.tenant_id, patient, f"account/{currency}")
            account = self.accounts[patient, currency] = Account(Lane(patient, currency, account_id))
        return account

    def patient(self, holder: Resource, element: str) -> str:
        """The patient a resource is about, or the one whose record replaced it. Raises Unmapped."""
        found = self.index.resolve(holder, holder.data.get(element), element, "Patient")
        if found.key not in self.index.resources:
            raise Unmapped("wrong_reference", element, "a contained patient has no identity of its own to bill")
        return self.index.follow(self.index.resources[found.key], REPLACED_BY)[-1].key

    def optional(self, holder: Resource, reference: Any, path: str) -> str | None:
        """`Type/id` of a reference the import can do without; noted where it leads nowhere."""
        literal = reference.get("reference") if isinstance(reference, dict) else None
        if not isinstance(literal, str):
            return None
        try:
            found = self.index.resolve(holder, reference, path).key
        except Unmapped as reason:
            found = literal
            if not re.fullmatch(REFERENCE, literal):
                self.note(reason.code, holder, path, f"{reason.text}: left out")
        return found if re.fullmatch(REFERENCE, found) else None

    # --- steps --------------------------------------------------------------------------------------------------------

    def charge(self, resource: Resource, account: Account, line: Line) -> Step:
        system, code = line.coding
        body: dict[str, Any] = {
            "charge_id": str(derived(self.tenant_id, resource.key, line.purpose)),
            "account_id": str(account.lane.account_id),
            "code_system": system,
            "code": code,
            "description": clean(line.description or "") or None,
            "quantity": line.quantity,
            "unit_price": {"amount_minor": line.price_minor, "currency": account.lane.currency},
            "service_date": line.day.isoformat(),
            "encounter": line.encounter,
            "performer": line.performer,
        }
        return self._step(resource, line.purpose, "charge.capture", body, (account.open_key,))

    def invoice(
        self, resource: Resource, account: Account, charges: list[Step], day: date, *, issue: bool
    ) -> tuple[Bill, list[Step]]:
        """The steps that bill those charges; they are the caller's to add, with the charges."""
        if len(charges) > MAX_LINES:
            raise Unmapped("too_many_items", "item", f"{len(charges)} lines, and an invoice takes {MAX_LINES}")
        body = {
            "invoice_group_id": str(derived(self.tenant_id, resource.key, "invoice")),
            "account_id": str(account.lane.account_id),
            "charge_ids": [step.body["charge_id"] for step in charges],
            "invoice_date": day.isoformat(),
        }
        needs = (account.open_key, *(step.key for step in charges))
        create = self._step(resource, "invoice", "invoice.create", body, needs)
        steps = [create]
        if issue:
            steps.append(self._step(resource, "issue", "invoice.issue", {}, (create.key,)))
        return Bill(account, create.key, steps[-1].key if issue else None, 0), steps

    def payment(
        self, resource: Resource, bill: Bill, amount: Amount, day: date, party: dict[str, Any] | None, method: str
    ) -> None:
        """Records money against a bill, as far as that is open; what is more stays unapplied credit."""
        lane = bill.account.lane
        if amount.currency != lane.currency:
            raise Unmapped("currency_mismatch", "", f"{amount.currency} for a bill in {lane.currency}")
        if party is not None:
            bill.account.add([party])
            if party["party_id"] not in bill.account.parties:
                self.remark(
                    "unmapped", "too_many_payers", resource, "", "recorded without its payer: the account is full"
                )
                party = None
        body = {
            "payment_id": str(derived(self.tenant_id, resource.key, "payment")),
            "account_id": str(lane.account_id),
            "amount": {"amount_minor": amount.minor, "currency": amount.currency},
            "method": method,
            "received_on": day.isoformat(),
            "reference": resource.id if re.fullmatch(CODE, resource.id) else None,
            "party_id": party["party_id"] if party else None,
        }
        applied = min(amount.minor, bill.left_minor) if bill.issue_key else 0
        shares = (Share(bill.create_key, applied),) if applied else ()
        needs = (bill.account.open_key, *([bill.issue_key] if bill.issue_key else []))
        lane.steps.append(self._step(resource, "payment", "payment.record", body, needs, shares))
        bill.left_minor -= applied
        if applied < amount.minor:
            self.note("exceeds_bill", resource, "", "more than what was open: the rest is unapplied credit")
        if amount.rounded:
            text = f"not a whole number of minor units of {amount.currency}: rounded half up"
            self.note("rounded", resource, "", text)

    def open_accounts(self) -> list[Lane]:
        """The lanes that have work, each beginning with its account. A patient without any has no account opened."""
        for account in self.accounts.values():
            if account.lane.steps:
                account.lane.steps.insert(0, self._open(account))
        return [account.lane for account in self.accounts.values()]

    def _open(self, account: Account) -> Step:
        lane = account.lane
        parties = [THE_PATIENT, *(account.parties[party_id] for party_id in sorted(account.parties))]
        body = {
            "account_id": str(lane.account_id),
            "patient": lane.patient,
            "currency": lane.currency,
            "locale": _locale(self.index.resources[lane.patient].data),
            "parties": parties,
        }
        return self._step(self.index.resources[lane.patient], f"open/{lane.currency}", "account.open", body)

    def _step(
        self,
        resource: Resource,
        purpose: str,
        command: str,
        body: dict[str, Any],
        needs: tuple[str, ...] = (),
        shares: tuple[Share, ...] = (),
    ) -> Step:
        body = {name: value for name, value in body.items() if value is not None}
        if command != "invoice.issue":  # its only field is known when the invoice has been created
            _check(command, body)
        command_id: UUID = derived(self.tenant_id, resource.key, f"{command}/{purpose}")
        return Step(f"{resource.key}#{purpose}", command, command_id, body, resource.key, needs, shares)


def _check(command: str, body: dict[str, Any]) -> None:
    """Against the command's own schema: what the mesh would refuse as malformed is better said with the resource's id."""
    try:
        COMMANDS[command].payload.model_validate_json(orjson.dumps(body))
    except TypeError:  # half a surrogate pair, which is no text
        raise Unmapped("does_not_fit", "", f"{command} does not take it: not Unicode text") from None
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        where = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in faults[:3])
        raise Unmapped("does_not_fit", "", f"{command} does not take it: {where}") from None


def _locale(patient: dict[str, Any]) -> str:
    """The first language of the patient's that statements are written in; English otherwise."""
    for communication in patient.get("communication") or ():
        for coding in (communication.get("language") or {}).get("coding") or ():
            locale = _LOCALES.get(str(coding.get("code", "")).lower().partition("-")[0])
            if locale is not None:
                return locale
    return "en"
