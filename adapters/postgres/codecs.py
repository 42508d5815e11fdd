"""Between entities and what asyncpg takes and gives: only JSON columns differ, all others pass through untouched."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, get_type_hints

from asyncpg.pgproto.pgproto import UUID as DriverUUID
from pydantic import TypeAdapter
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from adapters.postgres.tables import TABLES
from schemas import uuids

# A `uuid.UUID`, as rows come with it: made, printed, hashed and sent ten times as fast.
uuids.use(DriverUUID)

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
# Most accounts of a tenant have one of a few party lists, and equal JSON makes equal, immutable parties.
_DECODED_CACHE_SIZE = 4096


class Column(NamedTuple):
    """A column as the statements need it. `encode` and `decode` are None where the Python value is asyncpg's own."""

    name: str
    type: str
    encode: Callable[[Any], Any] | None
    decode: Callable[[Any], Any] | None
    mutable: bool


class TableMapping(NamedTuple):
    """An entity's table: its columns in the entity's order, and those that identify a row inside its tenant."""

    table: str
    columns: tuple[Column, ...]
    key: tuple[Column, ...]

    @property
    def mutable(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.mutable)


def arrays(columns: Iterable[Column], rows: Sequence[Any], positions: Sequence[int]) -> list[Sequence[Any]]:
    """Transposes rows into one array per column, those at `positions` of each row."""
    transposed: list[Sequence[Any]] = list(zip(*rows, strict=True))
    picked = [transposed[position] for position in positions]
    return [
        values if column.encode is None else [column.encode(value) for value in values]
        for column, values in zip(columns, picked, strict=True)
    ]


def decoder(entity: type[Any]) -> Callable[[Iterable[Any]], Any]:
    """A function from a row's values, in column order, to the entity."""
    decoders = [(position, column.decode) for position, column in enumerate(MAPPINGS[entity].columns) if column.decode]
    make: Callable[[Iterable[Any]], Any] = entity._make
    if not decoders:
        return make

    def decode(values: Iterable[Any]) -> Any:
        row = list(values)
        for position, function in decoders:
            row[position] = function(row[position])
        return make(row)

    return decode


def _column(entity: type[Any], name: str) -> Column:
    column = TABLES[entity].columns[name]
    encode = decode = None
    if isinstance(column.type, JSONB):
        adapter: TypeAdapter[Any] = TypeAdapter(get_type_hints(entity)[name])
        encode, decode = _json_encoder(adapter), lru_cache(_DECODED_CACHE_SIZE)(adapter.validate_json)
    return Column(name, column.type.compile(_DIALECT), encode, decode, bool(column.info.get("mutable")))


def _json_encoder(adapter: TypeAdapter[Any]) -> Callable[[Any], str]:
    return lambda value: adapter.dump_json(value).decode()


def _mapping(entity: type[Any]) -> TableMapping:
    table = TABLES[entity]
    columns = {name: _column(entity, name) for name in entity._fields}
    key = tuple(columns[column.name] for column in table.primary_key if column.name in columns)
    return TableMapping(table.name, tuple(columns.values()), key)


MAPPINGS: dict[type[Any], TableMapping] = {entity: _mapping(entity) for entity in TABLES}
