"""Alembic migrations. Each file in versions/ declares its `phase`: "expand", "migrate" or "contract"."""
