"""How a connection to NATS says who it is, asked anew at every (re)connect: what was rotated meanwhile counts without a restart.

nats-py reads a credentials file itself, but never returns from one that is empty and ends its reconnecting for good at one that
is cut short; here, the last good one is used until the file is whole again.
"""

import base64
import binascii
import re
import ssl
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from faststream.nats.security import NatsJWT, NatsSecurity, NatsToken, NatsUserPassword
from pydantic import SecretStr

from adapters.secrets import SecretFile
from adapters.settings import NatsSettings, SettingsError

_PART = r"-+BEGIN {}-+\s+(\S+)\s+-+END {}-+"
_JWT = re.compile(_PART.format("NATS USER JWT", "NATS USER JWT"))
_SEED = re.compile(_PART.format("USER NKEY SEED", "USER NKEY SEED"))
_SEED_PREFIX, _USER_PREFIX = 18 << 3, 20 << 3  # what makes a seed begin with SU
_USER_SEED = bytes((_SEED_PREFIX | _USER_PREFIX >> 5, (_USER_PREFIX & 31) << 3))


class Login(Protocol):
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `nats.connect`."""

    def security(self, tls: ssl.SSLContext | None) -> NatsSecurity:
        """The same for FastStream's broker."""


def login_of(settings: NatsSettings) -> Login | None:
    """From NATS_CREDS, or from the user part of NATS_URL; None where there is neither, or each server wants another user.

    Raises SettingsError where NATS_CREDS cannot be used.
    """
    if settings.nats_creds is not None:
        return CredentialsLogin(settings.nats_creds)
    users = {_user_of(url) for url in settings.servers}
    if len(users) > 1 or users == {(None, None)}:
        return None
    [(_, password)] = users
    return UrlLogin(settings.nats_url) if password is not None else UrlToken(settings.nats_url)


def without_users(servers: list[str]) -> list[str]:
    """The URLs for FastStream's broker, which refuses users in them beside a `security`."""
    return [re.sub(r"//[^@/]*@", "//", url) for url in servers]


class UrlLogin:
    """User and password of the first server in NATS_URL, for all."""

    def __init__(self, url: SecretStr) -> None:
        self._url = url

    def user(self) -> str:
        return _user_of(self._url.get_secret_value())[0] or ""

    def password(self) -> str:
        return _user_of(self._url.get_secret_value())[1] or ""

    def options(self) -> dict[str, Any]:
        return {"user": self.user, "password": self.password}

    def security(self, tls: ssl.SSLContext | None) -> NatsSecurity:
        # The client calls what is callable; FastStream's annotation does not say so.
        user: Any = self.user
        password: Any = self.password
        return NatsUserPassword(user, password, ssl_context=tls)


class UrlToken:
    """The token of the first server in NATS_URL (`nats://token@host`), for all."""

    def __init__(self, url: SecretStr) -> None:
        self._url = url

    def token(self) -> str:
        return _user_of(self._url.get_secret_value())[0] or ""

    def options(self) -> dict[str, Any]:
        return {"token": self.token}

    def security(self, tls: ssl.SSLContext | None) -> NatsSecurity:
        return NatsToken(self.token, ssl_context=tls)


class CredentialsLogin:
    """A user JWT and its seed, from a credentials file."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError where the file is not one."""
        self._file = SecretFile(path, multiline=True)
        self._parts = ("", "")
        if not self._current()[0]:
            raise SettingsError(["NATS_CREDS: the file holds no NATS user JWT and seed"])

    def jwt(self) -> bytes:
        return self._current()[0].encode()

    def sign(self, nonce: str) -> bytes:
        return base64.b64encode(user_key(self._current()[1]).sign(nonce.encode()))

    def options(self) -> dict[str, Any]:
        return {"user_jwt_cb": self.jwt, "signature_cb": self.sign}

    def security(self, tls: ssl.SSLContext | None) -> NatsSecurity:
        return NatsJWT(self.jwt, self.sign, ssl_context=tls)

    def _current(self) -> tuple[str, str]:
        secret = self._file.get()
        text = "" if secret is None else secret.reveal()
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt and seed and _is_seed(seed[1]):
            self._parts = (jwt[1], seed[1])
        return self._parts


def user_key(seed: str) -> Ed25519PrivateKey:
    """The key of a user's seed as NATS writes it: in base32 two bytes of kind, 32 of key, a CRC-16 of both. Raises ValueError."""
    raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    kind, key, checksum = raw[:2], raw[2:-2], raw[-2:]
    if kind != _USER_SEED or len(key) != 32 or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(checksum, "little"):
        raise ValueError("not the seed of a NATS user")
    return Ed25519PrivateKey.from_private_bytes(key)


def _is_seed(text: str) -> bool:
    try:
        user_key(text)
    except ValueError:
        return False
    return True


def _user_of(urls: str) -> tuple[str | None, str | None]:
    parts = urlsplit(urls.split(",", maxsplit=1)[0].strip())
    return _unquoted(parts.username), _unquoted(parts.password)


def _unquoted(text: str | None) -> str | None:
    return None if text is None else unquote(text)
