"""From an entity's fields to a table's columns: types, nullability, and checks that go with a name."""

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    LargeBinary,
    Numeric,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

TENANT = "tenant_id"
# Every whole number is bigint: amounts need it, and a narrower column saves little and costs a table rewrite later.
_TYPES: dict[Any, TypeEngine[Any]] = {
    UUID: Uuid(),
    str: Text(),
    int: BigInteger(),
    date: Date(),
    datetime: DateTime(timezone=True),
    Decimal: Numeric(12, 3),  # schemas.base.Quantity: below 10^9, at most 3 decimals
    bytes: LargeBinary(),
}
# What a column of this name holds, wherever it appears. The shapes are those of schemas/base.py.
_SHAPES = {
    "currency": "{0} ~ '^[A-Z]{{3}}$'",
    "period": "{0} ~ '^[0-9]{{4}}-(0[1-9]|1[0-2])$'",
    "revenue_code": "{0} ~ '^[1-9][0-9]{{3}}$'",
    "hash": "octet_length({0}) = 32",
    "payload_hash": "octet_length({0}) = 32",
    "ledger_head": "octet_length({0}) = 32",
    "version": "{0} >= 1",
    "line_number": "{0} >= 1",
    "quantity": "{0} > 0",
    "tax_rate_basis_points": "{0} BETWEEN 0 AND 10000",
    "fiscal_year": "{0} BETWEEN 1 AND 9999",
}


def tenant_column() -> Column[str]:
    return Column(TENANT, Text(), nullable=False)


def tenant_check() -> CheckConstraint:
    """Keeps rows away from the empty tenant, which is what a session is left with once its transaction is over.

    The shape of a tenant id is checked where it enters (schemas/subjects.py): its pattern cost a sixth of a save here.
    """
    return CheckConstraint(f"{TENANT} <> ''", name=TENANT)


def entity_columns(entity: type[Any], mutable: tuple[str, ...]) -> list[Column[Any]]:
    """The entity's fields as columns, in the entity's order. `mutable` ones may be updated by the app role."""
    return [
        Column(name, _column_type(annotation), nullable=_is_optional(annotation), info={"mutable": name in mutable})
        for name, annotation in _fields(entity)
    ]


def entity_checks(entity: type[Any]) -> list[CheckConstraint]:
    """What follows from the fields alone: the values of a Literal, and the shape that goes with a name."""
    checks = []
    for name, annotation in _fields(entity):
        values = _literal_values(annotation)
        if values:
            listed = ", ".join(f"'{value}'" for value in values)
            checks.append(CheckConstraint(f"{name} IN ({listed})", name=name))
        elif name in _SHAPES:
            checks.append(CheckConstraint(_SHAPES[name].format(name), name=name))
    return checks


def _fields(entity: type[Any]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(entity)
    return ((name, hints[name]) for name in entity._fields)


def _is_optional(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)


def _required(annotation: Any) -> Any:
    if not _is_optional(annotation):
        return annotation
    (required,) = (argument for argument in get_args(annotation) if argument is not NoneType)
    return required


def _literal_values(annotation: Any) -> tuple[str, ...]:
    required = _required(annotation)
    return get_args(required) if get_origin(required) is Literal else ()


def _column_type(annotation: Any) -> TypeEngine[Any]:
    required = _required(annotation)
    if get_origin(required) is Literal:
        return Text()
    if get_origin(required) in (tuple, dict):
        return JSONB()
    return _TYPES[required]
