"""Connecting to PostgreSQL, each time with the credentials of that moment.

Connection URLs: operators write `postgresql://…?sslmode=verify-full&sslrootcert=…`, SQLAlchemy wants its driver named and
asyncpg a context.

Other modes than `verify-full` are passed on as they are;
anything weaker than it does not say who is at the other end.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
from pydantic import SecretStr
from sqlalchemy import URL, make_url

from adapters.tls import ReloadingContext, TlsFiles, client_context

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Dsn: TypeAlias = str | SecretStr  # a SecretStr may follow a file: it is asked at each connection

_FILES = ("sslrootcert", "sslcert", "sslkey")


async def connect(dsn: Dsn, **options: Any) -> Connection:
    """A connection as the URL says now; `options` as for `asyncpg.connect`. Raises what that raises.

    Old connections outlive a rotation of the password. A new one that is refused is tried once more where the URL has changed
    meanwhile; else the refusal counts as transient (`errors.transient`): the new password may be under way.
    """
    url = text_of(dsn)
    try:
        return await _connect(url, options)
    except asyncpg.InvalidAuthorizationSpecificationError:
        if (changed := text_of(dsn)) == url:
            raise
        return await _connect(changed, options)


async def _connect(url: str, options: dict[str, Any]) -> Connection:
    plain = sqlalchemy_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection: Connection = await asyncpg.connect(plain, **tls_arguments(url), **options)
    return connection


def text_of(dsn: Dsn) -> str:
    return dsn.get_secret_value() if isinstance(dsn, SecretStr) else dsn


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
    return {"ssl": _context(TlsFiles(*(_path(query.get(name)) for name in _FILES)))}


@lru_cache(maxsize=16)  # it follows its files by itself
def _context(files: TlsFiles) -> ReloadingContext:
    return client_context(files)


def _path(given: str | tuple[str, ...] | None) -> Path | None:
    return Path(given) if isinstance(given, str) else None


def _url(dsn: str) -> URL:
    _, separator, rest = dsn.partition("://")
    if not separator:
        raise ValueError("a PostgreSQL URL starts with postgresql://")
    return make_url(f"postgresql+asyncpg://{rest}")
