"""A chart as SVG: panels over one time axis, drawn with nothing but text."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, PANEL_HEIGHT, LEFT, RIGHT, TOP, GAP = 760, 180, 64, 16, 28, 44
_COLOURS = ("#1f6f8b", "#c8553d", "#5a7d2a")
_TICKS = 5


class Line(NamedTuple):
    """(seconds, value) in order; `steps` holds each value until the next."""

    label: str
    points: Sequence[tuple[float, float]]
    steps: bool = False


class Panel(NamedTuple):
    title: str
    lines: Sequence[Line]


def document(panels: Sequence[Panel]) -> str:
    """The whole file; every panel has its own scale of values from 0, all share the seconds."""
    end = max(point[0] for panel in panels for line in panel.lines for point in line.points) or 1.0
    height = len(panels) * (PANEL_HEIGHT + TOP + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, number * (PANEL_HEIGHT + TOP + GAP) + TOP, end)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, top: int, end: float) -> list[str]:
    step = _nice(max(value for line in panel.lines for _, value in line.points) / _TICKS or 1.0)
    most = step * ceil(max(value for line in panel.lines for _, value in line.points) / step or 1)
    bottom, right = top + PANEL_HEIGHT, WIDTH - RIGHT
    across, up = (right - LEFT) / end, PANEL_HEIGHT / most
    parts = [f'<text x="{LEFT}" y="{top - 10}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in range(round(most / step) + 1):
        y = bottom - tick * step * up
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick * step:,g}</text>')
    seconds = _nice(end / 8)
    for tick in range(floor(end / seconds) + 1):
        x = LEFT + tick * seconds * across
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick * seconds:g} s</text>')
    for number, line in enumerate(panel.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(LEFT + at * across, bottom - value * up) for at, value in line.points]
        parts.append(f'<path d="{_path(points, steps=line.steps)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x = right - 190 * (len(panel.lines) - number) + 20
        parts.append(f'<text x="{x}" y="{top - 10}" fill="{colour}">{escape(line.label)}</text>')
    return parts


def _path(points: Sequence[tuple[float, float]], *, steps: bool) -> str:
    first, *rest = points
    drawn = "".join(f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}" for x, y in rest)
    return f"M{first[0]:.1f} {first[1]:.1f}{drawn}"


def _nice(value: float) -> float:
    """The next of 1, 2, 5, 10, … that is no less."""
    unit = 10.0 ** floor(log10(value))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= value)
