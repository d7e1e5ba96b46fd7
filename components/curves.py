"""Curves of a training as small drawings in SVG, which take the colours of the page around them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 280, 90  # of a drawing, in units of its own
POINTS = 140  # of a curve; more are means of neighbours

Readings = Sequence[tuple[int, float, float]]  # step, seconds since 1970, value


def drawings(curves: Mapping[str, Readings]) -> str:
    """Each curve of two points or more, with its name, its least, its greatest and its last value, as HTML."""
    return "".join(_figure(name, points) for name, points in curves.items() if len(_finite(points)) > 1)


def _figure(name: str, readings: Readings) -> str:
    finite = _finite(readings)
    points = list(_thinned(finite))
    values = [value for _, value in finite]
    low, high, last = min(values), max(values), values[-1]
    path = " ".join(_place(point, points, low, high) for point in points)
    told = f"{name}, from {low:.4g} to {high:.4g}, {last:.4g} at last, after {finite[-1][0]:,} steps"
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told, quote=True)}">'
        f'<polyline points="{path}"/></svg><figcaption>{escape(name)} <small>{low:.3g} to {high:.3g}, last '
        f"{last:.3g}</small></figcaption></figure>"
    )


def _finite(readings: Readings) -> list[tuple[int, float]]:
    return [(step, value) for step, _, value in readings if math.isfinite(value)]


def _thinned(points: Sequence[tuple[int, float]]) -> Iterator[tuple[float, float]]:
    """At most `POINTS` of them, each the mean of as many neighbours."""
    size = math.ceil(len(points) / POINTS)
    for start in range(0, len(points), size):
        part = points[start : start + size]
        yield sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)


def _place(point: tuple[float, float], points: Sequence[tuple[float, float]], low: float, high: float) -> str:
    first, last = points[0][0], points[-1][0]
    x = WIDTH * (point[0] - first) / max(last - first, 1)
    y = 2 + (HEIGHT - 4) * (high - point[1]) / ((high - low) or 1)
    return f"{x:.1f},{y:.1f}"
