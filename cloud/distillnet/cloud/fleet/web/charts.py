"""Charts as SVG text, drawn on the server."""

import datetime
import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720.0, 226.0, 62.0, 22.0, 14.0
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


def front(points: Sequence[tuple[float, float, str]], x_label: str, y_label: str) -> Markup:
    """Draw (cost, merit, name) points, the Pareto front filled and joined; "" for fewer than two of them."""
    if len(points) < 2:
        return Markup()
    right = _ceiling(max(cost for cost, _, _ in points))
    bottom = math.floor(20 * min(merit for _, merit, _ in points) - 0.5) / 20
    top = math.ceil(20 * max(merit for _, merit, _ in points) + 0.5) / 20

    def place(cost: float, merit: float) -> tuple[float, float]:
        x = _LEFT + cost / right * (_WIDTH - _LEFT - 90)
        return x, _TOP + (top - merit) / (top - bottom) * (_HEIGHT - _TOP - 2 * _BOTTOM)

    best = pareto(points)
    parts = [f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img">']
    for merit in (bottom, (bottom + top) / 2, top):
        x, y = place(0, merit)
        parts.append(f'<line class="grid" x1="{x:g}" y1="{y:.1f}" x2="{_WIDTH - 90}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" class="axis end">{merit:.3g}</text>')
    floor = place(0, bottom)[1] + 14
    for cost, anchor in ((0.0, "start"), (right, "end")):
        parts.append(f'<text x="{place(cost, 0)[0]:.1f}" y="{floor:.1f}" class="axis {anchor}">{cost:g}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 4}" class="axis">{escape(y_label)} against {escape(x_label)}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(cost, merit) for cost, merit, _ in best))
    parts.append(f'<polyline class="line line1" points="{path}"/>')
    for point in points:
        x, y = place(*point[:2])
        kind = "best" if point in best else "other"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 7:.1f}" class="axis">{escape(point[2])}</text>')
    return Markup("".join(parts) + "</svg>")


def pareto(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return the (cost, merit, name) points that none beats in both, cheapest first."""
    best: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def _ceiling(value: float) -> float:
    """The next of 1, 2, 5, 10, … at or above a value."""
    size = 1e-3
    while True:
        for step in _STEPS:
            if step * size >= value:
                return step * size
        size *= 10
