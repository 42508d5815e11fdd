"""A tenant's store in memory that plays `load` and `save` around the pure engine, and builders for what goes into it.

It brings exactly what was asked for, in any order and sometimes twice, so that a `decide` that reads more than its `needs`
named, or relies on the order of rows, fails here first. It knows nothing of billing.
"""

import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, TypeVar, cast
from uuid import UUID

import orjson

from domain import engine
from domain.decision import Command
from domain.entities import (
    Account,
    Allocation,
    Book,
    Charge,
    ChartEntry,
    CreditNote,
    CreditNoteLine,
    DocumentSeries,
    InboxEntry,
    Invoice,
    LedgerAccount,
    OutboxRow,
    Payment,
    Period,
    PriceItem,
    PriceList,
    Refund,
    Transfer,
)
from domain.gateway_entities import LIVE, GatewayRefund, Hold, HoldAllocation, Payout
from domain.job_entities import Statement
from domain.lookups import Lookup
from domain.snapshot import Changes, Snapshot
from schemas.gateway import GatewayProfile
from schemas.outcome import Problem
from schemas.registry import COMMANDS
from schemas.tenant import TenantProfile

E = TypeVar("E")

DUBAI = TenantProfile(
    tenant_id="dubai",
    name="Dubai clinic",
    region="me-central-1",
    country_profile="ARE",
    gateway=GatewayProfile(adapter="generic", url="https://gateway.example", capture="manual"),
)
KABUL = TenantProfile(
    tenant_id="kabul",
    name="Kabul hospital",
    region="ap-south-1",
    country_profile="AFG",
    fiscal_calendar="solar_hijri",
    time_zone="Asia/Kabul",
)
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)

# Facts are inserted and never changed: DESIGN §2 promise 3, and the app role has no UPDATE on these tables.
IMMUTABLE: frozenset[type[Any]] = frozenset(
    {
        Transfer,
        InboxEntry,
        OutboxRow,
        ChartEntry,
        PriceList,
        PriceItem,
        Allocation,
        Refund,
        CreditNote,
        CreditNoteLine,
        Statement,
        HoldAllocation,
        Payout,
    }
)


def uid(number: int) -> UUID:
    """A command id or client-chosen id that is readable in a failure."""
    return UUID(int=number, version=4)


def wire_body(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, default=str)


def command(
    name: str,
    body: Mapping[str, Any],
    *,
    command_id: UUID | int,
    tenant: TenantProfile = DUBAI,
    at: datetime = NOON,
    may_wait: bool = False,
    refusal: Problem | None = None,
    correlation_id: str | None = None,
) -> Command[Any]:
    """A command as the wire delivers it: the body goes through JSON and the registry's model."""
    raw = wire_body(body)
    canonical = orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)
    return Command(
        tenant=tenant,
        name=name,
        command_id=uid(command_id) if isinstance(command_id, int) else command_id,
        body=COMMANDS[name].payload.model_validate_json(raw),
        payload_hash=sha256(name.encode() + b"\n" + canonical).digest(),
        recorded_at=at,
        stream_sequence=1,
        correlation_id=correlation_id,
        may_wait=may_wait,
        refusal=refusal,
    )


@dataclass
class World:
    """`tables` hold the rows by key, `outbox` the events, `jobs` the job messages and `audits` the audit events in the order they
    were saved.

    `seed` shuffles what is loaded.
    """

    tenant: TenantProfile = DUBAI
    seed: int = 0
    tables: dict[type[Any], dict[Hashable, Any]] = field(default_factory=dict)
    outbox: list[OutboxRow] = field(default_factory=list)
    jobs: list[OutboxRow] = field(default_factory=list)
    audits: list[OutboxRow] = field(default_factory=list)
    verdicts: list[engine.Verdict] = field(default_factory=list)
    now: datetime = NOON
    issued_ids: int = 0

    def copy(self) -> "World":
        """Another store with the same rows."""
        tables, _ = self.state()
        return replace(
            self,
            tables=tables,
            outbox=list(self.outbox),
            jobs=list(self.jobs),
            audits=list(self.audits),
            verdicts=list(self.verdicts),
        )

    # --- driving it ---------------------------------------------------------------------------------------------------

    def run(self, commands: Sequence[Command[Any]]) -> list[engine.Verdict]:
        """One batch: load, execute, save."""
        wanted = engine.needs(commands)
        snapshot = Snapshot(self.tenant.tenant_id, wanted, self.load(wanted))
        verdicts = engine.execute(snapshot, commands)
        self.save(snapshot.changes())
        self.verdicts.extend(verdicts)
        return verdicts

    def run_partitioned(self, commands: Sequence[Command[Any]], sizes: Iterable[int]) -> list[engine.Verdict]:
        """The same commands as batches of those sizes; what is left over goes as one more."""
        verdicts, rest = [], list(commands)
        for size in sizes:
            if rest:
                verdicts += self.run(rest[:size])
                rest = rest[size:]
        return verdicts + (self.run(rest) if rest else [])

    def command(self, name: str, body: Mapping[str, Any] | None = None, **given: Any) -> Command[Any]:
        """The next command of this tenant, a second after the one before unless `at` is given."""
        self.issued_ids += 1
        self.now += timedelta(seconds=1)
        options: dict[str, Any] = {"command_id": self.issued_ids, "tenant": self.tenant, "at": self.now} | given
        return command(name, body or {}, **options)

    def do(self, name: str, body: Mapping[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        """Runs a command that has to be applied; its result."""
        verdict = self.run([self.command(name, body, **given)])[0]
        assert verdict.status == "applied" and verdict.result is not None, describe(verdict)
        return cast("dict[str, Any]", orjson.loads(verdict.result))

    def refused(self, name: str, body: Mapping[str, Any] | None = None, **given: Any) -> Problem:
        """Runs a command that has to be rejected; why."""
        verdict = self.run([self.command(name, body, **given)])[0]
        assert verdict.status == "rejected" and verdict.error is not None, describe(verdict)
        return Problem.model_validate_json(verdict.error)

    # --- looking at it ------------------------------------------------------------------------------------------------

    def all(self, entity: type[E]) -> list[E]:
        return list(self.tables.get(entity, {}).values())

    def one(self, entity: type[E], key: Hashable) -> E:
        """A row by key; ids may be given as text, as results have them."""
        if isinstance(key, str) and len(key) == 36:
            key = UUID(key)
        return cast("E", self.tables[entity][key])

    @property
    def book(self) -> Book:
        return self.one(Book, ())

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, data) of every event, in order."""
        return [(row.subject.split(".", 4)[4], orjson.loads(row.body)) for row in self.outbox]

    def state(self) -> tuple[dict[type[Any], dict[Hashable, Any]], list[OutboxRow]]:
        """All of the store, to compare with another's or with an earlier state."""
        return {entity: dict(rows) for entity, rows in self.tables.items() if rows}, [
            *self.outbox,
            *self.jobs,
            # A refusal that is not stored is told again under the same id: the stream keeps one.
            *dict.fromkeys(self.audits),
        ]

    def tables_and_events(self) -> tuple[dict[type[Any], dict[Hashable, Any]], list[OutboxRow]]:
        """Without the audit: what a refusal that is not stored must leave as it was."""
        return self.state()[0], [*self.outbox, *self.jobs]

    def business_state(self) -> tuple[dict[type[Any], dict[Hashable, Any]], list[OutboxRow]]:
        """Without the inbox, the command counter and the audit: what a refused command must leave as it was (DOMAIN rule 7)."""
        tables, outbox = self.tables_and_events()
        tables.pop(InboxEntry, None)
        if Book in tables:
            tables[Book] = {(): self.book._replace(command_sequence=0)}
        return tables, outbox

    # --- load and save ------------------------------------------------------------------------------------------------

    def load(self, wanted: Mapping[Lookup, set[Any]]) -> list[Any]:
        found = [row for lookup, keys in wanted.items() for key in keys for row in self._find(lookup, key)]
        random.Random(f"{self.seed}-{len(found)}").shuffle(found)
        return found

    def _find(self, lookup: Lookup, key: Any) -> list[Any]:
        if lookup.of is not None:
            return JOINS[lookup.of](self, key)
        return [row for row in self.all(lookup.entity) if _matches(row, lookup.columns, key)]

    def save(self, changes: Changes) -> None:
        for entity, rows in changes.inserts.items():
            for row in rows:
                if entity is OutboxRow:
                    {"events": self.outbox, "jobs": self.jobs, "audit": self.audits}[row.stream].append(row)
                    continue
                table = self.tables.setdefault(entity, {})
                assert row.key not in table, f"inserted twice: {entity.__name__} {row.key}"
                table[row.key] = row
        for entity, rows in changes.updates.items():
            assert entity not in IMMUTABLE, f"{entity.__name__} is never updated"
            for row in rows:
                assert row.key in self.tables[entity], f"updated but absent: {entity.__name__} {row.key}"
                self.tables[entity][row.key] = row
        for delta in changes.balances:
            ledger = self.tables.setdefault(LedgerAccount, {})
            before = ledger.get(delta.id, delta._replace(debits_minor=0, credits_minor=0))
            ledger[delta.id] = before._replace(
                debits_minor=before.debits_minor + delta.debits_minor,
                credits_minor=before.credits_minor + delta.credits_minor,
            )


def describe(verdict: engine.Verdict) -> str:
    return f"{verdict.status} {verdict.error or ''} {verdict.failure!r}"


def outcome(verdict: engine.Verdict) -> tuple[str, str | None, str | None, str | None]:
    """What can be compared between two runs of one command."""
    return verdict.status, verdict.result, verdict.error, verdict.code


def _matches(row: Any, columns: tuple[str, ...], key: Any) -> bool:
    values = tuple(getattr(row, column) for column in columns)
    return values == (key if len(columns) != 1 else (key,))


# --- the join lookups, by scanning -----------------------------------------------------------------------------------


def _invoice(world: World, invoice_id: UUID) -> list[Invoice]:
    return [row for row in world.all(Invoice) if row.id == invoice_id]


def _payment(world: World, payment_id: UUID) -> list[Payment]:
    return [row for row in world.all(Payment) if row.id == payment_id]


def _accounts(world: World, owners: Iterable[Any]) -> list[Account]:
    ids = {owner.account_id for owner in owners}
    return [row for row in world.all(Account) if row.id in ids]


def _invoices_of_payment(world: World, payment_id: UUID) -> list[Invoice]:
    ids = {row.invoice_id for row in world.all(Allocation) if row.payment_id == payment_id}
    return [row for row in world.all(Invoice) if row.id in ids]


def _invoices_of_hold(world: World, payment_id: UUID) -> list[Invoice]:
    ids = {row.invoice_id for row in world.all(HoldAllocation) if row.payment_id == payment_id}
    return [row for row in world.all(Invoice) if row.id in ids]


def _payments_of_refund(world: World, entity: type[Any], refund_id: UUID) -> list[Any]:
    ids = {row.payment_id for row in world.all(GatewayRefund) if row.id == refund_id}
    return [row for row in world.all(entity) if row.id in ids]


def _payments_of_invoice(world: World, invoice_id: UUID) -> list[Payment]:
    ids = {row.payment_id for row in world.all(Allocation) if row.invoice_id == invoice_id}
    return [row for row in world.all(Payment) if row.id in ids]


def _of_invoice(entity: type[Any], column: str, of: str) -> Callable[[World, UUID], list[Any]]:
    """Rows of `entity` whose `column` equals the invoice's `of`."""

    def find(world: World, invoice_id: UUID) -> list[Any]:
        values = {getattr(invoice, of) for invoice in _invoice(world, invoice_id)}
        return [row for row in world.all(entity) if getattr(row, column) in values]

    return find


def _series_of_invoice(world: World, invoice_id: UUID) -> list[DocumentSeries]:
    years = {invoice.fiscal_year for invoice in _invoice(world, invoice_id)}
    return [row for row in world.all(DocumentSeries) if row.series == "INV" and row.fiscal_year in years]


JOINS: dict[str, Callable[[World, Any], list[Any]]] = {
    "drafts of period": lambda world, key: [
        row for row in world.all(Invoice) if row.period == key and row.status == "draft"
    ],
    "open charges of account": lambda world, key: [
        row for row in world.all(Charge) if row.account_id == key and row.status == "open"
    ],
    "drafts of account": lambda world, key: [
        row for row in world.all(Invoice) if row.account_id == key and row.status == "draft"
    ],
    "account of charge": lambda world, key: _accounts(world, [row for row in world.all(Charge) if row.id == key]),
    "account of invoice": lambda world, key: _accounts(world, _invoice(world, key)),
    "account of hold": lambda world, key: _accounts(world, [row for row in world.all(Hold) if row.id == key]),
    "invoices of hold": _invoices_of_hold,
    "payment of refund": lambda world, key: _payments_of_refund(world, Payment, key),
    "hold of refund": lambda world, key: _payments_of_refund(world, Hold, key),
    "live holds of account": lambda world, key: [
        row for row in world.all(Hold) if row.account_id == key and row.status in LIVE
    ],
    "account of payment": lambda world, key: _accounts(world, _payment(world, key)),
    "invoices of payment": _invoices_of_payment,
    "payments of invoice": _payments_of_invoice,
    "period of invoice": _of_invoice(Period, "period", "period"),
    "series of invoice": _series_of_invoice,
    "charges of invoice": _of_invoice(Charge, "invoice_group_id", "invoice_group_id"),
    "group of invoice": _of_invoice(Invoice, "invoice_group_id", "invoice_group_id"),
}
