"""The rows a statement run reads, set-based over a page or chunk of accounts.

Everything but names is a function of the cut: ledger rows up to a sequence are never changed, invoices and allocations that
belong to them neither. What is mutable on an invoice (paid, credited) is therefore not read but summed up from the ledger and
the allocations, so that a statement that is rendered again, after whatever was posted meanwhile, says the same.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Date, TextClause, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.contact import opened_parties
from domain.chart import RECEIVABLE, UNAPPLIED_CREDIT
from domain.statement_parties import SubLedger
from schemas.account import Party, PartyKind
from schemas.tenant import Locale


class Behind(Exception):
    """The server asked does not have the cut's last ledger row yet: a replica that lags."""


class Cut(NamedTuple):
    """What of a tenant's ledger a run sees: rows up to a sequence, effective until `ends_on`."""

    tenant_id: str
    starts_on: date
    ends_on: date
    upto_sequence: int


class AccountRow(NamedTuple):
    id: UUID
    patient: str
    currency: str
    locale: Locale
    parties: tuple[Party, ...]


class ActivityPosting(NamedTuple):
    """One side of a transfer on a sub-ledger of an account; `net_minor` is positive for a debit."""

    account_id: UUID
    party_id: str | None
    sequence: int
    effective_on: date
    kind: str
    document_id: UUID
    document_number: str | None
    net_minor: int


class InvoiceBalance(NamedTuple):
    """What an invoice adds to the receivable at the end of the period: negative where it was paid before its date."""

    account_id: UUID
    party_id: str
    number: str
    invoice_date: date
    due_on: date
    total_minor: int
    net_minor: int


# Both sides of every transfer that touches the sub-ledgers of the accounts, within the cut. One scan per side and account over
# ix_ledger_transfer_debit_account_id and …_credit_account_id.
_SIDES = """
WITH sub AS (
    SELECT id, account_id, code, party_id FROM ledger_account
    WHERE tenant_id = :tenant AND account_id = ANY(:accounts) AND code = ANY(:codes)
), side AS (
    SELECT sub.account_id, sub.code, sub.party_id, t.sequence, t.effective_on, t.recorded_at, t.kind, t.document_id,
        t.reverses_document_id, t.amount_minor AS net_minor
    FROM sub JOIN ledger_transfer t ON t.tenant_id = :tenant AND t.debit_account_id = sub.id
    WHERE t.sequence <= :upto AND t.effective_on <= :ends_on
    UNION ALL
    SELECT sub.account_id, sub.code, sub.party_id, t.sequence, t.effective_on, t.recorded_at, t.kind, t.document_id,
        t.reverses_document_id, -t.amount_minor
    FROM sub JOIN ledger_transfer t ON t.tenant_id = :tenant AND t.credit_account_id = sub.id
    WHERE t.sequence <= :upto AND t.effective_on <= :ends_on
)
"""
# A row on unapplied credit belongs to the payer of its payment; a refund or a credit note's release reverses that payment.
_PAYERS = """
LEFT JOIN payment p ON p.tenant_id = :tenant AND p.id = side.document_id
LEFT JOIN payment q ON q.tenant_id = :tenant AND q.id = side.reverses_document_id
"""
_PARTY = f"CASE side.code WHEN '{RECEIVABLE}' THEN side.party_id ELSE coalesce(p.party_id, q.party_id) END"

_ACCOUNTS_AFTER = """
SELECT DISTINCT account_id FROM ledger_account
WHERE tenant_id = :tenant AND account_id > :after ORDER BY account_id LIMIT :limit
"""
_ACCOUNTS = (
    "SELECT id, patient, currency, locale, parties FROM account WHERE tenant_id = :tenant AND id = ANY(:accounts)"
)
_BILLED = """
SELECT account_id, party_id, min(party_kind) AS kind FROM invoice
WHERE tenant_id = :tenant AND account_id = ANY(:accounts) AND number IS NOT NULL GROUP BY account_id, party_id
"""
_SUB_LEDGERS = f"""{_SIDES}
SELECT side.account_id, side.code, {_PARTY} AS party_id,
    coalesce(sum(side.net_minor) FILTER (WHERE side.effective_on < :starts_on), 0)::bigint AS opening_minor,
    sum(side.net_minor)::bigint AS closing_minor,
    bool_or(side.effective_on >= :starts_on) AS moved
FROM side {_PAYERS} GROUP BY 1, 2, 3
"""  # noqa: S608  constants of this module
_ACTIVITY = f"""{_SIDES}
SELECT side.account_id, {_PARTY} AS party_id, side.sequence, side.effective_on, side.kind, side.document_id,
    coalesce(i.number, n.number, p.reference, q.reference) AS document_number, side.net_minor
FROM side {_PAYERS}
LEFT JOIN invoice i ON i.tenant_id = :tenant AND i.id = side.document_id
LEFT JOIN credit_note n ON n.tenant_id = :tenant AND n.id = side.document_id
WHERE side.effective_on >= :starts_on
"""  # noqa: S608  constants of this module
# An allocation is within the cut if its command's posting is: both carry the time of the command, exact to the microsecond.
_INVOICES = f"""{_SIDES}, posted AS (
    SELECT CASE kind WHEN 'credit_note' THEN reverses_document_id ELSE document_id END AS invoice_id, sum(net_minor) AS net_minor
    FROM side WHERE kind IN ('invoice', 'invoice_void', 'write_off', 'credit_note') GROUP BY 1
), touched AS (
    SELECT DISTINCT account_id, party_id, recorded_at FROM side
), paid AS (
    SELECT a.invoice_id, sum(a.amount_minor) AS net_minor
    FROM invoice i
    JOIN allocation a ON a.tenant_id = :tenant AND a.invoice_id = i.id AND a.effective_on <= :ends_on
    JOIN touched t ON t.account_id = i.account_id AND t.party_id = i.party_id AND t.recorded_at = a.recorded_at
    WHERE i.tenant_id = :tenant AND i.account_id = ANY(:accounts) GROUP BY 1
)
SELECT i.account_id, i.party_id, i.number, i.invoice_date, i.due_on, i.total_minor,
    (coalesce(posted.net_minor, 0) - coalesce(paid.net_minor, 0))::bigint AS net_minor
FROM posted FULL JOIN paid USING (invoice_id)
JOIN invoice i ON i.tenant_id = :tenant AND i.id = invoice_id
WHERE coalesce(posted.net_minor, 0) <> coalesce(paid.net_minor, 0)
"""  # noqa: S608  constants of this module
_LEDGER_SEQUENCE = "SELECT ledger_sequence FROM tenant_book WHERE tenant_id = :tenant"
_RECORDED = "SELECT id FROM statement WHERE tenant_id = :tenant AND id = ANY(:statements)"


async def check_reached(connection: AsyncConnection, cut: Cut) -> None:
    """Raises Behind where the server does not have the whole cut."""
    reached = await connection.scalar(text(_LEDGER_SEQUENCE), {"tenant": cut.tenant_id})
    if (reached or 0) < cut.upto_sequence:
        raise Behind


async def accounts_after(connection: AsyncConnection, tenant_id: str, after: UUID, limit: int) -> list[UUID]:
    """The next accounts, in order of id, that anything was ever posted for."""
    parameters = {"tenant": tenant_id, "after": after, "limit": limit}
    return list((await connection.execute(_typed(_ACCOUNTS_AFTER, "after"), parameters)).scalars())


async def accounts(connection: AsyncConnection, tenant_id: str, ids: Sequence[UUID]) -> dict[UUID, AccountRow]:
    """The accounts there are; ids nobody opened are left out."""
    rows = await connection.execute(_typed(_ACCOUNTS), {"tenant": tenant_id, "accounts": list(ids)})
    return {
        # The driver's own UUID type is not JSON to everybody.
        row.id: AccountRow(
            UUID(int=row.id.int),
            row.patient,
            row.currency,
            row.locale,
            _parties(opened_parties(tenant_id, row.id, row.parties)),
        )
        for row in rows.all()
    }


async def billed(connection: AsyncConnection, tenant_id: str, ids: Sequence[UUID]) -> dict[UUID, dict[str, PartyKind]]:
    """The parties an account has numbered invoices of, with the kind they were billed as."""
    rows = await connection.execute(_typed(_BILLED), {"tenant": tenant_id, "accounts": list(ids)})
    found: dict[UUID, dict[str, PartyKind]] = {}
    for row in rows.all():
        found.setdefault(row.account_id, {})[row.party_id] = row.kind
    return found


async def sub_ledgers(connection: AsyncConnection, cut: Cut, ids: Sequence[UUID]) -> dict[UUID, list[SubLedger]]:
    rows = await connection.execute(_typed(_SUB_LEDGERS), _of_cut(cut, ids))
    return _by_account([SubLedger(*row) for row in rows.all()])


async def activity(connection: AsyncConnection, cut: Cut, ids: Sequence[UUID]) -> dict[UUID, list[ActivityPosting]]:
    """What was posted in the period, on receivables and unapplied credit alike."""
    rows = await connection.execute(_typed(_ACTIVITY), _of_cut(cut, ids))
    return _by_account([ActivityPosting(*row) for row in rows.all()])


async def invoices(connection: AsyncConnection, cut: Cut, ids: Sequence[UUID]) -> dict[UUID, list[InvoiceBalance]]:
    """The invoices that are not nought at the end of the period. Per account and party they sum to its receivable."""
    rows = await connection.execute(_typed(_INVOICES), _of_cut(cut, ids) | {"codes": [RECEIVABLE]})
    return _by_account([InvoiceBalance(*row) for row in rows.all()])


async def recorded(connection: AsyncConnection, tenant_id: str, statement_ids: Sequence[UUID]) -> set[UUID]:
    """Which of the statements have been recorded."""
    parameters = {"tenant": tenant_id, "statements": list(statement_ids)}
    return set((await connection.execute(_typed(_RECORDED, "statements"), parameters)).scalars())


def _of_cut(cut: Cut, ids: Sequence[UUID]) -> dict[str, Any]:
    return {
        "tenant": cut.tenant_id,
        "accounts": list(ids),
        "codes": [RECEIVABLE, UNAPPLIED_CREDIT],
        "starts_on": cut.starts_on,
        "ends_on": cut.ends_on,
        "upto": cut.upto_sequence,
    }


_TYPES: dict[str, Any] = {
    "accounts": ARRAY(Uuid()),
    "statements": ARRAY(Uuid()),
    "after": Uuid(),
    "starts_on": Date(),
    "ends_on": Date(),
}


def _typed(statement: str, *names: str) -> TextClause:
    """The statement with the types of its parameters where the driver would have to guess them."""
    used = [name for name in _TYPES if f":{name}" in statement]
    return text(statement).bindparams(*(bindparam(name, type_=_TYPES[name]) for name in {*used, *names}))


def _parties(stored: list[dict[str, Any]]) -> tuple[Party, ...]:
    return tuple(Party(**party) for party in stored)


def _by_account(rows: Sequence[Any]) -> dict[UUID, list[Any]]:
    found: dict[UUID, list[Any]] = {}
    for row in rows:
        found.setdefault(row.account_id, []).append(row)
    return found
