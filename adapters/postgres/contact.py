"""Contact data of accounts, sealed on its way into the tables and opened on its way out; entities hold plain text.

Which is: the guarantor, and each responsible party's name and policy number. Rows from before there were keys are plain text and
stay readable; they are sealed when they are next written. What opens and seals is the process's (`use`), as the key file is.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import structlog

from adapters.contact_keys import MARK, ContactKeyError, ContactKeys, Place
from adapters.settings import SettingsError
from domain.entities import Account
from schemas.account import Party

PARTY_FIELDS = ("name", "policy_number")
_TABLE = "account"
_JSON_MARK = "\\u0001"  # how PostgreSQL and JSON write the mark

E = TypeVar("E")

log = structlog.get_logger()


class _Process:
    keys: ContactKeys | None = None


def use(keys: ContactKeys | None) -> None:
    """From now on, for this process. None: contact data is written as it is, and what is sealed cannot be read."""
    _Process.keys = keys
    if keys is None:
        log.warning("contact_data_not_sealed", unset="CONTACT_KEYS")


def use_file(path: Path | None) -> None:
    """`use` with the keys of CONTACT_KEYS. Raises SettingsError where they cannot be used."""
    try:
        use(None if path is None else ContactKeys(path))
    except ContactKeyError as error:
        raise SettingsError([str(error)]) from None


def sealed(tenant_id: str, entity: type[E], rows: Sequence[E]) -> Sequence[E]:
    """The rows as they are stored: a bijection, so a batch's rows are the same however they were put together."""
    if entity is not Account or _Process.keys is None:
        return rows
    return [_sealed(tenant_id, row, _Process.keys) for row in rows]  # type: ignore[arg-type, misc]


def opened_values(tenant_id: str, values: Sequence[Any]) -> Sequence[Any]:
    """An account row's values, in the order of the columns and with `parties` as JSON text, as they were before sealing."""
    guarantor, parties = values[_GUARANTOR], values[_PARTIES]
    if (guarantor is None or not guarantor.startswith(MARK)) and _JSON_MARK not in parties:
        return values
    row_id, found = values[_ID], list(values)
    found[_GUARANTOR] = opened(tenant_id, row_id, guarantor)
    found[_PARTIES] = json.dumps(opened_parties(tenant_id, row_id, json.loads(parties)))
    return found


def opened(tenant_id: str, account_id: UUID, guarantor: str | None) -> str | None:
    """Raises ContactKeyError."""
    return _open(Place(tenant_id, _TABLE, str(account_id), "guarantor"), guarantor)


def opened_parties(tenant_id: str, account_id: UUID, parties: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Raises ContactKeyError."""
    return [
        {
            field: _open(_party_place(tenant_id, account_id, party["party_id"], field), value)
            if field in PARTY_FIELDS
            else value
            for field, value in party.items()
        }
        for party in parties
    ]


def _open(place: Place, text: str | None) -> str | None:
    if text is None or not text.startswith(MARK):
        return text
    if _Process.keys is None:
        raise ContactKeyError(f"{place.field} of {place.table} {place.row_id} is sealed, and CONTACT_KEYS is not set")
    return _Process.keys.open(place, text)


def _sealed(tenant_id: str, account: Account, keys: ContactKeys) -> Account:
    guarantor, parties = account.guarantor, account.parties
    if guarantor is not None:
        guarantor = keys.seal(Place(tenant_id, _TABLE, str(account.id), "guarantor"), guarantor)
    return account._replace(
        guarantor=guarantor, parties=tuple(_sealed_party(tenant_id, account.id, party, keys) for party in parties)
    )


def _sealed_party(tenant_id: str, account_id: UUID, party: Party, keys: ContactKeys) -> Party:
    plain = {field: value for field in PARTY_FIELDS if (value := getattr(party, field)) is not None}
    update = {
        field: keys.seal(_party_place(tenant_id, account_id, party.party_id, field), value)
        for field, value in plain.items()
    }
    return party.model_copy(update=update) if update else party


def _party_place(tenant_id: str, account_id: UUID, party_id: str, field: str) -> Place:
    return Place(tenant_id, _TABLE, str(account_id), f"parties.{party_id}.{field}")


_ID, _GUARANTOR, _PARTIES = (Account._fields.index(name) for name in ("id", "guarantor", "parties"))
