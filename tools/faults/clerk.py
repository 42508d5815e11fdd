"""One tenant's client: payments, and with them everything else that moves money, and what must not.

Every command has an effect that can be counted without asking the inbox: a payment carries its number as reference; invoices are
issued, paid, credited, written off or voided, and payments reversed, when the outcome before was heard.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tools.faults import nonsense

if TYPE_CHECKING:
    from tools.faults.workload import Command, Workload

ACCOUNTS_PER_TENANT = 3
LINE_MINOR = 1000
LINE = {"description": "care", "quantity": 1, "unit_price_minor": LINE_MINOR}
# How many of a tenant's newest commands a repeat is chosen from.
_REMEMBERED = 200
_FIRST_TURNS = 20  # without HTTP and nonsense: the accounts are known then
_OVER_HTTP_AT_ONCE = 8
_FATES = ("paid", "credited", "paid", "written off", "paid", "void")  # of invoices, in turn


class Clerk:
    def __init__(self, workload: "Workload", tenant: str) -> None:
        self._workload, self._tenant = workload, tenant
        self._number = self._payments = self._invoices = 0
        self._accounts = workload.accounts[tenant]
        self._recent: deque[Command] = deque(maxlen=_REMEMBERED)
        self._known: deque[tuple[str, Command]] = deque(maxlen=_REMEMBERED)  # payments that are there, and stay
        self._next: deque[Callable[[], Awaitable[None]]] = deque()  # what an outcome has made possible
        self._over_http: set[asyncio.Task[None]] = set()

    async def open_accounts(self, count: int) -> None:
        for _ in range(count):
            account = uuid4()
            body = {"account_id": str(account), "patient": "Patient/1", "currency": "AFN"}
            await self._send("account.open", body)
            self._accounts.append(account)

    async def turn(self, chance: random.Random) -> None:
        """A payment, and now and then something else with it."""
        self._number += 1
        account = str(chance.choice(self._accounts))
        payment = self._payment(account, chance.randint(10, 9999))
        await self._pay(payment, self._becomes_known(payment))
        if self._number % 7 == 0:  # a command that depends on the one just sent
            refund = {"payment_id": payment["payment_id"], "amount_minor": 1, "reason": "asked"}
            await self._send("payment.refund", refund, follows=True)
        if self._number % 5 == 0:
            body = {"account_id": account, "lines": [LINE]}
            await self._send("invoice.create", body, applied=partial(self._drafted, account))
        for _ in range(min(2, len(self._next))):
            await self._next.popleft()()
        if self._number % 11 == 0:
            await self._workload.send_again(chance.choice(self._recent), self._number)
        if self._number > _FIRST_TURNS:
            await self._trouble(chance, account)

    async def finish(self) -> None:
        await asyncio.gather(*self._over_http)

    async def _trouble(self, chance: random.Random, account: str) -> None:
        if self._number % 9 == 0 and self._workload.http and len(self._over_http) < _OVER_HTTP_AT_ONCE:
            body = self._payment(account, chance.randint(10, 9999))
            paying = self._workload.http.pay(self._tenant, body, twice=self._number % 4 == 0)
            self._over_http.add(task := asyncio.create_task(paying))
            task.add_done_callback(self._over_http.discard)
        other = chance.choice([tenant for tenant in self._workload.tenants if tenant != self._tenant])
        if self._number % 23 == 0:
            sound = self._body(account, 100, "malformed")
            await self._workload.send_malformed(self._tenant, nonsense.malformed(chance, sound, other))
        if not self._known:
            return
        payment_id, payment = chance.choice(self._known)
        if self._number % 17 == 0:
            await self._workload.send_another_body(payment, self._number)
        if self._number % 29 == 0 and self._workload.accounts[other]:
            foreign = str(self._workload.accounts[other][0])
            sound = self._body(account, 100, "refused")
            wrong = nonsense.refused(chance, sound, payment_id, foreign, at_once=self._workload.hurried)
            await self._send(wrong.command, wrong.body, refused=wrong.code)

    def _payment(self, account: str, amount_minor: int, allocations: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        self._payments += 1
        reference = f"{self._tenant[-3:]}-{self._payments}"
        return self._body(account, amount_minor, reference) | {"allocations": list(allocations)}

    def _body(self, account: str, amount_minor: int, reference: str) -> dict[str, Any]:
        return {
            "payment_id": str(uuid4()),
            "account_id": account,
            "amount": {"amount_minor": amount_minor, "currency": "AFN"},
            "method": "cash",
            "reference": reference,
        }

    async def _pay(self, body: dict[str, Any], applied: Callable[["Command"], None] | None = None) -> None:
        stored: list[Command] = []
        heard = None if applied is None else lambda _result: applied(stored[0]) if stored else None
        command = await self._send("payment.record", body, reference=body["reference"], applied=heard)
        stored.append(command)

    def _becomes_known(self, payment: dict[str, Any]) -> Callable[["Command"], None]:
        """To be reversed, where it is not refunded; else to be named by others."""
        if self._number % 13 == 0 and self._number % 7:
            return lambda _command: self._next.append(partial(self._reverse, payment["payment_id"]))
        return lambda command: self._known.append((payment["payment_id"], command))

    async def _reverse(self, payment_id: str) -> None:
        await self._send("payment.reverse", {"payment_id": payment_id, "reason": "the cheque bounced"})

    def _drafted(self, account: str, result: dict[str, Any]) -> None:
        for document in result["documents"]:
            self._next.append(partial(self._issue, account, str(document["invoice_id"])))

    async def _issue(self, account: str, invoice_id: str) -> None:
        settle = partial(self._settle, account, invoice_id)
        await self._send("invoice.issue", {"invoice_id": invoice_id}, applied=lambda _: self._next.append(settle))

    async def _settle(self, account: str, invoice_id: str) -> None:
        """One of the fates an invoice can have, wholly or in part."""
        self._invoices += 1
        fate, part = _FATES[self._invoices % len(_FATES)], 1 + self._invoices * 37 % LINE_MINOR
        about: dict[str, Any] = {"invoice_id": invoice_id, "reason": "asked"}
        if fate == "credited":
            lines = [{"line_number": 1, "net_minor": part}]
            await self._send("credit_note.issue", about | {"lines": lines})
        elif fate == "written off":
            await self._send("invoice.write_off", about | {"amount_minor": part})
        elif fate == "void":
            await self._send("invoice.void", about)
        else:
            allocations = [{"invoice_id": invoice_id, "amount_minor": part}]
            payment = self._payment(account, part + self._invoices % 5, allocations)
            reversible = self._invoices % 4 == 0
            reverse = partial(self._reverse, payment["payment_id"])
            await self._pay(payment, (lambda _command: self._next.append(reverse)) if reversible else None)

    async def _send(self, name: str, body: dict[str, Any], **more: Any) -> "Command":
        command = await self._workload.send(self._tenant, name, body, **more)
        self._recent.append(command)
        return command
