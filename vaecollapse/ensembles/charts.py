"""Line plots and bars as SVG, written by hand: text and axes in `currentColor`, so that a page may be light or dark."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 72.0, 16.0, 32.0, 52.0  # margins
COLOURS = ("#1f9e89", "#e8743b", "#8b6fc0", "#c0392b")  # readable on white and on black
Point = tuple[float, float]


class Line(NamedTuple):
    """Points joined in their order; dashed for what is no measurement."""

    name: str
    points: Sequence[Point]
    dashed: bool = False


class Axis(NamedTuple):
    """What is along it, from where to where, in equal steps or in equal ratios."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 at its beginning, 1 at its end.

        >>> Axis("T", 1.0, 4.0, log=True).share(2.0)
        0.5
        """
        of = math.log if self.log else float
        return (of(value) - of(self.low)) / ((of(self.high) - of(self.low)) or 1.0)

    @property
    def ticks(self) -> list[float]:
        """Round values within it.

        >>> Axis("T", 0.2, 3.0, log=True).ticks, Axis("rank", 0.0, 1.0).ticks
        ([0.2, 0.5, 1.0, 2.0], [0.0, 0.25, 0.5, 0.75, 1.0])
        """
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            within = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
            within = [v for v in within if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
            return within if len(within) < 8 else [v for v in within if math.log10(v) % 1 < 1e-9]
        raw = (self.high - self.low) / 4 or 1.0
        size = 10 ** math.floor(math.log10(raw))
        step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * (1 - 1e-9))
        first, last = (math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9))
        return [float(step * number) for number in range(first, last + 1)]


def spanned(label: str, values: Sequence[float], *, log: bool = False) -> Axis:
    """An axis that holds all values, with a little room; those that a logarithm has none of are left out."""
    held = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(held), max(held)
    if log:
        return Axis(label, low / 1.15, high * 1.15, True)
    room = 0.05 * (high - low) or 0.5
    return Axis(label, low - room, high + room)


def plot(x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Lines with their names above; points that the axes cannot show are left out."""
    drawn = [_line(line, x, y, colour) for line, colour in zip(lines, _colours(len(lines)), strict=True)]
    return _svg([*_frame(x, y), *drawn, *_legend(lines)])


def bars(x: Axis, y: Axis, heights: Sequence[float], level: float, named: str) -> str:
    """A bar for each of 0, 1, …, and a dashed line at `level`, named."""
    wide, parts = 0.8 / len(heights), []
    for number, height in enumerate(heights):
        left, top = _at(x, y, ((number + 0.1) / len(heights), height), of_share=True)
        right, bottom = _at(x, y, ((number + 0.1) / len(heights) + wide, y.low), of_share=True)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{max(0.0, bottom - top):.1f}" '
            f'fill="{COLOURS[0]}"/>'
        )
    line = Line(named, [(x.low, level), (x.high, level)], dashed=True)
    return _svg([*_frame(x, y), *parts, _line(line, x, y, "currentColor"), *_legend([line])])


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _at(x: Axis, y: Axis, point: Point, *, of_share: bool = False) -> Point:
    across = point[0] if of_share else x.share(point[0])
    return (
        LEFT + across * (WIDTH - LEFT - RIGHT),
        HEIGHT - BOTTOM - y.share(point[1]) * (HEIGHT - TOP - BOTTOM),
    )


def _line(line: Line, x: Axis, y: Axis, colour: str) -> str:
    shown = [
        p for p in line.points if all(map(math.isfinite, p)) and not ((x.log and p[0] <= 0) or (y.log and p[1] <= 0))
    ]
    path = " ".join("{:.1f},{:.1f}".format(*_at(x, y, point)) for point in shown)
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    stroke = "currentColor" if line.dashed else colour
    return f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="2"{dash}/>'


def _frame(x: Axis, y: Axis) -> list[str]:
    """Axes, ticks and labels."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT:g},{TOP:g}V{bottom:g}H{right:g}" fill="none" stroke="currentColor"/>']
    for value in x.ticks:
        across = _at(x, y, (value, y.low))[0]
        parts += [
            f'<path d="M{across:.1f},{bottom:g}v5" stroke="currentColor"/>',
            _text(across, bottom + 19, f"{value:.4g}", "middle"),
        ]
    for value in y.ticks:
        down = _at(x, y, (x.low, value))[1]
        grid = f'<path d="M{LEFT:g},{down:.1f}H{right:g}" stroke="currentColor" stroke-opacity=".15"/>'
        parts += [grid, _text(LEFT - 6, down + 4, f"{value:.3g}", "end")]
    turned = f'transform="rotate(-90 16 {(TOP + bottom) / 2:.0f})"'
    return [*parts, _text((LEFT + right) / 2, bottom + 37, x.label, "middle"),
            _text(16.0, (TOP + bottom) / 2, y.label, "middle", turned)]  # fmt: skip


def _legend(lines: Sequence[Line]) -> list[str]:
    """Names in a row above, each in its line's colour."""
    parts, across = [], LEFT
    for line, colour in zip(lines, _colours(len(lines)), strict=True):
        fill = "currentColor" if line.dashed else colour
        said = f"– – {line.name}" if line.dashed else line.name
        parts.append(_text(across, 16.0, said, "start", f'style="fill:{fill}"'))
        across += 8 * len(said) + 16
    return parts


def _text(x: float, y: float, said: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(said)}</text>'


def _svg(parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
    return "\n".join([f'{head} font-family="sans-serif" font-size="13" fill="currentColor">', *parts, "</svg>\n"])
