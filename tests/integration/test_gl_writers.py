"""Files of a GL export depend on their lines alone: not on how the lines came, nor on when."""

from collections.abc import Sequence
from decimal import Decimal
from io import BytesIO
from itertools import pairwise

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from adapters.gl.files import place
from adapters.gl.layout import GlCodes, Line, amount_text
from adapters.gl.writers import ROW_GROUP_LINES, WRITERS
from schemas.gl import GlFormat

LINES: list[Line] = [
    ("1000", f"GL {number}", 'نقد, "x"\r\n', "AED", number, f"{number}.50", "0.00")
    for number in range(2 * ROW_GROUP_LINES + 7)
]


def written(format: GlFormat, cuts: Sequence[int]) -> bytes:
    writer = WRITERS[format]("summary")
    parts = [writer.write(LINES[first:last]) for first, last in pairwise([0, *cuts, len(LINES)])]
    return b"".join([*parts, writer.finish()])


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_the_bytes_are_the_same_however_the_lines_are_handed_over(format: GlFormat) -> None:
    whole = written(format, [])
    assert written(format, [1, ROW_GROUP_LINES - 1, ROW_GROUP_LINES, ROW_GROUP_LINES, len(LINES) - 1]) == whole
    assert written(format, range(9_999, len(LINES), 9_999)) == whole


def test_parquet_holds_exact_decimals_in_bounded_row_groups() -> None:
    found = pq.ParquetFile(BytesIO(written("parquet", [5])))
    assert [found.metadata.row_group(group).num_rows for group in range(3)] == [ROW_GROUP_LINES, ROW_GROUP_LINES, 7]
    assert found.metadata.metadata is None
    last = found.read().slice(len(LINES) - 1).to_pylist()[0]
    assert (last["debit"], last["gl_name"]) == (Decimal(f"{len(LINES) - 1}.50"), 'نقد, "x"\r\n')


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(0, "AED", "0.00"), (5, "JOD", "0.005"), (5, "JPY", "5"), (2**63 - 1, "AFN", "92233720368547758.07")],
)
def test_amounts_have_the_digits_of_their_currency(minor: int, currency: str, text: str) -> None:
    assert amount_text(minor, currency) == text


def test_everything_that_changes_the_bytes_changes_the_key() -> None:
    def key(
        form: str = "detail", extent: tuple[int, int] = (1, 9), code: str = "A", formats: tuple[str, ...] = ("csv",)
    ) -> str:
        mapping = {"1000": GlCodes(code, "Cash")}
        return place(
            region="r",
            tenant_id="t",
            scope="2026-10",
            form=form,  # type: ignore[arg-type]
            formats=formats,  # type: ignore[arg-type]
            extent=extent,
            mapping=mapping,
        ).manifest_key

    assert key() == key() and key(formats=("csv", "jsonl")) == key(formats=("jsonl", "csv"))
    keys = [key(), key(form="summary"), key(extent=(1, 10)), key(code="B"), key(formats=("csv", "jsonl"))]
    assert len(set(keys)) == len(keys)
