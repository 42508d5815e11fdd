"""A naive billing system to compare the real one with: plain dictionaries, one command at a time, written from DOMAIN.

It imports nothing of the domain. A command is judged by collecting every reason against it; those of the lowest stage are
the codes it may be refused with. Amounts are minor units. All dates lie in 2026, Gregorian.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from schemas.codes import Code
from tests.domain.model_invoices import Invoices
from tests.domain.model_state import TODAY, Effect, Judgement, Reason, Row, half_up, missing, month


class Model(Invoices):
    def judge(self, name: str, body: Mapping[str, Any], command: Any) -> Judgement:
        reasons, effect = getattr(self, name.replace(".", "_"))(body, command)
        lowest = min((reason.code.meaning.stage for reason in reasons), default=None)
        return Judgement([reason for reason in reasons if reason.code.meaning.stage == lowest], effect)

    # --- accounts and charges -----------------------------------------------------------------------------------------

    def account_open(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        parties, account_id = body["parties"], body["account_id"]
        reasons = [Reason(Code.ALREADY_EXISTS)] if account_id in self.accounts else []
        if len({one["party_id"] for one in parties}) < len(parties):
            reasons.append(Reason(Code.DUPLICATE_REFERENCE))
        if sum(one["share_basis_points"] for one in parties) != 10_000:
            reasons.append(Reason(Code.PARTY_SHARES_INVALID))

        def effect() -> Row:
            self.accounts[account_id] = {"parties": parties, "closed": False}
            return {"account_id": str(account_id), "status": "open"}

        return reasons, effect

    def account_update(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        reasons = self._account(body["account_id"])
        if body["reopen"]:
            reasons = [reason for reason in reasons if reason.code != Code.ACCOUNT_CLOSED]

        def effect() -> Row:
            self.accounts[body["account_id"]]["closed"] = False
            return {"status": "open"}

        return reasons, effect

    def account_close(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        account_id = body["account_id"]
        reasons = self._account(account_id)
        charges = self._of_account(self.charges, account_id)
        invoices = self._of_account(self.invoices, account_id)
        if any(self.charges[one]["status"] == "open" for one in charges) or any(
            self.status(one) == "draft" for one in invoices
        ):
            reasons.append(Reason(Code.ACCOUNT_HAS_OPEN_CHARGES))
        payments = self._of_account(self.payments, account_id)
        if any(self.unapplied(one) for one in payments) or any(self.status(one) == "issued" for one in invoices):
            reasons.append(Reason(Code.ACCOUNT_HAS_BALANCE))

        def effect() -> Row:
            self.accounts[account_id]["closed"] = True
            return {"status": "closed"}

        return reasons, effect

    def charge_capture(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        reasons = self._account(body["account_id"])
        if body["charge_id"] in self.charges:
            reasons.append(Reason(Code.ALREADY_EXISTS))
        if body["unit_price"]["currency"] != "AED":
            reasons.append(Reason(Code.CURRENCY_MISMATCH))
        net = half_up(Decimal(body["quantity"]) * body["unit_price"]["amount_minor"])

        def effect() -> Row:
            self.charges[body["charge_id"]] = {
                "account": body["account_id"],
                "net": net,
                "category": body["tax_category"],
                "status": "open",
                "group": None,
            }
            return {"net_minor": net, "status": "open"}

        return reasons, effect

    def charge_void(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        charge = self.charges.get(body["charge_id"])
        if charge is None:
            return [missing(Code.CHARGE_NOT_FOUND)], dict
        reasons = [Reason(Code.CHARGE_NOT_OPEN)] if charge["status"] != "open" else []

        def effect() -> Row:
            charge["status"] = "void"
            return {"status": "void"}

        return reasons, effect

    # --- periods ------------------------------------------------------------------------------------------------------

    def period_close(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        key = body["period"]
        reasons = self._period(key)
        if any(self.status(one) == "draft" and month(row["date"]) == key for one, row in self.invoices.items()):
            reasons.append(Reason(Code.PERIOD_HAS_DRAFTS))

        def effect() -> Row:
            self.closed_months.add(key)
            self.known_months.add(key)
            return {"status": "closed"}

        return reasons, effect

    def period_reopen(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        key = body["period"]
        if key not in self.known_months:
            return [Reason(Code.PERIOD_NOT_FOUND)], dict
        reasons = [] if key in self.closed_months else [Reason(Code.PERIOD_NOT_CLOSED)]

        def effect() -> Row:
            self.closed_months.discard(key)
            return {"status": "open"}

        return reasons, effect

    # --- payments -----------------------------------------------------------------------------------------------------

    def _parts(self, body: Row, account_id: UUID | None, available: int) -> list[Reason]:
        """Reasons against allocating; the account is None where it is not known, `available` what there is to allocate."""
        parts = body.get("allocations") or ()
        reasons = []
        if len({one["invoice_id"] for one in parts}) < len(parts):
            reasons.append(Reason(Code.DUPLICATE_REFERENCE))
        for one in parts:
            invoice_id = one["invoice_id"]
            if invoice_id not in self.invoices:
                reasons.append(missing(Code.INVOICE_NOT_FOUND))
                continue
            if account_id is not None and self.invoices[invoice_id]["account"] != account_id:
                reasons.append(Reason(Code.INVOICE_OF_OTHER_ACCOUNT))
            reasons += self._not_open(invoice_id, "issued")
            if one["amount_minor"] > self.left(invoice_id):
                reasons.append(Reason(Code.ALLOCATION_EXCEEDS_OPEN_AMOUNT))
        if sum(one["amount_minor"] for one in parts) > available:
            reasons.append(Reason(Code.ALLOCATION_EXCEEDS_PAYMENT))
        return reasons

    def _allocate(self, payment_id: UUID, body: Row) -> None:
        allocated = self.payments[payment_id]["allocated"]
        for one in body.get("allocations") or ():
            allocated[one["invoice_id"]] = allocated.get(one["invoice_id"], 0) + one["amount_minor"]

    def payment_record(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        account_id, payment_id = body["account_id"], body["payment_id"]
        value = body["amount"]["amount_minor"] + body["cash_rounding_minor"]
        known = account_id if account_id in self.accounts else None
        reasons = [*self._account(account_id), *self._parts(body, known, value)]
        reasons += self._period(body.get("received_on") or TODAY)
        if payment_id in self.payments:
            reasons.append(Reason(Code.ALREADY_EXISTS))
        if body["amount"]["currency"] != "AED":
            reasons.append(Reason(Code.CURRENCY_MISMATCH))
        if value <= 0:
            reasons.append(Reason(Code.AMOUNT_OUT_OF_RANGE))
        if known and body.get("party_id") not in (None, *(p["party_id"] for p in self.accounts[known]["parties"])):
            reasons.append(Reason(Code.PARTY_NOT_FOUND))

        def effect() -> Row:
            self.payments[payment_id] = {
                "account": account_id,
                "value": value,
                "reversed": False,
                "refunded": 0,
                "allocated": {},
                "recorded_at": command.recorded_at,
            }
            self._allocate(payment_id, body)
            return self._payment_says(payment_id)

        return reasons, effect

    def payment_allocate(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        payment_id = body["payment_id"]
        row = self.payments.get(payment_id)
        if row is None:
            return [missing(Code.PAYMENT_NOT_FOUND), *self._parts(body, None, 10**18)], dict
        reasons = [*self._parts(body, row["account"], self.unapplied(payment_id)), *self._period(TODAY)]
        if row["reversed"]:
            reasons.append(Reason(Code.PAYMENT_REVERSED))

        def effect() -> Row:
            self._allocate(payment_id, body)
            return self._payment_says(payment_id)

        return reasons, effect

    def payment_unallocate(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        payment_id, invoice_id = body["payment_id"], body["invoice_id"]
        row = self.payments.get(payment_id)
        reasons = [] if row else [missing(Code.PAYMENT_NOT_FOUND)]
        if invoice_id not in self.invoices:
            reasons.append(missing(Code.INVOICE_NOT_FOUND))
        if row is None or reasons:
            return reasons, dict
        there = row["allocated"].get(invoice_id, 0)
        amount = body.get("amount_minor") or there
        reasons = [*self._account(row["account"]), *self._period(TODAY)]
        if row["reversed"]:
            reasons.append(Reason(Code.PAYMENT_REVERSED))
        if not 0 < amount <= there:
            reasons.append(Reason(Code.ALLOCATION_EXCEEDS_PAYMENT))

        def effect() -> Row:
            row["allocated"][invoice_id] -= amount
            return self._payment_says(payment_id)

        return reasons, effect

    def payment_refund(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        payment_id, refund_id = body["payment_id"], body["refund_id"]
        row = self.payments.get(payment_id)
        reasons = self._period(body.get("refunded_on") or TODAY)
        if refund_id in self.refunds:
            reasons.append(Reason(Code.ALREADY_EXISTS))
        if row is None:
            a_refund = payment_id in self.refunds
            why = Reason(Code.REFUND_NOT_REFUNDABLE) if a_refund else missing(Code.PAYMENT_NOT_FOUND)
            # A refund is known by its id, so it is refused for what it is even where its date would do too.
            return [why, *(one for one in reasons if one.code == Code.ALREADY_EXISTS)], dict
        if row["reversed"]:
            reasons.append(Reason(Code.PAYMENT_REVERSED))
        if body["amount_minor"] > self.unapplied(payment_id):
            reasons.append(Reason(Code.REFUND_EXCEEDS_CREDIT))

        def effect() -> Row:
            self.refunds.add(refund_id)
            row["refunded"] += body["amount_minor"]
            return {**self._payment_says(payment_id), "refund_id": str(refund_id)}

        return reasons, effect

    def payment_reverse(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        row = self.payments.get(body["payment_id"])
        if row is None:
            return [missing(Code.PAYMENT_NOT_FOUND)], dict
        reasons = self._period(TODAY)
        if row["reversed"]:
            reasons.append(Reason(Code.PAYMENT_REVERSED))
        if row["refunded"]:
            reasons.append(Reason(Code.PAYMENT_REFUNDED))

        def effect() -> Row:
            row.update(reversed=True, allocated={})
            self.accounts[row["account"]]["closed"] = False
            return self._payment_says(body["payment_id"])

        return reasons, effect
