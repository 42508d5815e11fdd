"""TLS for outgoing connections, from mounted files that change while the process runs (rotation without a restart).

    context = client_context(TlsFiles(ca, certificate, key))

The context looks at the files whenever a connection is made: new connections use what is there now, old ones live on with
what they were made with. It works wherever an `ssl.SSLContext` does (asyncio, uvloop, nats-py, httpx, asyncpg).
"""

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import structlog
from prometheus_client import Counter

RELOADS = Counter(
    "billing_tls_reloads", "Certificate files read again because they changed; `failed` kept the old ones", ("outcome",)
)
MINIMUM_VERSION = ssl.TLSVersion.TLSv1_2

log = structlog.get_logger()


class TlsFiles(NamedTuple):
    """PEM files. No CA: the system's. A certificate and its key: what we show to servers that ask (mTLS)."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def any(self) -> bool:
        return any(path is not None for path in self)


class ReloadingContext(ssl.SSLContext):
    """A client context that verifies host names and always speaks with the current files.

    Files that cannot be used (a rotation caught half way) leave the last good ones in place until the next connection.
    """

    _files: TlsFiles
    _seen: tuple[Any, ...]
    _unusable: tuple[Any, ...] | None
    _generation: int
    _current: ssl.SSLContext
    _alpn: list[str]

    def __new__(cls, files: TlsFiles) -> Self:
        """Raises OSError or ssl.SSLError where the files cannot be used at the start."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context._files, context._alpn = files, []
        context._generation, context._unusable = 0, None
        context._seen = _signature(files)
        context._current = _load(files)
        return context

    def __init__(self, files: TlsFiles) -> None:
        super().__init__()

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """How asyncio, uvloop, httpx and asyncpg begin a connection."""
        return self._fresh().wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return self._fresh().wrap_socket(*arguments, **options)

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """httpx sets them on the context it was given, before each connection."""
        self._alpn = list(alpn_protocols)
        self._current.set_alpn_protocols(self._alpn)

    def generation(self) -> int:
        """Looks at the files; higher than before where they changed and can be used. A pool of connections that keeps in
        mind with which one it was filled knows when to begin anew: a busy connection would live on for ever."""
        self._fresh()
        return self._generation

    def _fresh(self) -> ssl.SSLContext:
        seen = _signature(self._files)
        if seen not in (self._seen, self._unusable):
            try:
                current = _load(self._files)
            except (OSError, ssl.SSLError) as error:
                self._unusable = seen  # until they change again, there is nothing to try
                RELOADS.labels("failed").inc()
                log.warning("tls_files_unusable", error=type(error).__name__, detail=str(error)[:200])
            else:
                if self._alpn:
                    current.set_alpn_protocols(self._alpn)
                self._current, self._seen, self._unusable = current, seen, None
                self._generation += 1
                RELOADS.labels("ok").inc()
                log.info("tls_files_reloaded")
        return self._current


def client_context(files: TlsFiles) -> ReloadingContext:
    """A context that follows its files. Raises OSError or ssl.SSLError where they cannot be used."""
    return ReloadingContext(files)


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.ca)
    context.minimum_version = MINIMUM_VERSION
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


def _signature(files: TlsFiles) -> tuple[Any, ...]:
    """Changes whenever a file does: Kubernetes swaps a symlink, others write in place or rename."""
    return tuple(_stat(path) for path in files if path is not None)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
