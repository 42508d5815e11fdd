"""The text of a PDF in logical order, as a viewer gets it when somebody copies a page.

pypdf reads the objects; its own `extract_text` turns native digits and whole lines of right-to-left text round. typst marks what
is painted backwards (/ReversedChars, PDF 32000-1 §14.8.2.3.3) and gives /ActualText where glyphs and characters differ: with
those two and the positions, a line is its segments from the side where the language begins.
"""

import io
import re
from itertools import groupby
from typing import Any, NamedTuple

from pypdf import PageObject, PdfReader
from pypdf.generic import ContentStream

_SAME_LINE_POINTS = 2.5
_ISOLATES = re.compile("[\u2066-\u2069]")
Matrix = tuple[float, float, float, float, float, float]


class Segment(NamedTuple):
    y: float
    x: float
    text: str  # in logical order
    rtl: bool


def lines(pdf: bytes, *, rtl: bool) -> list[str]:
    """Every line of every page from top to bottom, isolates removed; the columns of a table row are one line."""
    return [line for page in PdfReader(io.BytesIO(pdf)).pages for line in _page_lines(page, rtl)]


def _page_lines(page: PageObject, rtl: bool) -> list[str]:
    rows: list[list[Segment]] = []
    for segment in sorted(_segments(page), key=lambda segment: -segment.y):
        if rows and rows[-1][0].y - segment.y < _SAME_LINE_POINTS:
            rows[-1].append(segment)
        else:
            rows.append([segment])
    return [_line(row, rtl) for row in rows]


def _line(row: list[Segment], rtl: bool) -> str:
    """Segments from the side where the language begins; neighbours of the other direction keep their own order."""
    ordered = sorted(row, key=lambda segment: segment.x, reverse=rtl)
    groups = [(is_rtl, list(group)) for is_rtl, group in groupby(ordered, lambda segment: segment.rtl)]
    texts = [each.text for is_rtl, group in groups for each in (group if is_rtl == rtl else reversed(group))]
    return re.sub(" +", " ", _ISOLATES.sub("", "".join(texts))).strip()


def _segments(page: PageObject) -> list[Segment]:
    """What each text-showing operator shows, where."""
    fonts = {name: _to_unicode(font.get_object()) for name, font in page["/Resources"]["/Font"].items()}  # type: ignore[index]
    found, stack, marks = [], [], list[tuple[bool, str | None]]()
    matrix: Matrix = (1, 0, 0, 1, 0, 0)
    text_matrix, font = matrix, dict[int, str]()
    for operands, operator in ContentStream(page.get_contents(), page.pdf).operations:
        if operator == b"q":
            stack.append(matrix)
        elif operator == b"Q":
            matrix = stack.pop()
        elif operator == b"cm":
            matrix = _times(_matrix(operands), matrix)
        elif operator == b"Tm":
            text_matrix = _times(_matrix(operands), matrix)
        elif operator == b"Tf":
            font = fonts[operands[0]]
        elif operator in (b"BMC", b"BDC"):
            properties = operands[1] if len(operands) > 1 and isinstance(operands[1], dict) else {}
            marks.append((operands[0] == "/ReversedChars", properties.get("/ActualText")))
        elif operator == b"EMC":
            marks.pop()
        elif operator in (b"Tj", b"TJ"):
            reversed_characters = any(is_reversed for is_reversed, _ in marks)
            actual = next((text for _, text in marks if text is not None), None)
            text = actual if actual is not None else _text(operands[0], font, reversed_characters)
            found.append(Segment(text_matrix[5], text_matrix[4], str(text), reversed_characters))
    return found


def _text(operand: Any, font: dict[int, str], reversed_characters: bool) -> str:
    shown = operand if isinstance(operand, list) else [operand]
    codes = b"".join(each.original_bytes for each in shown if hasattr(each, "original_bytes"))
    characters = [font[int.from_bytes(codes[at : at + 2])] for at in range(0, len(codes), 2)]
    return "".join(reversed(characters) if reversed_characters else characters)


def _to_unicode(font: Any) -> dict[int, str]:
    """Glyph code → characters, of the bfchar sections (typst writes no other)."""
    text = font["/ToUnicode"].get_data().decode()
    return {
        int(code, 16): bytes.fromhex(characters).decode("utf-16-be")
        for section in re.findall(r"beginbfchar(.*?)endbfchar", text, re.DOTALL)
        for code, characters in re.findall(r"<([0-9A-Fa-f]+)> *<([0-9A-Fa-f]+)>", section)
    }


def _matrix(operands: Any) -> Matrix:
    a, b, c, d, e, f = (float(each) for each in operands)
    return a, b, c, d, e, f


def _times(one: Matrix, two: Matrix) -> Matrix:
    a, b, c, d, e, f = one
    g, h, i, j, k, m = two
    return a * g + b * i, a * h + b * j, c * g + d * i, c * h + d * j, e * g + f * i + k, e * h + f * j + m
