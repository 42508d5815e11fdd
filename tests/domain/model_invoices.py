"""The reference model's invoices and credit notes. Imports nothing of the domain."""

from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from schemas.codes import Code
from tests.domain.model_state import TODAY, Effect, Reason, Row, State, half_up, missing, share


class Invoices(State):
    def invoice_create(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        account_id, group_id = body["account_id"], body["invoice_group_id"]
        day = body.get("invoice_date") or TODAY
        charge_ids = body.get("charge_ids") or ()
        reasons = [*self._account(account_id), *self._period(day)]
        if len(set(charge_ids)) < len(charge_ids):
            reasons.append(Reason(Code.DUPLICATE_REFERENCE))
        if any(row["group"] == group_id for row in self.invoices.values()):
            reasons.append(Reason(Code.ALREADY_EXISTS))
        for charge_id in charge_ids:
            if charge_id not in self.charges:
                reasons.append(missing(Code.CHARGE_NOT_FOUND))
            elif self.charges[charge_id]["account"] != account_id:
                reasons.append(Reason(Code.CHARGE_NOT_FOUND))
            elif self.charges[charge_id]["status"] != "open":
                reasons.append(Reason(Code.CHARGE_NOT_OPEN))
        if reasons:
            return reasons, dict
        items = [(self.charges[one]["net"], self.charges[one]["category"]) for one in charge_ids] + [
            (half_up(Decimal(one["quantity"]) * one["unit_price_minor"]), one["tax_category"])
            for one in body.get("lines") or ()
        ]
        drafted = self._documents(account_id, group_id, day, items, command)
        if not drafted:
            return [Reason(Code.NOTHING_TO_INVOICE)], dict

        def effect() -> Row:
            self.invoices |= drafted
            for charge_id in charge_ids:
                self.charges[charge_id] |= {"status": "invoiced", "group": group_id}
            return {"invoice_group_id": str(group_id)}

        return [], effect

    def _documents(
        self, account_id: UUID, group_id: UUID, day: str, items: Iterable[tuple[int, str]], command: Any
    ) -> dict[UUID, Row]:
        payers = [one for one in self.accounts[account_id]["parties"] if one["share_basis_points"]]
        weights = [one["share_basis_points"] for one in payers]
        drafted = {}
        for position, payer in enumerate(payers):
            lines = []
            for amount, category in items:
                net = share(amount, weights, position)
                taxed = category == "standard" or (category == "health_service" and payer["kind"] == "hospital")
                tax = half_up(Fraction(net * 5, 100)) if taxed else 0
                if net:
                    lines.append({"net": net, "tax": tax, "credited_net": 0, "credited_tax": 0})
            if lines:
                drafted[self.invoice_id(command, payer["party_id"])] = {
                    "account": account_id,
                    "group": group_id,
                    "date": day,
                    "stage": "draft",
                    "number": None,
                    "lines": lines,
                    "written_off": 0,
                }
        return drafted

    def _number(self, series: str) -> str:
        self.numbers[series] += 1
        return f"{series}-2026-{self.numbers[series]:06}"

    def invoice_issue(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        invoice_id = body["invoice_id"]
        if invoice_id not in self.invoices:
            return [missing(Code.INVOICE_NOT_FOUND)], dict
        row = self.invoices[invoice_id]
        reasons = [] if row["stage"] == "draft" else [Reason(Code.INVOICE_NOT_DRAFT)]

        def effect() -> Row:
            row.update(stage="issued", number=self._number("INV"))
            return self._invoice_says(invoice_id)

        return reasons, effect

    def invoice_void(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        invoice_id = body["invoice_id"]
        if invoice_id not in self.invoices:
            return [missing(Code.INVOICE_NOT_FOUND)], dict
        row = self.invoices[invoice_id]
        reasons = [] if row["stage"] == "draft" else self._period(TODAY)
        if row["stage"] == "void":
            reasons.append(Reason(Code.INVOICE_NOT_OPEN))
        if self.left(invoice_id) < self.total(invoice_id):
            reasons.append(Reason(Code.INVOICE_HAS_PAYMENTS))

        def effect() -> Row:
            row["stage"] = "void"
            if all(one["stage"] == "void" for one in self.invoices.values() if one["group"] == row["group"]):
                for charge in self.charges.values():
                    if charge["group"] == row["group"]:
                        charge.update(status="open", group=None)
            return self._invoice_says(invoice_id)

        return reasons, effect

    def _not_open(self, invoice_id: UUID, *allowed: str) -> list[Reason]:
        status = self.status(invoice_id)
        return [] if status in allowed else [Reason(Code.INVOICE_NOT_OPEN, awaits=status == "draft")]

    def invoice_write_off(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        invoice_id = body["invoice_id"]
        if invoice_id not in self.invoices:
            return [missing(Code.INVOICE_NOT_FOUND)], dict
        amount = body.get("amount_minor") or self.left(invoice_id)
        reasons = [*self._not_open(invoice_id, "issued"), *self._period(TODAY)]
        if amount > self.left(invoice_id):
            reasons.append(Reason(Code.WRITE_OFF_EXCEEDS_OPEN_AMOUNT))

        def effect() -> Row:
            self.invoices[invoice_id]["written_off"] += amount
            return self._invoice_says(invoice_id)

        return reasons, effect

    def credit_note_issue(self, body: Row, command: Any) -> tuple[list[Reason], Effect]:
        invoice_id, note_id = body["invoice_id"], body["credit_note_id"]
        reasons = [Reason(Code.ALREADY_EXISTS)] if note_id in self.notes else []
        asked = [one["line_number"] for one in body.get("lines") or ()]
        if len(set(asked)) < len(asked):
            reasons.append(Reason(Code.DUPLICATE_REFERENCE))
        if invoice_id not in self.invoices:
            return [*reasons, missing(Code.INVOICE_NOT_FOUND)], dict
        row = self.invoices[invoice_id]
        if any(number > len(row["lines"]) for number in asked):
            return [*reasons, Reason(Code.INVOICE_LINE_NOT_FOUND)], dict
        reasons += [*self._not_open(invoice_id, "issued", "settled"), *self._period(TODAY)]
        reasons += self._account(row["account"])
        parts = self._credit(row, body)
        total = sum(net + tax for _, net, tax in parts)
        excess = max(0, total - self.left(invoice_id))
        if (
            not total
            or excess > self.paid(invoice_id)
            or any(n > line["net"] - line["credited_net"] for line, n, _ in parts)
        ):
            reasons.append(Reason(Code.CREDIT_EXCEEDS_INVOICE))

        def effect() -> Row:
            self._release(invoice_id, excess)
            for line, net, tax in parts:
                line["credited_net"] += net
                line["credited_tax"] += tax
            self.notes.add(note_id)
            return {"number": self._number("CN"), "total_minor": total, "released_minor": excess}

        return reasons, effect

    def _credit(self, row: Row, body: Row) -> list[tuple[Row, int, int]]:
        wanted = body.get("lines") or [{"line_number": n + 1} for n in range(len(row["lines"]))]
        parts = []
        for one in wanted:
            line = row["lines"][one["line_number"] - 1]
            left_net, left_tax = line["net"] - line["credited_net"], line["tax"] - line["credited_tax"]
            net = one.get("net_minor") or left_net
            fair = half_up(Fraction(line["tax"] * net, line["net"]))
            parts.append((line, net, left_tax if net == left_net else min(fair, left_tax)))
        return parts

    def _release(self, invoice_id: UUID, amount: int) -> None:
        latest_first = sorted(self.payments.values(), key=lambda row: row["recorded_at"], reverse=True)
        for row in latest_first:
            taken = min(amount, row["allocated"].get(invoice_id, 0))
            if taken:
                row["allocated"][invoice_id] -= taken
                amount -= taken
