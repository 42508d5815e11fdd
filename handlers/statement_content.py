"""From the rows of a chunk to the content of its statements. Pure, but for what it is given."""

from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres import statement_rows as rows
from adapters.postgres.statement_rows import AccountRow, ActivityPosting, InvoiceBalance
from domain.statement import Addressee, Issuer, OpenInvoice, PartyPosting, StatementContent, Subject, build
from domain.statement_parties import PartyBalance, balances, payer
from handlers.statement_run import Run
from schemas.account import PartyKind
from schemas.statement_job import StatementItem
from schemas.tenant import Locale, StatementProfile, TenantProfile

_NOTHING = PartyBalance("", 0, 0, 0, False)
# Asked first where a tenant gave no lines in the reader's language.
_FALLBACK_LOCALES: tuple[Locale, ...] = ("en", "fa-AF", "ps", "ar")


class ChunkRows(NamedTuple):
    """Everything about the accounts of a chunk, read in one transaction. `recorded` are statements that are done."""

    accounts: dict[UUID, AccountRow]
    payers: dict[UUID, str]
    billed: dict[UUID, dict[str, PartyKind]]
    balances: dict[UUID, dict[str, PartyBalance]]
    activity: dict[UUID, list[ActivityPosting]]
    invoices: dict[UUID, list[InvoiceBalance]]
    recorded: set[UUID]


async def load_chunk(connection: AsyncConnection, run: Run, items: tuple[StatementItem, ...]) -> ChunkRows:
    """Six statements, whatever the number of accounts."""
    tenant_id, cut = run.cut.tenant_id, run.cut
    ids = sorted({item.account_id for item in items})
    accounts = await rows.accounts(connection, tenant_id, ids)
    billed = await rows.billed(connection, tenant_id, ids)
    sub_ledgers = await rows.sub_ledgers(connection, cut, ids)
    payers = {each: payer(account.parties, billed.get(each, {})) for each, account in accounts.items()}
    return ChunkRows(
        accounts=accounts,
        payers=payers,
        billed=billed,
        balances={each: balances(sub_ledgers.get(each, ()), payer_id) for each, payer_id in payers.items()},
        activity=await rows.activity(connection, cut, ids),
        invoices=await rows.invoices(connection, cut, ids),
        recorded=await rows.recorded(
            connection, tenant_id, [run.statement_id(item.account_id, item.party_id) for item in items]
        ),
    )


def content_of(run: Run, chunk: ChunkRows, item: StatementItem, tenant: TenantProfile) -> StatementContent:
    """The statement of one party. Raises StatementMismatch where ledger and invoices contradict each other."""
    account, party_id = chunk.accounts[item.account_id], item.party_id
    balance = chunk.balances[account.id].get(party_id, _NOTHING)
    mine = [each for each in chunk.invoices.get(account.id, ()) if each.party_id == party_id]
    # An invoice paid before its own date, and the period ends in between: the money is in the party's favour until then.
    paid_ahead_minor = sum(-each.net_minor for each in mine if each.net_minor < 0)
    return build(
        _subject(run, chunk, account, party_id, tenant),
        opening_minor=balance.opening_minor,
        postings=[
            _posting(each)
            for each in chunk.activity.get(account.id, ())
            if (each.party_id or chunk.payers[account.id]) == party_id
        ],
        open_invoices=[_invoice(each) for each in mine if each.net_minor > 0],
        unapplied_credit_minor=balance.unapplied_credit_minor + paid_ahead_minor,
    )


def reference(run: Run, statement_id: UUID) -> str:
    """What a reader quotes: short, and unique enough to find the statement by."""
    return f"ST-{run.period}-{statement_id.hex[-8:].upper()}"


def _subject(run: Run, chunk: ChunkRows, account: AccountRow, party_id: str, tenant: TenantProfile) -> Subject:
    party = next((party for party in account.parties if party.party_id == party_id), None)
    kind = party.kind if party else chunk.billed.get(account.id, {}).get(party_id, "patient")
    return Subject(
        reference=reference(run, run.statement_id(account.id, party_id)),
        issuer=issuer(tenant, account.locale),
        account_id=account.id,
        patient=account.patient,
        addressee=Addressee(party_id, kind, party.name if party else None, party.policy_number if party else None),
        currency=account.currency,
        starts_on=run.cut.starts_on,
        ends_on=run.cut.ends_on,
    )


def issuer(tenant: TenantProfile, locale: Locale) -> Issuer:
    """The letterhead in the reader's language, or in another one the tenant gave."""
    given = tenant.statement or StatementProfile()
    order = (locale, *_FALLBACK_LOCALES)
    return Issuer(
        name=next((given.names[each] for each in order if each in given.names), tenant.name),
        legal_lines=next((given.legal_lines[each] for each in order if each in given.legal_lines), ()),
        payment_instructions=next(
            (given.payment_instructions[each] for each in order if each in given.payment_instructions), ()
        ),
    )


def _posting(row: ActivityPosting) -> PartyPosting:
    return PartyPosting(
        sequence=row.sequence,
        effective_on=row.effective_on,
        kind=row.kind,
        document_id=row.document_id,
        document_number=row.document_number,
        description=None,
        debit_minor=max(row.net_minor, 0),
        credit_minor=max(-row.net_minor, 0),
    )


def _invoice(row: InvoiceBalance) -> OpenInvoice:
    return OpenInvoice(row.number, row.invoice_date, row.due_on, row.total_minor, row.net_minor)
