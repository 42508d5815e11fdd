"""Billing accounts: open, update, close."""

from domain.chart import RECEIVABLE, UNAPPLIED_CREDIT
from domain.decision import Accepted, Capability, Command, Decision, Event, Rejected, rejected
from domain.entities import Account
from domain.gateway_entities import LIVE
from domain.lookups import (
    ACCOUNT,
    DRAFTS_OF_ACCOUNT,
    LEDGER_ACCOUNTS_OF_ACCOUNT,
    LIVE_HOLDS_OF_ACCOUNT,
    OPEN_CHARGES_OF_ACCOUNT,
)
from domain.snapshot import Needs, Snapshot, drafts
from schemas.account import AccountEvent, AccountResult, CloseAccount, OpenAccount, Party, UpdateAccount
from schemas.codes import Code

WHOLE = 10_000  # basis points
THE_PATIENT = (Party(party_id="patient", kind="patient", share_basis_points=WHOLE),)


def account_event(name: str, account: Account) -> Event:
    data = AccountEvent(
        account_id=account.id,
        patient=account.patient,
        currency=account.currency,
        status=account.status,
        parties=account.parties,
    )
    return Event(name, str(account.id), data)


def parties_refusal(parties: tuple[Party, ...]) -> Rejected | None:
    if len({party.party_id for party in parties}) != len(parties):
        return rejected(Code.DUPLICATE_REFERENCE, field="parties")
    total = sum(party.share_basis_points for party in parties)
    return None if total == WHOLE else rejected(Code.PARTY_SHARES_INVALID, sum_basis_points=total)


def needs_open(command: Command[OpenAccount]) -> Needs:
    return [(ACCOUNT, command.body.account_id)] if command.body.account_id else []


def decide_open(snapshot: Snapshot, command: Command[OpenAccount]) -> Decision:
    body = command.body
    parties = body.parties or THE_PATIENT
    if refusal := parties_refusal(parties):
        return refusal
    if body.account_id and snapshot.get(Account, body.account_id):
        return rejected(Code.ALREADY_EXISTS, account_id=str(body.account_id))
    account = Account(
        id=body.account_id or command.derive("account"),
        patient=body.patient,
        guarantor=body.guarantor,
        currency=body.currency,
        locale=body.locale,
        status="open",
        parties=parties,
        recorded_at=command.recorded_at,
    )
    return _accepted("account.opened", account)


def needs_update(command: Command[UpdateAccount]) -> Needs:
    return [(ACCOUNT, command.body.account_id)]


def decide_update(snapshot: Snapshot, command: Command[UpdateAccount]) -> Decision:
    body = command.body
    if body.parties and (refusal := parties_refusal(body.parties)):
        return refusal
    account = snapshot.get(Account, body.account_id)
    if account is None:
        return rejected(Code.ACCOUNT_NOT_FOUND, account_id=str(body.account_id))
    if account.status == "closed" and not body.reopen:
        return rejected(Code.ACCOUNT_CLOSED, account_id=str(account.id))
    changed = account._replace(
        status="open",
        guarantor=body.guarantor or account.guarantor,
        locale=body.locale or account.locale,
        parties=body.parties or account.parties,
    )
    return _accepted("account.updated", changed)


def needs_close(command: Command[CloseAccount]) -> Needs:
    account_id = command.body.account_id
    return [
        (ACCOUNT, account_id),
        (LEDGER_ACCOUNTS_OF_ACCOUNT, account_id),
        (OPEN_CHARGES_OF_ACCOUNT, account_id),
        (DRAFTS_OF_ACCOUNT, account_id),
        (LIVE_HOLDS_OF_ACCOUNT, account_id),
    ]


def decide_close(snapshot: Snapshot, command: Command[CloseAccount]) -> Decision:
    account_id = command.body.account_id
    account = snapshot.get(Account, account_id)
    if account is None:
        return rejected(Code.ACCOUNT_NOT_FOUND, account_id=str(account_id))
    if account.status == "closed":
        return rejected(Code.ACCOUNT_CLOSED, account_id=str(account_id))
    open_charges = [row for row in snapshot.find(OPEN_CHARGES_OF_ACCOUNT, account_id) if row.status == "open"]
    if open_charges or drafts(snapshot.find(DRAFTS_OF_ACCOUNT, account_id)):
        return rejected(Code.ACCOUNT_HAS_OPEN_CHARGES, account_id=str(account_id))
    if any(hold.status in LIVE for hold in snapshot.find(LIVE_HOLDS_OF_ACCOUNT, account_id)):
        return rejected(Code.ACCOUNT_HAS_HOLDS, account_id=str(account_id))
    if not _is_square(snapshot, account):
        return rejected(Code.ACCOUNT_HAS_BALANCE, account_id=str(account_id))
    return _accepted("account.closed", account._replace(status="closed"))


def _is_square(snapshot: Snapshot, account: Account) -> bool:
    """Nothing owed by any party and no credit held. Parties net to zero only if each does: no receivable is negative."""
    balances = snapshot.balance_of_account(account.id)
    return not balances.get(RECEIVABLE) and not balances.get(UNAPPLIED_CREDIT)


def _accepted(event: str, account: Account) -> Accepted:
    result = AccountResult(account_id=account.id, status=account.status)
    return Accepted(result, (account_event(event, account),), (account,))


CAPABILITIES = {
    "account.open": Capability(needs_open, decide_open),
    "account.update": Capability(needs_update, decide_update),
    "account.close": Capability(needs_close, decide_close),
}
