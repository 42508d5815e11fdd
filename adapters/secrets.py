"""Secrets from mounted files, followed while the process runs: a rotated key counts from its next use on, without a restart.

    secrets = SecretDirectory(Path("/run/billing/secrets"))     # one file per secret, as Kubernetes and Vault mount them
    key = secrets.get("PAYMENT_GATEWAY_API_KEY_kabul-hospital")  # a Secret, or None where there is none
    key.reveal()                                                 # the only way to its text

Ask at each use and keep nothing: an unchanged file costs one `stat`. Whoever rotates by swapping a symlink (Kubernetes' `..data`)
or by renaming (Vault) is seen at once and whole. A file that is written in place, emptied, cut or removed for a moment leaves
the last good value in use until it is whole again. Logs and metrics say that and when, by name; never a value.
"""

import hmac
import os
import re
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import structlog
from prometheus_client import Counter, Gauge

# The longest name we use is PAYMENT_GATEWAY_API_KEY_ (24) and a tenant id (64). No separator, no leading dot: no way out of
# the directory, and none into the directories Kubernetes swaps (`..data`).
NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
MAX_BYTES: Final = 65_536  # a credentials file of NATS has 1 kB, a chain of certificates 10
# A file whose content changes under the same inode is being written to; this long after the last write it is taken for whole.
SETTLE_SECONDS: Final = 0.2
# Rotations that remove a file before they write it again take less; a secret that was really taken away is obeyed after it.
GONE_AFTER_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0  # between two readings of an unusable file that does not change

PAYMENT_GATEWAY_KEY_PREFIX: Final = "PAYMENT_GATEWAY_API_KEY_"

READS = Counter(
    "billing_secret_reads", "Secrets read: the first time, because they changed, unusable, gone", ("outcome",)
)
STALE = Gauge("billing_secrets_stale", "Secrets whose file is unusable or gone: the last good value is in use")

log = structlog.get_logger()


class InvalidSecretName(ValueError):
    """A name that could not be a file of the directory: a bug, since names are built from checked parts."""


class Secret:
    """A value that shows itself only when asked to: not in logs, not in exceptions, not in a pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(redacted)"

    __str__ = __repr__

    def __format__(self, _specification: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not serialised")


class _Signature(NamedTuple):
    """What changes when a file does. The first two also when it was replaced as a whole."""

    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    size: int


class _Unusable(Exception):
    """Why a file cannot be taken. Its text carries no content."""


class SecretFile:
    """One mounted file. `multiline` allows what a credentials file has and a key must not (line breaks)."""

    def __init__(self, path: Path, *, multiline: bool = False) -> None:
        self._path, self._multiline = path, multiline
        self._secret: Secret | None = None
        self._seen: _Signature | None = None  # of the file `_secret` was read from
        self._refused: _Signature | None = None
        self._retry_at = 0.0
        self._missing_since: float | None = None
        self._stale = False

    def get(self) -> Secret | None:
        """The current value, the last good one while the file is unusable, or None where there never was one, or no longer."""
        try:
            seen = _signature(self._path.stat())
        except OSError as error:
            return self._missing(error)
        self._missing_since = None
        if seen == self._seen:
            self._fresh()
            return self._secret
        if self._being_written(seen) or (seen == self._refused and time.monotonic() < self._retry_at):
            return self._secret
        try:
            value, seen = _read(self._path, self._multiline)
        except (OSError, _Unusable) as error:
            self._unusable(seen, error)
            return self._secret
        self._take(value, seen)
        return self._secret

    def _being_written(self, seen: _Signature) -> bool:
        before = self._seen
        if before is None or (seen.device, seen.inode) != (before.device, before.inode):
            return False
        return 0 <= time.time() - seen.modified_ns / 1e9 < SETTLE_SECONDS

    def _take(self, value: str, seen: _Signature) -> None:
        secret, before = Secret(value), self._secret
        self._secret, self._seen, self._refused = secret, seen, None
        self._fresh()
        if before is None:
            READS.labels("first").inc()
        elif before != secret:  # a file touched, or swapped for an equal one, is no news
            READS.labels("changed").inc()
            log.info("secret_changed", secret_name=self._path.name)

    def _unusable(self, seen: _Signature, error: Exception) -> None:
        if seen != self._refused:
            READS.labels("unusable").inc()
            log.warning(
                "secret_unusable",
                secret_name=self._path.name,
                why=error.strerror if isinstance(error, OSError) else str(error),
                last_good=self._secret is not None,
            )
        self._refused, self._retry_at = seen, time.monotonic() + RETRY_SECONDS
        self._keeps_last_good()

    def _missing(self, error: OSError) -> Secret | None:
        if self._secret is None:
            return None
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
            self._keeps_last_good()
        elif now - self._missing_since >= GONE_AFTER_SECONDS:
            READS.labels("gone").inc()
            log.warning("secret_gone", secret_name=self._path.name, why=error.strerror)
            self._secret = self._seen = None
            self._fresh()
        return self._secret

    def _keeps_last_good(self) -> None:
        if not self._stale and self._secret is not None:
            self._stale = True
            STALE.inc()

    def _fresh(self) -> None:
        if self._stale:
            self._stale = False
            STALE.dec()


class SecretDirectory:
    """A directory with one file per secret, named like the secret.

    `environment_fallback` (development only) answers from the environment what the directory does not have, under the same
    name or, since shells allow no more, in upper case with `_` for every other character.
    """

    def __init__(self, path: Path | None, *, environment_fallback: bool = False) -> None:
        self._path, self._environment_fallback = path, environment_fallback
        self._files: dict[str, SecretFile] = {}

    def get(self, name: str, *, multiline: bool = False) -> Secret | None:
        """The secret's current value, without its trailing line break. Raises InvalidSecretName; never an OSError."""
        if re.fullmatch(NAME, name) is None:
            raise InvalidSecretName("not the name of a secret")  # the name may be hostile: not repeated
        secret = self._from_file(name, multiline)
        if secret is None and self._environment_fallback:
            value = os.environ.get(name) or os.environ.get(re.sub(r"[^A-Z0-9]", "_", name.upper()))
            return Secret(value) if value else None
        return secret

    def payment_gateway_key(self, tenant_id: str) -> Secret | None:
        """The tenant's key of its payment gateway: `PAYMENT_GATEWAY_API_KEY_<tenant id>`, the id as it is."""
        return self.get(PAYMENT_GATEWAY_KEY_PREFIX + tenant_id)

    def _from_file(self, name: str, multiline: bool) -> Secret | None:
        if self._path is None:
            return None
        file = self._files.get(name) or SecretFile(self._path / name, multiline=multiline)
        secret = file.get()
        # Only what is there is remembered: names that clients make up cannot fill the memory.
        if secret is None:
            self._files.pop(name, None)
        else:
            self._files[name] = file
        return secret


def read_secret(path: Path, *, multiline: bool = False) -> Secret:
    """The file's value, once. Raises ValueError (OSError where it cannot be read), neither with any content."""
    try:
        return Secret(_read(path, multiline)[0])
    except _Unusable as error:
        raise ValueError(str(error)) from None


def _read(path: Path, multiline: bool) -> tuple[str, _Signature]:
    # Non-blocking: opening a pipe somebody put there must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable("not a regular file")
        content = file.read(MAX_BYTES + 1)
        if _signature(os.fstat(descriptor)) != _signature(status):
            raise _Unusable("being written")
    return _checked(content, multiline), _signature(status)


def _checked(content: bytes, multiline: bool) -> str:
    if len(content) > MAX_BYTES:
        raise _Unusable(f"longer than {MAX_BYTES} bytes")
    try:
        value = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:  # not chained: its text quotes the content
        raise _Unusable("not UTF-8") from None
    if not value.strip():
        raise _Unusable("empty")
    # A line break in a header or a URL makes clients raise errors that quote the value.
    forbidden = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]" if multiline else r"[\x00-\x1f\x7f]"
    if re.search(forbidden, value):
        raise _Unusable("holds control characters")
    return value


def _signature(status: os.stat_result) -> _Signature:
    return _Signature(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
