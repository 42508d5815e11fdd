"""Line charts as SVG, small enough to write by hand: one or more series over one axis, on a plain white ground."""

from collections.abc import Mapping, Sequence
from math import ceil, log10
from pathlib import Path
from typing import Any, NamedTuple

from tools.bench.observe import BenchError

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 44, 56
_COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#374151", "#be185d")
_TICKS = 5

Points = Sequence[tuple[float, float]]


class Chart(NamedTuple):
    """`series`: points by label, each over the same kind of x. The x axis is logarithmic, the y axis starts at 0."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Points]


def svg(chart: Chart) -> str:
    """The picture. Raises BenchError for a chart without points."""
    points = [point for line in chart.series.values() for point in line]
    if not points:
        raise BenchError(f"{chart.title}: nothing to draw")
    xs = sorted({x for x, _ in points})
    top = _nice(max(y for _, y in points))
    low, high = log10(xs[0]), log10(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (log10(x) - low) / (high - low) if high > low else 0.5
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_WIDTH / 2, 18, chart.title, size=14), _text(_WIDTH / 2, _HEIGHT - 10, chart.x_label)]
    parts.append(_text(_LEFT - 8, _TOP - 8, chart.y_label, anchor="end"))
    for step in range(_TICKS + 1):
        value = top * step / _TICKS
        y = place(xs[0], value)[1]
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{value:,.0f}", anchor="end"))
    parts += [_text(place(x, 0)[0], _HEIGHT - _BOTTOM + 18, f"{x:,.0f}") for x in xs]
    for number, (label, line) in enumerate(chart.series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [place(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(_LEFT + 10 + 140 * number, _TOP - 8, label, anchor="start", colour=colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def charts(document: Mapping[str, Any]) -> dict[str, Chart]:
    """By file name, those that the document has figures for."""
    found = {}
    if limits := document.get("batch_limits"):
        line = [(each["limit"], each["payments_per_second"]) for each in limits]
        found["batch-limit.svg"] = Chart(
            "Throughput against the batch limit", "messages of a fetch", "/s", {"mesh": line}
        )
    if tenants := document.get("tenants"):
        line = [(each["tenants"], each["payments_per_second"]) for each in tenants]
        found["tenants.svg"] = Chart("Throughput against tenants", "tenants", "/s", {"mesh": line})
    for way, loads in document.get("latency", {}).items():
        if loads:
            lines = {p: [(each["offered_per_second"], each[p]) for each in loads] for p in ("p50", "p95", "p99")}
            title = f"Latency against load, over {way.upper()}"
            found[f"latency-{way}.svg"] = Chart(title, "offered per second", "ms", lines)
    return found


def write(document: Mapping[str, Any], directory: Path) -> list[str]:
    """Writes the document's charts, and returns their names."""
    found = charts(document)
    for name, chart in found.items():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(svg(chart), encoding="utf-8")
    return list(found)


def _nice(value: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below the value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (ceil(log10(value)) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 11, colour: str = "#111827") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{text}</text>'
