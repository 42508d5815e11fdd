"""Lines in, bytes out, as they come: a writer holds at most one row group in memory.

The same lines give the same bytes, whenever and wherever: no time, host or job in a file. CSV and JSON Lines are written by
code of ours; Parquet's bytes depend on pyarrow's version: `writer_version` says which, and goes into the key.
"""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import orjson
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from adapters.gl.layout import AMOUNTS, COLUMNS, INTEGERS, LAYOUT, Line
from schemas.gl import GlForm, GlFormat

# Lines of one Parquet row group: some 8 MB in memory, and large enough to compress and skip well.
ROW_GROUP_LINES = 25_000
# 34 digits before the point hold any int64 sum; four after it any currency of ISO 4217.
_DECIMAL = pa.decimal128(38, 4)


class Writer(Protocol):
    """`write` and `finish` return the bytes that are ready, in order; after `finish` a writer is spent."""

    def write(self, lines: Sequence[Line]) -> bytes: ...

    def finish(self) -> bytes: ...


class CsvWriter:
    """RFC 4180 in UTF-8 with a header line; an absent value is empty."""

    def __init__(self, form: GlForm) -> None:
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text, lineterminator="\r\n")
        self._csv.writerow(COLUMNS[form])

    def write(self, lines: Sequence[Line]) -> bytes:
        self._csv.writerows(lines)
        return self._taken()

    def finish(self) -> bytes:
        return self._taken()

    def _taken(self) -> bytes:
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.encode()


class JsonLinesWriter:
    """One JSON object a line, its fields in the order of the columns; an absent value is null. Amounts are text."""

    def __init__(self, form: GlForm) -> None:
        self._columns = COLUMNS[form]

    def write(self, lines: Sequence[Line]) -> bytes:
        columns = self._columns
        return b"".join(
            orjson.dumps(dict(zip(columns, line, strict=True)), option=orjson.OPT_APPEND_NEWLINE) for line in lines
        )

    def finish(self) -> bytes:
        return b""


class ParquetWriter:
    """Format 2.6, zstd, amounts as decimal(38, 4). No pandas or Arrow schema in the footer: they would name versions."""

    def __init__(self, form: GlForm) -> None:
        self._sink = _Chunks()
        self._schema = pa.schema([pa.field(name, _arrow_type(name)) for name in COLUMNS[form]])
        self._waiting: Any = self._schema.empty_table()  # as Arrow arrays: a tenth of what the tuples take
        self._parquet: Any = pq.ParquetWriter(
            self._sink, self._schema, version="2.6", compression="zstd", store_schema=False, write_statistics=True
        )

    def write(self, lines: Sequence[Line]) -> bytes:
        if lines:
            self._waiting = pa.concat_tables([self._waiting, self._table(lines)])
        while self._waiting.num_rows >= ROW_GROUP_LINES:
            self._write(self._waiting.slice(0, ROW_GROUP_LINES))
            # Copied, so that the lines that are written can go.
            self._waiting = self._waiting.slice(ROW_GROUP_LINES).take(
                pa.array(range(self._waiting.num_rows - ROW_GROUP_LINES), pa.int64())
            )
        return self._sink.taken()

    def finish(self) -> bytes:
        if self._waiting.num_rows:
            self._write(self._waiting)
        self._parquet.close()
        return self._sink.taken()

    def _write(self, table: Any) -> None:
        self._parquet.write_table(table.combine_chunks(), row_group_size=ROW_GROUP_LINES)
        pa.default_memory_pool().release_unused()  # Arrow's allocator would keep it until it needs it again

    def _table(self, lines: Sequence[Line]) -> Any:
        arrays = [
            pa.array(column, pa.string()).cast(_DECIMAL) if field.name in AMOUNTS else pa.array(column, field.type)
            for field, column in zip(self._schema, zip(*lines, strict=True), strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)


class _Chunks(io.RawIOBase):
    """What pyarrow takes for a file: counts what was written, keeps only what was not taken yet."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        self._chunks.append(chunk)
        self._position += len(chunk)
        return len(chunk)

    def tell(self) -> int:
        return self._position

    def taken(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken


def _arrow_type(name: str) -> pa.DataType:
    if name in AMOUNTS:
        return _DECIMAL
    return pa.int64() if name in INTEGERS else pa.string()


WRITERS: dict[GlFormat, Callable[[GlForm], Writer]] = {
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
    "parquet": ParquetWriter,
}


def writer_version(format: GlFormat) -> str:
    """Names everything that the bytes of a file depend on beside its lines."""
    return f"{format}-{LAYOUT}-pyarrow-{pa.__version__}" if format == "parquet" else f"{format}-{LAYOUT}"
