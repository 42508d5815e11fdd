"""Keyset pagination: a page is the rows after a key, so rows inserted meanwhile neither repeat nor hide others.

A cursor is the key of the last row of a page, opaque to the client: unpadded URL-safe base64 of its JSON text. It holds
no secret and is not signed: a forged one can only name another place in the tenant's own rows.
"""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, bindparam, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.base import Cursor
from schemas.codes import Code
from schemas.outcome import Problem, problem

_MAX_SEQUENCE = 2**63 - 1  # a ledger sequence is an int64


class Page(NamedTuple):
    rows: list[Row[Any]]
    next_cursor: str | None


class Keyset(NamedTuple):
    """The columns a list is ordered by, newest first, unique together; and how each is read back from a cursor."""

    columns: tuple[ColumnElement[Any], ...]
    parsers: tuple[Callable[[str], Any], ...]

    @classmethod
    def by_time(cls, recorded_at: ColumnElement[datetime], id_: ColumnElement[UUID]) -> "Keyset":
        return cls((recorded_at, id_), (_instant, UUID))

    @classmethod
    def by_sequence(cls, sequence: ColumnElement[int]) -> "Keyset":
        return cls((sequence,), (_sequence,))


def encode(key: tuple[Any, ...]) -> str:
    text = json.dumps([value.isoformat() if isinstance(value, datetime) else str(value) for value in key])
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode(cursor: str, keyset: Keyset) -> tuple[Any, ...] | None:
    """The key in a cursor, or None where it is not one that `encode` made for this keyset."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = json.loads(text)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            return None
        return tuple(parse(value) for parse, value in zip(keyset.parsers, values, strict=True))
    except (ValueError, OverflowError, RecursionError):
        return None


async def page(
    connection: AsyncConnection, statement: Select[Any], keyset: Keyset, query: Cursor, **parameters: Any
) -> Page | Problem:
    """The rows of `statement` after the query's cursor, newest first. The keyset's columns must be selected."""
    if query.cursor is not None:
        after = decode(query.cursor, keyset)
        if after is None:
            return problem(Code.MALFORMED_COMMAND, fields=["cursor"])
        names = [f"after_{position}" for position in range(len(after))]
        bounds = [bindparam(name, type_=column.type) for name, column in zip(names, keyset.columns, strict=True)]
        statement = statement.where(tuple_(*keyset.columns) < tuple_(*bounds))
        parameters |= dict(zip(names, after, strict=True))
    # One row more than asked for tells whether there is a further page.
    statement = statement.order_by(*(column.desc() for column in keyset.columns)).limit(query.limit + 1)
    rows = list((await connection.execute(statement, parameters)).all())
    if len(rows) <= query.limit:
        return Page(rows, None)
    last = rows[query.limit - 1]._mapping
    return Page(rows[: query.limit], encode(tuple(last[column] for column in keyset.columns)))


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("a cursor's time has its offset")
    return instant.astimezone(UTC)  # raises OverflowError at the edges of the calendar, before PostgreSQL would


def _sequence(text: str) -> int:
    # isdecimal alone would let other scripts' digits through to int(); a cursor of ours has ASCII only.
    if not (text.isascii() and text.isdecimal() and len(text) <= 19) or int(text) > _MAX_SEQUENCE:
        raise ValueError("not a sequence")
    return int(text)
