"""Line charts as SVG, without a plotting package."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vila_hd.errors import VilaHDError

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8a5a9e", "#c98a1b", "#4a4e57")
WIDTH, HEIGHT = 600, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 194, 28, 46

Place = Callable[[float, float], tuple[float, float]]
"""Values of a point -> where it is drawn."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series."""

    name: str

    points: tuple[tuple[float, float], ...]
    """``(x, y)`` in any order; they are joined from left to right."""

    labels: tuple[str, ...] = ()
    """Text at each point, shown by a browser under the pointer; empty: none."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Series over one pair of axes."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]

    ticks: tuple[tuple[float, str], ...] = ()
    """Positions and texts along x; empty: chosen by the values."""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that lie in ``[low, high]``."""
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 0.5)
    return low - margin, high + margin


def _panel(chart: Chart, offset: int) -> list[str]:
    points = [point for line in chart.lines for point in line.points]
    x_low, x_high = _bounds([x for x, _ in points] + [position for position, _ in chart.ticks])
    y_low, y_high = _bounds([y for _, y in points])
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = offset + LEFT + inner_width * (x - x_low) / (x_high - x_low)
        return round(across, 1), round(TOP + inner_height * (y_high - y) / (y_high - y_low), 1)

    parts = [
        f'<rect x="{offset + LEFT}" y="{TOP}" width="{inner_width}" height="{inner_height}" fill="none" '
        'stroke="#999"/>',
        _text(offset + LEFT, TOP - 10, chart.title, weight="bold"),
        _text(offset + LEFT + inner_width / 2, HEIGHT - 8, chart.x, anchor="middle"),
        f'<g transform="translate({offset + 12} {TOP + inner_height / 2}) rotate(-90)">'
        f"{_text(0, 0, chart.y, anchor='middle')}</g>",
    ]
    for value in nice_ticks(y_low, y_high):
        x, y = at(x_low, value)
        parts.append(f'<path d="M{x} {y}h{inner_width}" stroke="#e4e4e4"/>')
        parts.append(_text(x - 5, y + 4, f"{value:g}", anchor="end"))
    for value, text in chart.ticks or [(value, f"{value:g}") for value in nice_ticks(x_low, x_high)]:
        x, y = at(value, y_low)
        parts.append(_text(x, y + 15, text, anchor="middle"))
    for number, line in enumerate(chart.lines):
        parts += _line(line, COLOURS[number % len(COLOURS)], at, number, offset)
    return parts


def _line(line: Line, colour: str, at: Place, number: int, offset: int) -> list[str]:
    labels = line.labels or ("",) * len(line.points)
    order = sorted(zip(line.points, labels, strict=True))
    places = [at(*point) for point, _ in order]
    path = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>']
    for (x, y), (point, label) in zip(places, order, strict=True):
        hint = f"<title>{escape(f'{line.name} {label}: {point[0]:g}, {point[1]:.1f}')}</title>"
        parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}">{hint}</circle>')
    parts.append(_text(offset + WIDTH - RIGHT + 8, TOP + 10 + 16 * number, line.name, colour=colour))
    return parts


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def draw(charts: Sequence[Chart]) -> str:
    """Charts side by side as one SVG document. Every chart needs a point."""
    panels = [part for number, chart in enumerate(charts) for part in _panel(chart, number * WIDTH)]
    size = f'width="{WIDTH * len(charts)}" height="{HEIGHT}"'
    box = f"0 0 {WIDTH * len(charts)} {HEIGHT}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="{box}" font-family="sans-serif" '
            'font-size="11">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *panels,
            "</svg>\n",
        ]
    )


def save(charts: Sequence[Chart], path: Path) -> None:
    """Write charts as an SVG file.

    Raises:
        VilaHDError: it cannot be written.
    """
    try:
        path.write_text(draw(charts), encoding="utf-8")
    except OSError as error:
        raise VilaHDError(f"cannot write {path}: {error.strerror}; give another --out folder") from error
