"""Writes random commands, mostly valid, that have something to do with one another.

What a command holds is drawn from a `Random`, not from Hypothesis: its taste for small and repeated values would hardly ever
get as far as a refund. Hypothesis chooses and shrinks the sequence.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any
from uuid import UUID

from domain.decision import Command
from domain.ids import derived_id
from tests.domain.bodies import NOBODY
from tests.domain.hospital import ICD, allocations, money, party
from tests.domain.model import Model
from tests.domain.model_state import Judgement
from tests.domain.world import World

ACCOUNTS = [UUID(int=0xA0 + number) for number in range(3)]
PARTIES = [
    [party("me", 10_000)],
    [party("me", 3_333), party("wife", 3_333, "relative"), party("insurer", 3_334, "insurer")],
    [party("me", 9_000), party("referrer", 1_000, "hospital"), party("none", 0, "employer")],
    [party("me", 9_999)],
    [party("me", 5_000), party("me", 5_000)],
]
CATEGORIES = ["health_service", "standard", "zero"]
DATES = [None, None, None, "2026-10-15"]  # only this month and the current one are ever closed
WEIGHTS = {
    "account.open": 2,
    "account.update": 1,
    "account.close": 2,
    "charge.capture": 5,
    "charge.void": 2,
    "period.close": 1,
    "period.reopen": 1,
    "invoice.create": 9,
    "invoice.issue": 9,
    "invoice.void": 2,
    "invoice.write_off": 3,
    "credit_note.issue": 6,
    "payment.record": 9,
    "payment.allocate": 6,
    "payment.unallocate": 4,
    "payment.refund": 4,
    "payment.reverse": 2,
}


def invoice_id(command: Any, party_id: str) -> UUID:
    return derived_id(command.tenant.tenant_id, command.command_id, command.recorded_at, "invoice", party_id)


def new_model() -> Model:
    return Model(invoice_id)


class Author:
    """Writes one command at a time about what the model says there is. Client-chosen ids are new, now and then taken."""

    def __init__(self, model: Model, world: World) -> None:
        self.model, self.world, self.fresh = model, world, 0x1000

    def write(self, seed: int) -> tuple[Command[Any], Judgement]:
        """A command and what the model thinks of it; the model is unchanged."""
        random = Random(f"{seed}-{self.world.issued_ids}")
        (name,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        given: dict[str, Any] = getattr(self, "_" + name.replace(".", "_"))(random)
        body = {key: value for key, value in given.items() if value is not None}
        command = self.world.command(name, body)
        judgement = self.model.judge(name, body, command)
        # Of several reasons some may wait and some not: which one is given is not for the model to say.
        may_wait = random.random() < 0.5 and len({reason.awaits for reason in judgement.reasons}) == 1
        return command._replace(may_wait=may_wait), judgement

    # --- what commands are made of ------------------------------------------------------------------------------------

    def _one(self, random: Random, ids: Iterable[UUID], useful: Callable[[UUID], bool] = lambda _: True) -> UUID:
        """Mostly a recent one that is useful, sometimes any, seldom one that nobody has."""
        ids = list(ids)
        good = [one for one in ids if useful(one)][-6:]
        chance = random.random()
        if not ids or chance < 0.04:
            return NOBODY
        return random.choice(good if good and chance < 0.85 else ids)

    def _new(self, random: Random, taken: Iterable[UUID]) -> UUID:
        self.fresh += 1
        return self._one(random, taken) if random.random() < 0.05 else UUID(int=self.fresh)

    def _amount(self, random: Random, exact: int) -> int:
        return max(1, random.choice([exact, exact // 2, random.randint(1, max(1, exact)), 1, exact + 1]))

    def _account(self, random: Random) -> UUID:
        return self._one(random, ACCOUNTS, lambda one: one in self.model.accounts)

    def _invoice(self, random: Random, *statuses: str, account: UUID | None = None) -> UUID:
        def useful(one: UUID) -> bool:
            return self.model.status(one) in statuses and account in (None, self.model.invoices[one]["account"])

        return self._one(random, self.model.invoices, useful)

    def _left(self, invoice_id: UUID) -> int:
        return self.model.left(invoice_id) if invoice_id in self.model.invoices else 1

    def _parts(self, random: Random, count: int, account: UUID | None, limit: int = 10**9) -> list[dict[str, Any]]:
        """Allocations, mostly to different invoices of one account and within a limit."""
        chosen = [self._invoice(random, "issued", account=account) for _ in range(count)]
        if random.random() < 0.9:
            chosen = list(dict.fromkeys(chosen))
        parts = []
        for one in chosen:
            amount = self._amount(random, self._left(one))
            if random.random() < 0.9:
                amount = max(1, min(amount, limit))
            limit -= amount
            parts.append((one, amount))
        return allocations(*parts)

    def _lines(self, random: Random) -> list[dict[str, Any]]:
        return [
            {
                "description": "care",
                "quantity": random.choice(["1", "0.5", "3"]),
                "unit_price_minor": random.choice([0, random.randint(1, 99), random.randint(1, 99)]),
                "tax_category": random.choice(CATEGORIES),
            }
            for _ in range(random.randint(1, 3))
        ]

    # --- one method per command ---------------------------------------------------------------------------------------

    def _account_open(self, random: Random) -> dict[str, Any]:
        return {
            "account_id": random.choice(ACCOUNTS),
            "patient": "Patient/1",
            "currency": "AED",
            "parties": random.choice(PARTIES),
        }

    def _account_update(self, random: Random) -> dict[str, Any]:
        closed = self._one(random, self.model.accounts, lambda one: self.model.accounts[one]["closed"])
        return {"account_id": closed, "reopen": random.random() < 0.7}

    def _account_close(self, random: Random) -> dict[str, Any]:
        def useful(one: UUID) -> bool:
            return not self.model.judge("account.close", {"account_id": one}, None).reasons

        return {"account_id": self._one(random, self.model.accounts, useful)}

    def _charge_capture(self, random: Random) -> dict[str, Any]:
        return {
            "charge_id": self._new(random, self.model.charges),
            "account_id": self._account(random),
            "code_system": ICD,
            "code": "A00",
            "quantity": random.choice(["1", "1.5", "0.001"]),
            "unit_price": money(random.randint(1, 99), random.choice(["AED"] * 9 + ["AFN"])),
            "tax_category": random.choice(CATEGORIES),
        }

    def _charge_void(self, random: Random) -> dict[str, Any]:
        return {"charge_id": self._one(random, self.model.charges), "reason": "wrong"}

    def _period_close(self, random: Random) -> dict[str, Any]:
        return {"period": random.choice(["2026-10", "2026-10", "2026-11"])}

    def _period_reopen(self, random: Random) -> dict[str, Any]:
        return {"period": random.choice(sorted(self.model.closed_months) or ["2026-10", "2026-11"]), "reason": "late"}

    def _invoice_create(self, random: Random) -> dict[str, Any]:
        body = {
            "account_id": self._account(random),
            "invoice_group_id": self._new(random, [row["group"] for row in self.model.invoices.values()]),
            "invoice_date": random.choice(DATES),
        }

        def useful(one: UUID) -> bool:
            charge = self.model.charges[one]
            return bool(charge["status"] == "open" and charge["account"] == body["account_id"])

        if any(useful(one) for one in self.model.charges) and random.random() < 0.6:
            chosen = [self._one(random, self.model.charges, useful) for _ in range(random.randint(1, 3))]
            return {**body, "charge_ids": chosen if random.random() < 0.1 else list(dict.fromkeys(chosen))}
        return {**body, "lines": self._lines(random)}

    def _invoice_issue(self, random: Random) -> dict[str, Any]:
        return {"invoice_id": self._invoice(random, "draft")}

    def _invoice_void(self, random: Random) -> dict[str, Any]:
        return {"invoice_id": self._invoice(random, "draft", "issued"), "reason": "wrong"}

    def _invoice_write_off(self, random: Random) -> dict[str, Any]:
        chosen = self._invoice(random, "issued")
        amount = random.choice([None, self._amount(random, self._left(chosen))])
        return {"invoice_id": chosen, "amount_minor": amount, "reason": "poor"}

    def _credit_note_issue(self, random: Random) -> dict[str, Any]:
        chosen = self._invoice(random, "issued", "settled")
        body = {"invoice_id": chosen, "credit_note_id": self._new(random, self.model.notes), "reason": "wrong"}
        if chosen not in self.model.invoices or random.random() < 0.3:
            return body
        lines = self.model.invoices[chosen]["lines"]
        left = [line["net"] - line["credited_net"] for line in lines] + [1]
        numbers = [random.randint(1, len(lines) + (random.random() < 0.1)) for _ in range(random.choice([1, 1, 2]))]
        amounts = [random.choice([None, self._amount(random, left[one - 1])]) for one in numbers]
        asked = [{"line_number": one, "net_minor": net} for one, net in zip(numbers, amounts, strict=True)]
        return {**body, "lines": [{key: value for key, value in one.items() if value} for one in asked]}

    def _payment_record(self, random: Random) -> dict[str, Any]:
        account_id = self._account(random)
        parts = self._parts(random, random.randint(0, 3), account_id)
        exact = sum(one["amount_minor"] for one in parts) or random.randint(1, 99)
        rounding = random.choice([0, 0, 0, 3, -3])
        return {
            "payment_id": self._new(random, self.model.payments),
            "account_id": account_id,
            "amount": money(
                max(1, exact - rounding + random.choice([0, 0, 30, -1])), random.choice(["AED"] * 19 + ["AFN"])
            ),
            "method": "cash" if rounding else random.choice(["bank", "cheque"]),
            "cash_rounding_minor": rounding,
            "received_on": random.choice(DATES),
            "party_id": random.choice([None] * 9 + ["me"] * 9 + ["stranger"]),
            "allocations": parts,
        }

    def _with_credit(self, random: Random) -> UUID:
        return self._one(random, self.model.payments, lambda one: self.model.unapplied(one) > 0)

    def _payment_allocate(self, random: Random) -> dict[str, Any]:
        payment_id = self._with_credit(random)
        known = payment_id in self.model.payments
        account = self.model.payments[payment_id]["account"] if known else None
        limit = self.model.unapplied(payment_id) if known else 10
        return {"payment_id": payment_id, "allocations": self._parts(random, random.randint(1, 2), account, limit)}

    def _payment_unallocate(self, random: Random) -> dict[str, Any]:
        def useful(one: UUID) -> bool:
            return any(self.model.payments[one]["allocated"].values())

        payment_id = self._one(random, self.model.payments, useful)
        there = self.model.payments[payment_id]["allocated"] if payment_id in self.model.payments else {}
        chosen = self._one(random, there or self.model.invoices, lambda one: bool(there.get(one)))
        amount = random.choice([None, self._amount(random, there.get(chosen, 1))])
        return {"payment_id": payment_id, "invoice_id": chosen, "amount_minor": amount, "reason": "other invoice"}

    def _payment_refund(self, random: Random) -> dict[str, Any]:
        some_refund = self.model.refunds and random.random() < 0.1
        payment_id = self._one(random, sorted(self.model.refunds)) if some_refund else self._with_credit(random)
        credit = self.model.unapplied(payment_id) if payment_id in self.model.payments else 1
        return {
            "payment_id": payment_id,
            "refund_id": self._new(random, sorted(self.model.refunds)),
            "amount_minor": self._amount(random, credit),
            "refunded_on": random.choice(DATES),
            "reason": "asked",
        }

    def _payment_reverse(self, random: Random) -> dict[str, Any]:
        def useful(one: UUID) -> bool:
            return not self.model.payments[one]["reversed"] and not self.model.payments[one]["refunded"]

        return {"payment_id": self._one(random, self.model.payments, useful), "reason": "bounced"}
