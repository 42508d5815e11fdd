"""How different two PNG files look. Standard library only: the pictures are small, and nearly always equal to the byte."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_BLOCK = 8  # pixels: about one digit at 72 pixels an inch


class Picture(NamedTuple):
    width: int
    height: int
    rows: list[bytes]  # luminance, one byte a pixel


def distance(one: bytes, other: bytes) -> float:
    """The mean difference (0–255) of the 8 × 8 block that differs most; infinite for different sizes.

    The worst block, not the mean of the page: one changed digit is a block of its own, while the anti-aliasing of another
    processor spreads a little over all of them.
    """
    if one == other:
        return 0.0
    first, second = decoded(one), decoded(other)
    if (first.width, first.height) != (second.width, second.height):
        return float("inf")
    return max(_block_differences(first, second), default=0.0)


def decoded(png: bytes) -> Picture:
    """Luminance of an 8-bit RGB or RGBA picture without interlacing (PNG specification §4, §9). Transparency is white."""
    header, data = b"", b""
    for kind, chunk in _chunks(png):
        if kind == b"IHDR":
            header = chunk
        elif kind == b"IDAT":
            data += chunk
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or colour not in (2, 6) or interlaced:
        raise ValueError("only 8-bit RGB and RGBA pictures without interlacing")
    size = 3 if colour == 2 else 4
    return Picture(
        width, height, [_luminance(row, size) for row in _unfiltered(zlib.decompress(data), width * size, size)]
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _unfiltered(raw: bytes, stride: int, size: int) -> Iterator[bytes]:
    above = bytearray(stride)
    for at in range(0, len(raw), stride + 1):
        kind, row = raw[at], bytearray(raw[at + 1 : at + 1 + stride])
        if kind == 2:
            row = bytearray((value + up) & 255 for value, up in zip(row, above, strict=True))
        elif kind:
            _undo(kind, row, above, size)
        yield bytes(row)
        above = row


def _undo(kind: int, row: bytearray, above: bytearray, size: int) -> None:
    """Filters that look at the pixel to the left: 1 sub, 3 average, 4 Paeth."""
    for at, value in enumerate(row):
        left = row[at - size] if at >= size else 0
        up, corner = above[at], above[at - size] if at >= size else 0
        row[at] = (value + (left if kind == 1 else (left + up) // 2 if kind == 3 else _paeth(left, up, corner))) & 255


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    by_left, by_up, by_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if by_left <= by_up and by_left <= by_corner:
        return left
    return up if by_up <= by_corner else corner


def _luminance(row: bytes, size: int) -> bytes:
    greens = row[1::size]
    return greens if size == 3 else bytes(255 - (255 - g) * a // 255 for g, a in zip(greens, row[3::size], strict=True))


def _block_differences(one: Picture, other: Picture) -> Iterator[float]:
    for top in range(0, one.height, _BLOCK):
        pairs = list(zip(one.rows[top : top + _BLOCK], other.rows[top : top + _BLOCK], strict=True))
        if all(first == second for first, second in pairs):
            continue
        for left in range(0, one.width, _BLOCK):
            differences = [
                abs(a - b)
                for first, second in pairs
                for a, b in zip(first[left : left + _BLOCK], second[left : left + _BLOCK], strict=True)
            ]
            yield sum(differences) / len(differences)
