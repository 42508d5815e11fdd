"""Contact data of guarantors: sealed in the table, plain for everybody who may read it, and useless with any other key."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from adapters.contact_keys import ContactKeyError, ContactKeys, Place
from adapters.postgres import contact
from adapters.postgres.database import Database
from adapters.postgres.errors import transient
from adapters.postgres.load import load
from adapters.postgres.reads import accounts
from adapters.postgres.reads.asking import Asking
from adapters.postgres.save import save
from adapters.postgres.statement_rows import accounts as statement_accounts
from adapters.settings import SettingsError
from domain import lookups
from domain.entities import Account
from schemas.account import AccountView, GetAccount
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.postgres_samples import DAY, PARTIES, TEXT, account, inserting, updating

GUARANTOR = "Ahmad Zmarai, 0700 123456"


def _line(key_id: str, byte: int) -> str:
    return f"{key_id} {base64.b64encode(bytes([byte]) * 32).decode()}\n"


OLD, NEW = _line("2026-01", 1), _line("2026-07", 2)


class Keys:
    def __init__(self, path: Path) -> None:
        self.path = path

    def hold(self, text: str) -> None:
        new = self.path.with_name("new")
        new.write_text(text)
        new.rename(self.path)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    """The process's key file; none again afterwards."""
    held = Keys(tmp_path / "CONTACT_KEYS")
    held.hold(OLD)
    contact.use_file(held.path)
    yield held
    contact.use(None)


@pytest.fixture
async def app(database: ModuleDatabase) -> AsyncIterator[Database]:
    opened = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    yield opened
    await opened.close()


async def _stored(database: ModuleDatabase, account_id: UUID) -> tuple[str, str]:
    connection = await asyncpg.connect(database.dsn("postgres"))
    try:
        found = await connection.fetchrow("SELECT guarantor, parties::text FROM account WHERE id = $1", account_id)
    finally:
        await connection.close()
    assert found is not None
    return found[0], found[1]


async def _write(app: Database, tenant: str, row: Account, *, new: bool = True) -> None:
    async with app.transaction(tenant) as transaction:
        await save(transaction.connection, tenant, inserting(row) if new else updating(row))


async def _read(app: Database, tenant: str, account_id: UUID) -> Account:
    async with app.transaction(tenant) as transaction:
        snapshot = await load(transaction.connection, tenant, {lookups.ACCOUNT: {account_id}})
    found = snapshot.get(Account, account_id)
    assert found is not None
    return found


async def _view(app: Database, tenant: str, account_id: UUID) -> AccountView:
    async with app.reading(tenant) as connection:
        found = await accounts.get(Asking(connection, tenant, DAY), GetAccount(account_id=account_id))
    assert isinstance(found, AccountView)
    return found


async def test_sealed_in_the_table_and_plain_for_every_reader(
    app: Database, database: ModuleDatabase, tenant: str, keys: Keys
) -> None:
    row = account(guarantor=GUARANTOR, parties=PARTIES)
    await _write(app, tenant, row)
    guarantor, parties = await _stored(database, row.id)
    assert guarantor.startswith("\x011:2026-01:")
    assert GUARANTOR not in guarantor + parties
    assert TEXT not in json.dumps(json.loads(parties), ensure_ascii=False)
    assert [party["share_basis_points"] for party in json.loads(parties)] == [p.share_basis_points for p in PARTIES]
    assert await _read(app, tenant, row.id) == row
    view = await _view(app, tenant, row.id)
    assert (view.guarantor, view.parties) == (GUARANTOR, PARTIES)
    async with app.reading(tenant) as connection:
        found = await statement_accounts(connection, tenant, [row.id])
    assert found[row.id].parties == PARTIES


async def test_the_same_command_gives_the_same_bytes(
    app: Database, database: ModuleDatabase, tenant: str, keys: Keys
) -> None:
    """A rebuild from the stream is compared byte by byte."""
    row = account(guarantor=GUARANTOR, parties=PARTIES)
    await _write(app, tenant, row)
    before = await _stored(database, row.id)
    await _write(app, tenant, row, new=False)
    assert await _stored(database, row.id) == before
    other = account(guarantor=GUARANTOR, parties=PARTIES)
    await _write(app, tenant, other)
    assert (await _stored(database, other.id))[0] != before[0]


async def test_rows_from_before_there_were_keys(
    app: Database, database: ModuleDatabase, tenant: str, keys: Keys
) -> None:
    contact.use(None)
    row = account(guarantor=GUARANTOR, parties=PARTIES)
    await _write(app, tenant, row)
    assert (await _stored(database, row.id))[0] == GUARANTOR
    contact.use_file(keys.path)
    assert await _read(app, tenant, row.id) == row
    assert (await _view(app, tenant, row.id)).guarantor == GUARANTOR
    await _write(app, tenant, row, new=False)
    assert (await _stored(database, row.id))[0].startswith("\x011:")


async def test_a_new_key_seals_from_its_arrival_on_and_the_old_one_still_opens(
    app: Database, database: ModuleDatabase, tenant: str, keys: Keys
) -> None:
    row = account(guarantor=GUARANTOR)
    await _write(app, tenant, row)
    keys.hold(NEW + OLD)
    assert await _read(app, tenant, row.id) == row
    await _write(app, tenant, row, new=False)
    assert (await _stored(database, row.id))[0].startswith("\x011:2026-07:")
    keys.hold(NEW)
    assert await _read(app, tenant, row.id) == row


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (NEW, "sealed with key 2026-01, which CONTACT_KEYS does not hold"),
        (_line("2026-01", 9), "does not open with key 2026-01: another key, or changed data"),
    ],
    ids=["lost", "wrong"],
)
async def test_without_its_key_it_is_an_outage_with_a_name(
    app: Database, tenant: str, keys: Keys, held: str, said: str
) -> None:
    row = account(guarantor=GUARANTOR)
    await _write(app, tenant, row)
    keys.hold(held)
    for reading in (_read, _view):
        with pytest.raises(ContactKeyError, match=said) as caught:
            await reading(app, tenant, row.id)
        assert transient(caught.value)
    keys.hold(OLD)
    assert await _read(app, tenant, row.id) == row


async def test_sealed_and_no_keys_at_all(app: Database, tenant: str, keys: Keys) -> None:
    row = account(guarantor=GUARANTOR)
    await _write(app, tenant, row)
    contact.use(None)
    with pytest.raises(ContactKeyError, match="CONTACT_KEYS is not set"):
        await _read(app, tenant, row.id)


def test_a_text_opens_in_its_own_place_only(keys: Keys) -> None:
    ring = ContactKeys(keys.path)
    place = Place("kabul", "account", str(uuid4()), "guarantor")
    sealed = ring.seal(place, GUARANTOR)
    assert ring.open(place, sealed) == GUARANTOR
    elsewhere = [
        place._replace(tenant_id="herat"),
        place._replace(row_id=str(uuid4())),
        place._replace(field="parties.ins-1.name"),
        place._replace(table="invoice"),
    ]
    for other in elsewhere:
        with pytest.raises(ContactKeyError):
            ring.open(other, sealed)
    changed = sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:]
    for broken in (changed, sealed[:-8], "\x01", "\x012:a:b", "\x011:2026-01:%%"):
        with pytest.raises(ContactKeyError):
            ring.open(place, broken)


@pytest.mark.parametrize("text", ["nonsense", "k c2hvcnQ=\n", OLD + OLD, "# only a remark\n", "a/b " + OLD.split()[1]])
def test_a_file_that_is_none_of_keys_is_a_settings_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "CONTACT_KEYS").write_text(text)
    with pytest.raises(SettingsError) as caught:
        contact.use_file(tmp_path / "CONTACT_KEYS")
    assert not any(word in str(caught.value) for word in text.split() if len(word) > 6 and word != "remark")


def test_a_rotation_caught_half_way_keeps_the_last_good_keys(keys: Keys) -> None:
    ring = ContactKeys(keys.path)
    place = Place("kabul", "account", "1", "guarantor")
    sealed = ring.seal(place, GUARANTOR)
    for broken in ("", "2026-07 c2hvcnQ=\n"):
        keys.hold(broken)
        assert ring.open(place, sealed) == GUARANTOR
        assert ring.seal(place, GUARANTOR) == sealed
