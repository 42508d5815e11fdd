"""Ids the client leaves out. Derived, not drawn: replaying the same stream gives the same rows (DESIGN §3)."""

from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from uuid import UUID

from schemas.uuids import uuid_of

_VERSION_8_AND_VARIANT = 0x8 << 76 | 0b10 << 62  # RFC 9562 §5.8: the custom layout
_12_BITS = 0xFFF << 64
_64_BITS = (1 << 64) - 1


def derived_id(tenant_id: str, command_id: UUID, recorded_at: datetime, *parts: str) -> UUID:
    """A UUIDv8 of (tenant, command, parts) that begins with the millisecond of `recorded_at`, so that rows created together
    lie together in the primary key's index, as with UUIDv7."""
    begins, leading = _of_command(tenant_id, command_id, recorded_at)
    return _uuid8(leading, sha256(begins + "\x1f".join(parts).encode()).digest())


@lru_cache(maxsize=1_024)  # a command's ids are derived one after the other, four of them for a payment
def _of_command(tenant_id: str, command_id: UUID, recorded_at: datetime) -> tuple[bytes, int]:
    milliseconds = int(recorded_at.timestamp() * 1000) & 0xFFFFFFFFFFFF
    return f"{tenant_id}\x1f{command_id}\x1f".encode(), milliseconds


@lru_cache(maxsize=65_536)  # one entry ≈ 400 bytes: 26 MB when full, for the ledger accounts of 20,000 billing accounts
def ledger_account_id(
    tenant_id: str, code: str, currency: str, account_id: UUID | None = None, party_id: str | None = None
) -> UUID:
    """The id of a ledger account, from what identifies it: no look-up is needed to post."""
    digest = sha256("\x1f".join((tenant_id, code, currency, str(account_id or ""), party_id or "")).encode()).digest()
    return _uuid8(int.from_bytes(digest[16:22], "big"), digest)


def _uuid8(leading_48_bits: int, digest: bytes) -> UUID:
    random = int.from_bytes(digest[:10], "big")
    value = (leading_48_bits << 80) | _VERSION_8_AND_VARIANT | (random & _12_BITS) | ((random & _64_BITS) >> 2)
    return uuid_of(value.to_bytes(16, "big"))
