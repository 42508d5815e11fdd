"""Connection URLs: operators write `postgresql://…`, SQLAlchemy wants its driver named."""

from sqlalchemy import URL, make_url


def sqlalchemy_url(dsn: str) -> URL:
    """`postgres://`, `postgresql://` or `postgresql+asyncpg://` as a URL for SQLAlchemy over asyncpg."""
    _, separator, rest = dsn.partition("://")
    if not separator:
        raise ValueError("a PostgreSQL URL starts with postgresql://")
    return make_url(f"postgresql+asyncpg://{rest}")
