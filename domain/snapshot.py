"""The state one batch of one tenant is decided against: what was loaded, with every accepted decision folded in.

Reading a row that nobody asked for is a bug (`NotLoaded`), an absent row is an answer (None). The snapshot also collects what
has to be saved: rows that are new, rows that changed, and the ledger's balance deltas.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from domain.entities import Entity, Invoice, LedgerAccount, Transfer
from domain.lookups import ALL, LEDGER_ACCOUNTS_OF_ACCOUNT, PRIMARY, Lookup

E = TypeVar("E", bound=Entity)
Needs = Iterable[tuple[Lookup, Hashable]]

# Secondary indexes kept in memory: every column lookup that is not by primary key.
_INDEXED: dict[type[Any], list[tuple[tuple[str, ...], Lookup]]] = {}
for _lookup in ALL:
    if _lookup.columns and PRIMARY.get(_lookup.entity) != _lookup:
        _INDEXED.setdefault(_lookup.entity, []).append((_lookup.columns, _lookup))


class NotLoaded(LookupError):
    """A `decide` read something its `needs` did not ask for: a bug in that capability."""


class Changes(NamedTuple):
    """What a batch saves. `balances` rows hold deltas in their debit and credit columns."""

    inserts: Mapping[type[Any], list[Any]]
    updates: Mapping[type[Any], list[Any]]
    balances: list[LedgerAccount]


class _Moved:
    """What a batch has added to a ledger account's running totals: its last two fields."""

    __slots__ = ("account", "credits_minor", "debits_minor")

    def __init__(self, account: LedgerAccount) -> None:
        self.account, self.debits_minor, self.credits_minor = account, 0, 0


class Snapshot:
    def __init__(self, tenant_id: str, loaded: Mapping[Lookup, Iterable[Hashable]], rows: Iterable[Entity]) -> None:
        """`loaded` is what was asked for, `rows` what was found, in any order and possibly more than once."""
        self.tenant_id = tenant_id
        self._loaded = {lookup: frozenset(keys) for lookup, keys in loaded.items()}
        self._rows: dict[type[Any], dict[Hashable, Any]] = {}
        self._index: dict[Lookup, dict[Hashable, dict[Hashable, None]]] = {}
        self._stored: dict[type[Any], set[Hashable]] = {}
        self._touched: dict[type[Any], dict[Hashable, None]] = {}
        self._appended: dict[type[Any], list[Any]] = {}
        self._moved: dict[UUID, _Moved] = {}
        for row in rows:
            self._stored.setdefault(type(row), set()).add(row.key)
            self._place(row)

    def get(self, entity: type[E], key: Hashable, *, via: tuple[Lookup, Hashable] | None = None) -> E | None:
        """The row with that key, or None. `via` names the join lookup that would have brought it."""
        row = self._rows.get(entity, {}).get(key)
        if row is None and not self._was_loaded(PRIMARY.get(entity), key) and not (via and self._was_loaded(*via)):
            raise NotLoaded(f"{entity.__name__} {key}")
        return cast("E | None", row)

    def find(self, lookup: Lookup, key: Hashable, *, via: tuple[Lookup, Hashable] | None = None) -> list[Any]:
        """The rows whose columns match now, in the order they were loaded and then folded in. `via` as in `get`."""
        if not self._was_loaded(lookup, key) and not (via and self._was_loaded(*via)):
            raise NotLoaded(f"{lookup.entity.__name__} by {lookup.of or lookup.columns} {key}")
        rows = self._rows.get(lookup.entity, {})
        candidates = (rows[row_key] for row_key in self._index.get(lookup, {}).get(key, ()))
        return [row for row in candidates if _columns(row, lookup.columns) == key]

    def put(self, row: Entity) -> None:
        """Folds a new or changed row in."""
        self._touched.setdefault(type(row), {})[row.key] = None
        self._place(row)

    def append(self, row: Entity) -> None:
        """Adds a row that nothing reads back in this batch (ledger, outbox, lines of a ledger document)."""
        self._appended.setdefault(type(row), []).append(row)

    def post(self, debit: LedgerAccount, credit: LedgerAccount, transfer: Transfer) -> None:
        """Appends a transfer and moves both running totals; `debit` and `credit` carry zero totals."""
        self.append(transfer)
        self._of(debit).debits_minor += transfer.amount_minor
        self._of(credit).credits_minor += transfer.amount_minor

    def balance_of_account(self, account_id: UUID) -> dict[str, int]:
        """Net debit per ledger code of a billing account's sub-ledgers, in minor units, this batch's postings included."""
        stored = self.find(LEDGER_ACCOUNTS_OF_ACCOUNT, account_id)
        moved = [row for row in self._deltas() if row.account_id == account_id]
        totals: dict[str, int] = {}
        for row in (*stored, *moved):
            totals[row.code] = totals.get(row.code, 0) + row.debits_minor - row.credits_minor
        return totals

    def changes(self) -> Changes:
        inserts: dict[type[Any], list[Any]] = {entity: list(rows) for entity, rows in self._appended.items()}
        updates: dict[type[Any], list[Any]] = {}
        for entity, keys in self._touched.items():
            stored = self._stored.get(entity, set())
            rows = self._rows[entity]
            for key in keys:
                target = updates if key in stored else inserts
                target.setdefault(entity, []).append(rows[key])
        return Changes(inserts, updates, self._deltas())

    def _of(self, account: LedgerAccount) -> "_Moved":
        moved = self._moved.get(account.id)
        if moved is None:
            moved = self._moved[account.id] = _Moved(account)
        return moved

    def _deltas(self) -> list[LedgerAccount]:
        return [
            LedgerAccount(*moved.account[:-2], moved.debits_minor, moved.credits_minor)
            for moved in self._moved.values()
        ]

    def _was_loaded(self, lookup: Lookup | None, key: Hashable) -> bool:
        return lookup is not None and key in self._loaded.get(lookup, frozenset())

    def _place(self, row: Entity) -> None:
        kind, key = type(row), row.key
        self._rows.setdefault(kind, {})[key] = row
        for columns, lookup in _INDEXED.get(kind, ()):
            self._index.setdefault(lookup, {}).setdefault(_columns(row, columns), {})[key] = None


def _columns(row: Entity, columns: tuple[str, ...]) -> Hashable:
    if len(columns) == 1:
        return cast("Hashable", getattr(row, columns[0]))
    return tuple(getattr(row, column) for column in columns)


def drafts(rows: Iterable[Invoice]) -> list[Invoice]:
    """Of rows found by a draft lookup, those that are still drafts: the batch may have issued some."""
    return [row for row in rows if row.status == "draft"]
