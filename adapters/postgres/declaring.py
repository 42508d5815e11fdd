"""How a table is declared: what every tenant table has, and short spellings for the rest (adapters/postgres/tables.py)."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from adapters.postgres.columns import TENANT, entity_checks, entity_columns, tenant_check, tenant_column

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_1_name)s",
        "uq": "uq_%(table_name)s_%(column_1_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def table(
    name: str,
    entity: type[Any],
    *constraints: CheckConstraint | ForeignKeyConstraint | UniqueConstraint | Index,
    key: tuple[str, ...],
    mutable: tuple[str, ...] = (),
    leading: tuple[Column[Any], ...] = (),
    storage: Mapping[str, object] | None = None,
) -> Table:
    """A tenant table. `key` follows `tenant_id` in the primary key; the app role may update the `mutable` columns."""
    return Table(
        name,
        metadata,
        tenant_column(),
        *leading,
        *entity_columns(entity, mutable),
        PrimaryKeyConstraint(TENANT, *key, name=f"pk_{name}"),
        tenant_check(),
        *entity_checks(entity),
        *constraints,
        postgresql_with=dict(storage or {}),
    )


def check(name: str, condition: str) -> CheckConstraint:
    return CheckConstraint(condition, name=name)


def references(table: str, column: str) -> ForeignKeyConstraint:
    """A reference to `table.id` of the same tenant."""
    return ForeignKeyConstraint((TENANT, column), (f"{table}.{TENANT}", f"{table}.id"))


def index(name: str, *columns: str, where: str | None = None, unique: bool = False) -> Index:
    return Index(name, TENANT, *columns, unique=unique, postgresql_where=text(where) if where else None)


ROOM_FOR_HOT_UPDATES = {"fillfactor": 80}
MANY_HOT_UPDATES = {"fillfactor": 50}  # counters: one small row, updated by every batch
