"""The page's pictures: well-formed, every point inside the frame, nothing drawn from nothing."""

from xml.etree import ElementTree

import pytest

from tools.bench.observe import BenchError
from tools.bench.pictures import Chart, charts, svg

_SVG = "{http://www.w3.org/2000/svg}"


def test_every_point_is_drawn_inside_the_frame() -> None:
    root = ElementTree.fromstring(svg(Chart("t", "x", "y", {"a": [(1, 10), (1_000, 4_321)], "b": [(10, 0)]})))  # noqa: S314  our own
    circles = root.findall(f"{_SVG}circle")
    assert len(circles) == 3
    assert all(0 <= float(each.get("cx", "-1")) <= 640 and 0 <= float(each.get("cy", "-1")) <= 320 for each in circles)


def test_there_is_a_picture_of_what_was_measured_only() -> None:
    load = {"offered_per_second": 100, "p50": 1.0, "p95": 2.0, "p99": 3.0}
    assert list(charts({"latency": {"nats": [load], "http": []}, "tenants": []})) == ["latency-nats.svg"]
    with pytest.raises(BenchError):
        svg(Chart("t", "x", "y", {}))
