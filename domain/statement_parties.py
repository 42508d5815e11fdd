"""Who gets a statement of an account, and whose its unapplied credit is. Amounts are minor units, positive where owed."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from domain.chart import RECEIVABLE
from schemas.account import Party, PartyKind


class SubLedger(NamedTuple):
    """Debits less credits of one sub-ledger account before and until the end of the period. `party_id` is the debtor of a
    receivable, and on unapplied credit the payer where the payment named one. `moved`: something was posted in the period."""

    account_id: UUID
    code: str
    party_id: str | None
    opening_minor: int
    closing_minor: int
    moved: bool


@dataclass(frozen=True, slots=True)
class PartyBalance:
    """What one party of an account owes, its credit deducted."""

    party_id: str
    opening_minor: int
    closing_minor: int
    unapplied_credit_minor: int
    moved: bool


def payer(parties: Iterable[Party], kinds: Mapping[str, PartyKind]) -> str:
    """Whose the money is that nobody was named for: the patient's, else the first party's that was ever billed.

    `kinds` has the billed parties, from their invoices, which never change; an account that was never billed falls back on
    the parties it has now.
    """
    if kinds:
        return min(kinds, key=lambda party_id: (kinds[party_id] != "patient", party_id))
    return next((party for party in parties if party.kind == "patient"), next(iter(parties))).party_id


def balances(rows: Iterable[SubLedger], payer_id: str) -> dict[str, PartyBalance]:
    """The sub-ledgers of one account by party; credit nobody was named for is `payer_id`'s."""
    found: dict[str, PartyBalance] = {}
    for row in rows:
        party_id = row.party_id or payer_id
        before = found.get(party_id) or PartyBalance(party_id, 0, 0, 0, False)
        found[party_id] = PartyBalance(
            party_id,
            before.opening_minor + row.opening_minor,
            before.closing_minor + row.closing_minor,
            before.unapplied_credit_minor - (0 if row.code == RECEIVABLE else row.closing_minor),
            before.moved or row.moved,
        )
    return found


def recipients(found: Mapping[str, PartyBalance], payer_id: str, *, named: bool) -> Collection[str]:
    """Parties with activity in the period or a balance at its end; of an account asked for by name, one at least."""
    chosen = sorted(party_id for party_id, balance in found.items() if balance.moved or balance.closing_minor)
    return chosen or ([payer_id] if named else [])
