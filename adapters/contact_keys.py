"""Keys for contact data at rest, and the sealing itself: AES-SIV (RFC 5297) with a key per tenant.

The file CONTACT_KEYS holds master keys, one a line: `<key id> <base64 of 32 bytes>`, or `<key id> kms:<base64>` for one that KMS
has wrapped (envelope encryption). The first seals, all open; a new key goes on top, and the file is followed
(adapters/secrets.py). A tenant's key is derived from a master key, so nothing else has to be kept.

Sealing is deterministic on purpose: a rebuild from the command stream has to give the same bytes (docs/decisions/0034).
"""

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adapters.kms import KmsError, unwrap
from adapters.secrets import SecretFile

# No text that a client may send holds this character (schemas/base.py), so nobody can make up something sealed.
MARK = "\x01"
FORMAT = "1"
MASTER_BYTES = 32
_TENANT_KEY_BYTES = 64  # AES-SIV takes two AES-256 keys
WRAPPED = "kms:"
# What KMS binds a wrapped key to, its id beside it (kms generate-data-key-without-plaintext --encryption-context …).
PURPOSE = "billing-contact-data"
# After a file that could not be used (KMS was away): how long the keys of before are used without a further look.
RETRY_SECONDS = 30.0
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


log = structlog.get_logger()


class ContactKeyError(Exception):
    """Contact data cannot be opened or sealed: the file is no key file, a key is missing, or it is not the right one."""


class Place(NamedTuple):
    """Where a sealed text belongs; it opens nowhere else."""

    tenant_id: str
    table: str
    row_id: str
    field: str


class Unwrap(Protocol):
    def __call__(self, wrapped: bytes, context: tuple[tuple[str, str], ...], /) -> bytes: ...


class ContactKeys:
    """What the file holds now."""

    def __init__(self, path: Path, unwrap: "Unwrap" = unwrap) -> None:
        """Raises ContactKeyError where the file is not one of keys, or KMS does not unwrap them."""
        self._file = SecretFile(path, multiline=True)
        self._unwrap = lru_cache(maxsize=None)(unwrap)
        self._text: str | None = None
        self._next_look_at = float("-inf")
        self._masters: dict[str, bytes] = {}
        self._current()

    def seal(self, place: Place, text: str) -> str:
        """`\\x01` format, key id and base64, with colons."""
        masters = self._current()
        key_id = next(iter(masters))
        sealed = _cipher(masters[key_id], place.tenant_id).encrypt(text.encode(), _bound(place))
        return f"{MARK}{FORMAT}:{key_id}:{base64.b64encode(sealed).decode()}"

    def open(self, place: Place, sealed: str) -> str:
        """Raises ContactKeyError, naming the place and the key."""
        where = f"{place.field} of {place.table} {place.row_id}"
        try:
            version, key_id, content = sealed.removeprefix(MARK).split(":")
            raw = base64.b64decode(content, validate=True)
        except (ValueError, binascii.Error):
            raise ContactKeyError(f"{where} is sealed in no known way") from None
        if version != FORMAT:
            raise ContactKeyError(f"{where} is sealed in a way of a later version")
        master = self._current().get(key_id)
        if master is None:
            raise ContactKeyError(f"{where} is sealed with key {key_id}, which CONTACT_KEYS does not hold")
        try:
            return _cipher(master, place.tenant_id).decrypt(raw, _bound(place)).decode()
        except (InvalidTag, ValueError):
            raise ContactKeyError(f"{where} does not open with key {key_id}: another key, or changed data") from None

    def _current(self) -> dict[str, bytes]:
        secret = self._file.get()
        text = None if secret is None else secret.reveal()
        if text is not None and text != self._text and time.monotonic() >= self._next_look_at:
            if self._masters and WRAPPED in text:
                # Asked for within a transaction: KMS is not waited for there. The keys of before serve until it has answered.
                self._next_look_at = float("inf")
                threading.Thread(target=self._renew, args=(text,), name="contact-keys", daemon=True).start()
            else:
                self._renew(text)
        if not self._masters:
            raise ContactKeyError("CONTACT_KEYS: the file cannot be used")
        return self._masters

    def _renew(self, text: str) -> None:
        """Raises ContactKeyError at the start; later the last good keys stay."""
        try:
            self._masters, self._text = _parsed(text, self._unwrapped), text
        except (ValueError, KmsError) as error:
            self._next_look_at = time.monotonic() + RETRY_SECONDS
            log.warning("contact_keys_unusable", error=type(error).__name__, detail=str(error))
            if not self._masters:
                raise ContactKeyError(f"CONTACT_KEYS: {error}") from None
        else:
            self._next_look_at = float("-inf")

    def _unwrapped(self, key_id: str, wrapped: bytes) -> bytes:
        return self._unwrap(wrapped, (("purpose", PURPOSE), ("key", key_id)))


def _parsed(text: str, unwrapped: Callable[[str, bytes], bytes]) -> dict[str, bytes]:
    """Raises ValueError, without anything of the text in it, and KmsError."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key_id, _, encoded = line.strip().partition(" ")
        encoded, is_wrapped = encoded.strip().removeprefix(WRAPPED), encoded.strip().startswith(WRAPPED)
        try:
            master = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            master = b""
        if is_wrapped and master and _KEY_ID.fullmatch(key_id):
            master = unwrapped(key_id, master)
        if not _KEY_ID.fullmatch(key_id) or len(master) != MASTER_BYTES or key_id in found:
            raise ValueError(
                f"line {number} is not `<key id> <base64 of {MASTER_BYTES} bytes>`, plain or {WRAPPED}…, or its id comes twice"
            )
        found[key_id] = master
    if not found:
        raise ValueError("there is no key in it")
    return found


@lru_cache(maxsize=10_000)  # one per tenant and master key
def _cipher(master: bytes, tenant_id: str) -> AESSIV:
    info = b"billing contact data\0" + tenant_id.encode()
    return AESSIV(HKDF(SHA512(), _TENANT_KEY_BYTES, salt=None, info=info).derive(master))


def _bound(place: Place) -> list[bytes]:
    return [part.encode() for part in place]
