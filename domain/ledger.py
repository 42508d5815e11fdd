"""The ledger: how postings become numbered, hash-chained transfers."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from domain.decision import Command, LedgerKey, Posting
from domain.entities import Book, LedgerAccount, Transfer
from domain.ids import ledger_account_id
from domain.snapshot import Snapshot

GENESIS = bytes(32)
HASH_VERSION = 1


def transfer_hash(previous: bytes, tenant_id: str, transfer: Transfer) -> bytes:
    """SHA-256 over the previous hash and the canonical form of a transfer.

    Version 1: the fields below joined by "|", none of which can contain it (ids, codes, integers, ISO 8601 dates; times in
    microseconds since the epoch), in UTF-8. A change of form is a new `hash_version`, never a change of this one.
    """
    moment = transfer.recorded_at
    microseconds = int(moment.timestamp()) * 1_000_000 + moment.microsecond
    canonical = (
        f"{transfer.hash_version}|{tenant_id}|{transfer.sequence}|{transfer.id}|{transfer.debit_account_id}|"
        f"{transfer.credit_account_id}|{transfer.amount_minor}|{transfer.currency}|{transfer.kind}|{transfer.document_id}|"
        f"{transfer.reverses_document_id or ''}|{transfer.effective_on}|{microseconds}|{transfer.command_id}|"
        f"{transfer.event_sequence}"
    )
    return sha256(previous + canonical.encode()).digest()


def post(
    snapshot: Snapshot, book: Book, command: Command[Any], postings: Iterable[Posting], event_sequence: int
) -> Book:
    """Appends the postings of one command to the tenant's chain; returns the book with its new head."""
    tenant_id = command.tenant.tenant_id
    sequence, head = book.ledger_sequence, book.ledger_head
    for posting in postings:
        sequence += 1
        debit, credit = _account(tenant_id, posting.debit), _account(tenant_id, posting.credit)
        unhashed = Transfer(
            sequence=sequence,
            id=command.derive("transfer", str(sequence)),
            debit_account_id=debit.id,
            credit_account_id=credit.id,
            amount_minor=posting.amount_minor,
            currency=posting.debit.currency,
            kind=posting.kind,
            document_id=posting.document_id,
            reverses_document_id=posting.reverses_document_id,
            effective_on=posting.effective_on,
            recorded_at=command.recorded_at,
            command_id=command.command_id,
            event_sequence=event_sequence,
            hash_version=HASH_VERSION,
            hash=b"",
        )
        head = transfer_hash(head, tenant_id, unhashed)
        snapshot.post(debit, credit, Transfer(*unhashed[:-1], head))  # the hash is its last field
    return Book(sequence, head, book.event_sequence, book.command_sequence)


def check(postings: Iterable[Posting]) -> None:
    """Asserts what every capability must get right. Raises ValueError: such a posting is a bug, not a refusal."""
    for posting in postings:
        if posting.amount_minor <= 0:
            raise ValueError(f"{posting.kind}: a posting needs an amount above zero")
        if posting.debit.currency != posting.credit.currency or posting.debit == posting.credit:
            raise ValueError(f"{posting.kind}: debit and credit need one currency and different accounts")


def _account(tenant_id: str, key: LedgerKey) -> LedgerAccount:
    return LedgerAccount(ledger_account_id(tenant_id, *key), *key, 0, 0)
