"""DOMAIN rule 15 over a whole store: what has to hold after any sequence of commands."""

from collections import defaultdict
from typing import Any
from uuid import UUID

import orjson

from domain.chart import GATEWAY_CLEARING, GATEWAY_FEES, RECEIVABLE, UNAPPLIED_CREDIT
from domain.entities import (
    Allocation,
    Book,
    CreditNote,
    DocumentSeries,
    InboxEntry,
    Invoice,
    InvoiceLine,
    LedgerAccount,
    OutboxRow,
    Payment,
    Refund,
    Transfer,
)
from domain.gateway_entities import LIVE, GatewayRefund, Hold, Payout
from domain.ledger import GENESIS, transfer_hash
from schemas import headers
from schemas.audit import AuditRecord
from schemas.codes import Code
from schemas.registry import COMMANDS, EVENTS
from tests.domain.world import World

# A reversal opens a closed account again and says so; schemas/registry.py does not declare it yet.

# Told again, or looked at again: applied, and nothing changes.
MAY_BE_NO_NEWS = frozenset(
    {
        "invoice.mark_overdue",
        "payment.cancel",
        "payment.dispute",
        "payment.settle",
        "payment.settle_refund",
        "payment.settle_payout",
        "payment.expire",
        "payment.report_circuit",
    }
)


def check_all(world: World) -> None:
    check_audit(world)
    if not world.all(Book):
        assert world.tables_and_events() == ({}, []), "rows without a book"
        return
    check_ledger(world)
    check_receivables(world)
    check_credit(world)
    check_gateway(world)
    check_documents(world)
    check_inbox(world)
    check_events(world)


def chain_is_sound(world: World) -> bool:
    """Whether the transfers are numbered 1, 2, 3 … and each hash follows from the one before, up to the book's head."""
    head = GENESIS
    transfers = sorted(world.all(Transfer), key=lambda row: row.sequence)
    for expected, transfer in enumerate(transfers, start=1):
        head = transfer_hash(head, world.tenant.tenant_id, transfer._replace(hash=b""))
        if transfer.sequence != expected or transfer.hash != head:
            return False
    return world.book.ledger_head == head and world.book.ledger_sequence == len(transfers)


def check_ledger(world: World) -> None:
    """Debits = credits per currency; running totals are the sums of the transfers; the chain verifies."""
    totals: dict[UUID, list[int]] = defaultdict(lambda: [0, 0])
    currency_of = {row.id: row.currency for row in world.all(LedgerAccount)}
    for transfer in world.all(Transfer):
        assert transfer.amount_minor > 0
        assert currency_of[transfer.debit_account_id] == currency_of[transfer.credit_account_id] == transfer.currency
        totals[transfer.debit_account_id][0] += transfer.amount_minor
        totals[transfer.credit_account_id][1] += transfer.amount_minor
    assert {row.id: [row.debits_minor, row.credits_minor] for row in world.all(LedgerAccount)} == totals
    by_currency: dict[str, int] = defaultdict(int)
    for row in world.all(LedgerAccount):
        by_currency[row.currency] += row.debits_minor - row.credits_minor
    assert not any(by_currency.values()), by_currency
    assert chain_is_sound(world)


def balances(world: World, code: str) -> dict[Any, int]:
    """Net debit of a sub-ledger per (billing account, party)."""
    return {
        (row.account_id, row.party_id): row.debits_minor - row.credits_minor
        for row in world.all(LedgerAccount)
        if row.code == code and row.debits_minor != row.credits_minor
    }


def check_receivables(world: World) -> None:
    """The receivable of an account and party is what is open on its invoices, which follows from the rows behind it."""
    owed: dict[Any, int] = defaultdict(int)
    for row in world.all(Invoice):
        paid = sum(part.amount_minor for part in world.all(Allocation) if part.invoice_id == row.id)
        notes = [note for note in world.all(CreditNote) if note.invoice_id == row.id]
        assert row.paid_minor == paid >= 0
        assert row.credited_minor == sum(note.net_minor + note.tax_minor for note in notes)
        left = row.total_minor - row.paid_minor - row.credited_minor - row.written_off_minor
        assert 0 <= left <= row.total_minor
        if row.status in ("issued", "settled"):
            owed[(row.account_id, row.party_id)] += left
            assert (row.status == "settled") == (left == 0)
        lines = [line for line in world.all(InvoiceLine) if line.invoice_id == row.id]
        assert row.net_minor == sum(line.net_minor for line in lines)
        assert row.tax_minor == sum(line.tax_minor for line in lines)
        credited = sum(line.credited_net_minor + line.credited_tax_minor for line in lines)
        assert row.credited_minor == credited
    assert balances(world, RECEIVABLE) == {key: amount for key, amount in owed.items() if amount}


def check_credit(world: World) -> None:
    """Unapplied credit = payments − allocations − refunds, per account, and never negative."""
    credit: dict[Any, int] = defaultdict(int)
    for row in world.all(Payment):
        allocated = sum(part.amount_minor for part in world.all(Allocation) if part.payment_id == row.id)
        refunded = sum(refund.amount_minor for refund in world.all(Refund) if refund.payment_id == row.id)
        asked = [each for each in world.all(GatewayRefund) if each.payment_id == row.id]
        reserved = sum(each.amount_minor for each in asked if each.status in ("pending", "unknown"))
        assert (row.allocated_minor, row.refunded_minor, row.refunding_minor) == (allocated, refunded, reserved)
        left = row.amount_minor + row.cash_rounding_minor - allocated - refunded - row.charged_back_minor
        assert left >= reserved
        if row.status == "reversed":
            assert allocated == 0 and left in (0, row.amount_minor + row.cash_rounding_minor)
        else:
            credit[(row.account_id, None)] -= left
    assert balances(world, UNAPPLIED_CREDIT) == {key: amount for key, amount in credit.items() if amount}


def check_gateway(world: World) -> None:
    """A captured hold has its payment, of what was captured; a hold that has not, has none. What is in gateway clearing, and what
    was kept as fees, is what was captured and neither given back nor paid out."""
    holds, clearing = {row.id: row for row in world.all(Hold)}, defaultdict[str, int](int)
    for row in world.all(Payment):
        assert (row.method == "gateway") == (row.id in holds and bool(holds[row.id].captured_minor))
        if row.method == "gateway":
            hold = holds.pop(row.id)
            assert hold.status in ("captured", "mismatch") and hold.currency == row.currency
            assert hold.status == "mismatch" or hold.captured_minor == row.amount_minor
            undone = row.status == "reversed" and not row.charged_back_minor
            made = [refund for refund in world.all(Refund) if (refund.payment_id, refund.method) == (row.id, "gateway")]
            assert hold.refunded_minor == sum(refund.amount_minor for refund in made)
            clearing[row.currency] += 0 if undone else row.amount_minor - row.charged_back_minor - hold.refunded_minor
    assert {row.status for row in holds.values()} <= {*LIVE, "declined", "cancelled", "expired", "mismatch"}
    for refund in world.all(Refund):
        assert refund.method != "gateway" or refund.id not in {
            row.id for row in world.all(GatewayRefund) if row.status != "done"
        }
    for payout in world.all(Payout):
        clearing[payout.currency] -= payout.amount_minor
    booked = defaultdict[str, int](int)
    for account in world.all(LedgerAccount):
        if account.code in (GATEWAY_CLEARING, GATEWAY_FEES):
            booked[account.currency] += account.debits_minor - account.credits_minor
    assert {key: value for key, value in booked.items() if value} == {k: v for k, v in clearing.items() if v}


def check_documents(world: World) -> None:
    """Numbers are 1, 2, 3 … per series and fiscal year, each given once, and none before issue."""
    given: dict[str, list[int]] = defaultdict(list)
    documents: list[Invoice | CreditNote] = [*world.all(Invoice), *world.all(CreditNote)]
    for row in documents:
        if row.number is None:
            assert row.status in ("draft", "void")
            continue
        series, number = row.number.rsplit("-", 1)
        given[series].append(int(number))
    assert {series: sorted(numbers) for series, numbers in given.items()} == {
        f"{row.series}-{row.fiscal_year}": list(range(1, row.last_number + 1)) for row in world.all(DocumentSeries)
    }


def check_inbox(world: World) -> None:
    """Every inbox row has its outcome, and they are numbered in the order of execution."""
    rows = sorted(world.all(InboxEntry), key=lambda row: row.sequence)
    assert [row.sequence for row in rows] == list(range(1, world.book.command_sequence + 1))
    for row in rows:
        assert (row.status, row.result is None, row.error is None) in (
            ("applied", False, True),
            ("rejected", True, False),
        )
        if row.error is not None:
            assert orjson.loads(row.error)["retryable"] is False


def event_headers(row: OutboxRow) -> dict[str, str]:
    lines = row.headers.decode().removeprefix("NATS/1.0\r\n").removesuffix("\r\n\r\n").split("\r\n")
    return dict(text.split(": ", 1) for text in lines)


def check_events(world: World) -> None:
    """Events are numbered gaplessly in order, ids are unique, and every ledger row has the event of its command."""
    found = [event_headers(row) for row in world.outbox]
    assert [int(row[headers.CE_SEQUENCE]) for row in found] == list(range(1, world.book.event_sequence + 1))
    assert len({row[headers.CE_ID] for row in found}) == len(found)
    for transfer in world.all(Transfer):
        assert found[transfer.event_sequence - 1][headers.COMMAND_ID] == str(transfer.command_id)
    applied = {str(row.command_id) for row in world.all(InboxEntry) if row.status == "applied"}
    no_news = {str(row.command_id) for row in world.all(InboxEntry) if row.name in MAY_BE_NO_NEWS}
    told = {row[headers.COMMAND_ID] for row in found}
    assert told <= applied and applied - told <= no_news
    assert {event_headers(row)[headers.COMMAND_ID] for row in world.jobs} <= applied


def check_audit(world: World) -> None:
    """Every stored outcome has one audit event that says the same."""
    told = [AuditRecord.model_validate_json(row.body) for row in dict.fromkeys(world.audits)]
    final = [each for each in told if each.code is None or not each.code.retryable]
    reused = [each for each in final if each.code == Code.IDEMPOTENCY_KEY_REUSED]
    found = sorted(f"{each.command_id} {each.status} {each.code}" for each in final if each not in reused)
    stored = {row: orjson.loads(row.error)["code"] if row.error else None for row in world.all(InboxEntry)}
    assert found == sorted(f"{row.command_id} {row.status} {code}" for row, code in stored.items())


def check_contracts(world: World) -> None:
    """Results and events are what the registry says they are, and each command emits only events that it declares."""
    command_of = {str(row.command_id): row for row in world.all(InboxEntry)}
    for row in command_of.values():
        if row.result is not None:
            COMMANDS[row.name].result.model_validate_json(row.result)
    for sent in world.outbox:
        name = sent.subject.split(".", 4)[4]
        EVENTS[name].data.model_validate_json(sent.body)
        cause = command_of[event_headers(sent)[headers.COMMAND_ID]].name
        assert name in COMMANDS[cause].events, f"{cause} emits {name}, undeclared"
