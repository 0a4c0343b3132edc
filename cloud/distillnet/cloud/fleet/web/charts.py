"""Line charts as SVG text, drawn on the server."""

import datetime
from collections.abc import Mapping, Sequence

from markupsafe import Markup

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720.0, 220.0, 46.0, 22.0, 8.0
_STEPS = (1, 2, 5)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> Markup:
    """Draw (Unix seconds, value) series over a common time axis, from 0 up; "" when there is nothing to draw."""
    points = [point for line in series.values() for point in line]
    if len({ts for ts, _ in points}) < 2:
        return Markup()
    first, last = min(ts for ts, _ in points), max(ts for ts, _ in points)
    top = _ceiling(max(value for _, value in points))

    def place(ts: float, value: float) -> str:
        x = _LEFT + (ts - first) / (last - first) * (_WIDTH - _LEFT - 8)
        y = _TOP + (1 - value / top) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img">']
    for share in (0.0, 0.5, 1.0):
        x, y = place(first, top * share).split(",")
        parts.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{_WIDTH - 8}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y}" class="axis end">{top * share:g} {unit}</text>')
    for ts, anchor in ((first, "start"), (last, "end")):
        x = place(ts, 0).split(",")[0]
        clock = datetime.datetime.fromtimestamp(ts, datetime.UTC).strftime("%H:%M")
        parts.append(f'<text x="{x}" y="{_HEIGHT - 6}" class="axis {anchor}">{clock}</text>')
    for number, line in enumerate(series.values()):
        path = " ".join(place(ts, value) for ts, value in sorted(line))
        parts.append(f'<polyline class="line line{number}" points="{path}"/>')
    parts.append("</svg><p>")
    parts += [f'<span class="key key{number}"></span>{name} ' for number, name in enumerate(series)]
    return Markup("".join(parts) + "</p>")


def _ceiling(value: float) -> float:
    """The next of 1, 2, 5, 10, … at or above a value."""
    size = 1e-3
    while True:
        for step in _STEPS:
            if step * size >= value:
                return step * size
        size *= 10
