"""Queries about billing accounts."""

from typing import Any

from sqlalchemy import Row, bindparam, func, select

from adapters.postgres.contact import opened, opened_parties
from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.holds import held_minor
from adapters.postgres.reads.ledger import account_transfers
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import account, charge, ledger_account
from domain.chart import RECEIVABLE, UNAPPLIED_CREDIT
from schemas.account import (
    AccountActivity,
    AccountBalance,
    AccountPage,
    AccountView,
    GetAccount,
    ListAccounts,
    Party,
    PartyBalance,
)
from schemas.codes import Code
from schemas.ledger import TransferPage
from schemas.outcome import Problem, problem

_ACCOUNTS = select(account).where(owned(account))
_ACCOUNT = _ACCOUNTS.where(account.c.id == bindparam("account_id"))
_NEWEST_FIRST = Keyset.by_time(account.c.recorded_at, account.c.id)

_NET_DEBIT = ledger_account.c.debits_minor - ledger_account.c.credits_minor
_SUB_LEDGERS = select(ledger_account.c.code, ledger_account.c.party_id, _NET_DEBIT.label("net_debit_minor")).where(
    owned(ledger_account), ledger_account.c.account_id == bindparam("account_id")
)
_UNINVOICED = select(func.coalesce(func.sum(charge.c.net_minor), 0)).where(
    owned(charge), charge.c.account_id == bindparam("account_id"), charge.c.status == "open"
)


async def get(asking: Asking, query: GetAccount) -> AccountView | Problem:
    row = await _account(asking, query.account_id)
    return _view(asking.tenant_id, row) if row is not None else problem(Code.ACCOUNT_NOT_FOUND)


async def listed(asking: Asking, query: ListAccounts) -> AccountPage | Problem:
    statement, parameters = _ACCOUNTS, dict[str, Any](asking.parameters)
    if query.patient is not None:
        statement = statement.where(account.c.patient == bindparam("patient"))
        parameters["patient"] = query.patient
    if query.status is not None:
        statement = statement.where(account.c.status == bindparam("status"))
        parameters["status"] = query.status
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    return AccountPage(items=tuple(_view(asking.tenant_id, row) for row in found.rows), next_cursor=found.next_cursor)


async def balance(asking: Asking, query: GetAccount) -> AccountBalance | Problem:
    """Receivable and credit are running balances of the account's sub-ledgers; a party appears once it was billed."""
    row = await _account(asking, query.account_id)
    if row is None:
        return problem(Code.ACCOUNT_NOT_FOUND)
    parameters = {**asking.parameters, "account_id": query.account_id}
    sub_ledgers = (await asking.connection.execute(_SUB_LEDGERS, parameters)).all()
    parties: dict[str, int] = {}
    unapplied = 0
    for sub_ledger in sub_ledgers:
        if sub_ledger.code == RECEIVABLE:
            parties[sub_ledger.party_id] = parties.get(sub_ledger.party_id, 0) + sub_ledger.net_debit_minor
        elif sub_ledger.code == UNAPPLIED_CREDIT:
            unapplied -= sub_ledger.net_debit_minor
    return AccountBalance(
        account_id=query.account_id,
        currency=row.currency,
        receivable_minor=sum(parties.values()),
        unapplied_credit_minor=unapplied,
        uninvoiced_minor=int((await asking.connection.execute(_UNINVOICED, parameters)).scalar_one()),
        held_minor=await held_minor(asking, query.account_id),
        parties=tuple(
            PartyBalance(party_id=party_id, receivable_minor=owed) for party_id, owed in sorted(parties.items())
        ),
    )


async def activity(asking: Asking, query: AccountActivity) -> TransferPage | Problem:
    if await _account(asking, query.account_id) is None:
        return problem(Code.ACCOUNT_NOT_FOUND)
    return await account_transfers(asking, query.account_id, query)


async def _account(asking: Asking, account_id: Any) -> Row[Any] | None:
    found = await asking.connection.execute(_ACCOUNT, {**asking.parameters, "account_id": account_id})
    return found.one_or_none()


def _view(tenant_id: str, row: Row[Any]) -> AccountView:
    return AccountView(
        account_id=row.id,
        patient=row.patient,
        guarantor=opened(tenant_id, row.id, row.guarantor),
        currency=row.currency,
        locale=row.locale,
        status=row.status,
        parties=tuple(Party(**party) for party in opened_parties(tenant_id, row.id, row.parties)),
        opened_at=row.recorded_at,
    )
