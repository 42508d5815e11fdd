"""Connection URLs: operators write `postgresql://…?sslmode=verify-full&sslrootcert=…`, SQLAlchemy wants its driver named and
asyncpg a context.

asyncpg by itself (the relay) reads the same parameters from the URL. Other modes than `verify-full` are passed on as they are;
anything weaker than it does not say who is at the other end.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url

from adapters.tls import TlsFiles, client_context

_FILES = ("sslrootcert", "sslcert", "sslkey")


def sqlalchemy_url(dsn: str) -> URL:
    """`postgres://`, `postgresql://` or `postgresql+asyncpg://` for SQLAlchemy over asyncpg, without its TLS parameters."""
    return _url(dsn).difference_update_query(("sslmode", *_FILES))


def tls_arguments(dsn: str) -> dict[str, Any]:
    """asyncpg's `ssl` argument, as the URL says. The files are read again for a new connection when they have changed.

    Raises OSError or ssl.SSLError where they cannot be used.
    """
    query = _url(dsn).query
    mode = query.get("sslmode")
    if mode is None:
        return {}
    if mode != "verify-full":
        return {"ssl": mode}
    return {"ssl": client_context(TlsFiles(*(_path(query.get(name)) for name in _FILES)))}


def _path(given: str | tuple[str, ...] | None) -> Path | None:
    return Path(given) if isinstance(given, str) else None


def _url(dsn: str) -> URL:
    _, separator, rest = dsn.partition("://")
    if not separator:
        raise ValueError("a PostgreSQL URL starts with postgresql://")
    return make_url(f"postgresql+asyncpg://{rest}")
