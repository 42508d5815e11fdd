"""Queries about the ledger: its entries and its trial balance."""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    Subquery,
    and_,
    bindparam,
    cast,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import chart_entry, ledger_account, ledger_transfer
from domain.chart import TEMPLATE
from schemas.base import Cursor
from schemas.ledger import ListTransfers, TransferPage, TransferView, TrialBalance, TrialBalanceLine, TrialBalanceView
from schemas.outcome import Problem

_DEBIT, _CREDIT = ledger_account.alias("debit"), ledger_account.alias("credit")
_TRANSFERS = (
    select(ledger_transfer, _DEBIT.c.code.label("debit_code"), _CREDIT.c.code.label("credit_code"))
    .join(
        _DEBIT,
        and_(_DEBIT.c.tenant_id == ledger_transfer.c.tenant_id, _DEBIT.c.id == ledger_transfer.c.debit_account_id),
    )
    .join(
        _CREDIT,
        and_(_CREDIT.c.tenant_id == ledger_transfer.c.tenant_id, _CREDIT.c.id == ledger_transfer.c.credit_account_id),
    )
    .where(owned(ledger_transfer))
)
_NEWEST_FIRST = Keyset.by_sequence(ledger_transfer.c.sequence)
_SUB_LEDGER_IDS = select(ledger_account.c.id).where(
    owned(ledger_account), ledger_account.c.account_id == bindparam("account_id")
)
_CHART = select(chart_entry.c.code, chart_entry.c.name, chart_entry.c.kind).where(owned(chart_entry))


async def transfers(asking: Asking, query: ListTransfers) -> TransferPage | Problem:
    if query.account_id is not None:
        return await account_transfers(asking, query.account_id, query, document_id=query.document_id)
    return await _page(asking, _TRANSFERS, query, document_id=query.document_id)


async def account_transfers(
    asking: Asking, account_id: UUID, query: Cursor, document_id: UUID | None = None
) -> TransferPage | Problem:
    """The entries that touch a billing account's sub-ledgers (receivables and credit), newest first."""
    found = await asking.connection.execute(_SUB_LEDGER_IDS, {**asking.parameters, "account_id": account_id})
    # As an array rather than a subquery: each side is then an index condition, and the two combine as bitmaps.
    ids = bindparam("sub_ledgers", type_=ARRAY(PG_UUID))
    touching = _TRANSFERS.where(
        or_(
            ledger_transfer.c.debit_account_id == func.any(ids),
            ledger_transfer.c.credit_account_id == func.any(ids),
        )
    )
    return await _page(asking, touching, query, document_id=document_id, sub_ledgers=list(found.scalars()))


async def _page(
    asking: Asking, statement: Select[Any], query: Cursor, document_id: UUID | None, **parameters: Any
) -> TransferPage | Problem:
    if document_id is not None:
        statement = statement.where(ledger_transfer.c.document_id == bindparam("document_id"))
        parameters["document_id"] = document_id
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **asking.parameters, **parameters)
    if isinstance(found, Problem):
        return found
    return TransferPage(items=tuple(_view(row) for row in found.rows), next_cursor=found.next_cursor)


async def trial_balance(asking: Asking, query: TrialBalance) -> TrialBalanceView:
    """Now: the running balances. At a date: the postings effective on or before it, which takes a scan of them."""
    parameters: dict[str, Any] = dict(asking.parameters)
    statement = _RUNNING
    if query.as_of is not None:
        statement = _AS_OF
        parameters["ends_on"] = query.as_of
    rows = (await asking.connection.execute(statement, parameters)).all()
    chart = await chart_of(asking)
    return TrialBalanceView(as_of=query.as_of, lines=tuple(_line(row, chart) for row in rows))


async def chart_of(asking: Asking) -> dict[str, tuple[str, str]]:
    """Name and kind per ledger code: the template every tenant starts with, and the tenant's own entries over it."""
    rows = (await asking.connection.execute(_CHART, asking.parameters)).all()
    return {**TEMPLATE, **{row.code: (row.name, row.kind) for row in rows}}


def postings(*conditions: ColumnElement[bool]) -> Subquery:
    """(ledger_account_id, debits_minor, credits_minor): the transfers that match, summed per ledger account."""
    amount, none = ledger_transfer.c.amount_minor, literal(0, BigInteger)
    debits = select(ledger_transfer.c.debit_account_id.label("id"), amount.label("debits"), none.label("credits"))
    credits = select(ledger_transfer.c.credit_account_id, none, amount)
    sides = union_all(*(side.where(owned(ledger_transfer), *conditions) for side in (debits, credits))).subquery()
    return (
        select(
            sides.c.id.label("ledger_account_id"),
            func.sum(sides.c.debits).label("debits_minor"),
            func.sum(sides.c.credits).label("credits_minor"),
        )
        .group_by(sides.c.id)
        .subquery()
    )


def per_code(totals: Any) -> Select[Any]:
    """`totals` per ledger account, summed per ledger code and currency. numeric sums come back as int64."""
    code, currency = ledger_account.c.code, ledger_account.c.currency
    sums = (cast(func.sum(column), BigInteger) for column in (totals.c.debits_minor, totals.c.credits_minor))
    debits, credits = sums
    return (
        select(code, currency, debits.label("debits_minor"), credits.label("credits_minor"))
        .where(owned(ledger_account))
        .group_by(code, currency)
        .order_by(code, currency)
    )


_RUNNING = per_code(ledger_account)
_UNTIL = postings(ledger_transfer.c.effective_on <= bindparam("ends_on"))
_AS_OF = per_code(_UNTIL).join(_UNTIL, _UNTIL.c.ledger_account_id == ledger_account.c.id)


def _line(row: Row[Any], chart: dict[str, tuple[str, Any]]) -> TrialBalanceLine:
    name, kind = chart[row.code]
    return TrialBalanceLine(
        code=row.code,
        name=name,
        kind=kind,
        currency=row.currency,
        debits_minor=row.debits_minor,
        credits_minor=row.credits_minor,
    )


def _view(row: Row[Any]) -> TransferView:
    return TransferView(
        sequence=row.sequence,
        transfer_id=row.id,
        kind=row.kind,
        debit_code=row.debit_code,
        credit_code=row.credit_code,
        amount_minor=row.amount_minor,
        currency=row.currency,
        effective_on=row.effective_on,
        recorded_at=row.recorded_at,
        document_id=row.document_id,
        reverses_document_id=row.reverses_document_id,
        hash=row.hash.hex(),
    )
