"""Numbers of the inline SVG of a report: interval bars and curves. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

WIDTH, HEIGHT = 480, 250
"""Size of a curve's drawing area in the units of its viewBox."""
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 36


@dataclass(frozen=True)
class Bar:
    """A value with its interval on an axis; all positions are in percent of its length.

    Attributes:
        origin: Position of zero.
        value: Position of the value.
        low: Position of the lower bound.
        high: Position of the upper bound.
    """

    origin: float
    value: float
    low: float
    high: float


def bar(row: Mapping[str, Any], start: float, end: float) -> Bar:
    """Return the positions of `value`, `low` and `high` on an axis from `start` to `end`, cut at its ends."""
    span = (end - start) or 1

    def place(value: float) -> float:
        return round(min(max(100 * (value - start) / span, 0), 100), 2)

    return Bar(place(0), place(row["value"]), place(row["low"]), place(row["high"]))


def score_axis(rows: Sequence[Mapping[str, Any]], unit: str) -> tuple[float, float]:
    """Return the ends of an axis for scores: 0 to 100 for percent, else 0 to the largest bound."""
    return (0, 100) if unit == "%" else (0, max((row["high"] for row in rows), default=1) * 1.05)


def difference_axis(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the ends of an axis for differences, with zero in the middle."""
    limit = max((abs(row[end]) for row in rows for end in ("low", "high")), default=1) * 1.05
    return -limit, limit


@dataclass(frozen=True)
class Line:
    """A line of a curve, in the units of the viewBox.

    Attributes:
        name: Name in the legend.
        color: Color.
        dash: Value of stroke-dasharray; empty for a solid line.
        points: (x, y, text) of each value.
        band: Points of the outline of the interval; empty to draw none.
    """

    name: str
    color: str
    dash: str
    points: tuple[tuple[float, float, str], ...]
    band: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Curve:
    """Scores over the number of dimensions.

    Attributes:
        title: Name of the benchmark.
        unit: Unit of the scores.
        split: Split of the scores.
        lines: The lines; the last one is drawn on top.
        columns: Position and text of each number of dimensions.
        heights: Position and text of each horizontal line.
    """

    title: str
    unit: str
    split: str
    lines: tuple[Line, ...]
    columns: tuple[tuple[float, str], ...]
    heights: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Series:
    """Rows of `results.json` by number of dimensions, and how they are drawn."""

    name: str
    color: str
    rows: Mapping[int, Mapping[str, Any]]
    dash: str = ""
    with_band: bool = False


def curve(title: str, unit: str, split: str, series: Sequence[Series]) -> Curve:
    """Return a curve on a logarithmic axis of dimensions."""
    widths = sorted({width for line in series for width in line.rows})
    bounds = [value for line in series for row in line.rows.values() for value in _bounds(row, line.with_band)]
    step = _step(max(bounds) - min(bounds))
    low, high = step * math.floor(min(bounds) / step), step * math.ceil(max(bounds) / step)
    high = high if high > low else low + step
    first, last = math.log2(widths[0]), math.log2(widths[-1])

    def x(width: int) -> float:
        share = (math.log2(width) - first) / (last - first) if last > first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for line in series:
        rows = sorted(line.rows.items())
        points = tuple(
            (x(width), y(row["value"]), f"{line.name}, {width} dimensions: {row['value']:.1f}") for width, row in rows
        )
        outline = [(x(width), y(row["low"])) for width, row in rows]
        outline += [(x(width), y(row["high"])) for width, row in reversed(rows)]
        lines.append(Line(line.name, line.color, line.dash, points, tuple(outline) if line.with_band else ()))
    ticks = [low + step * index for index in range(round((high - low) / step) + 1)]
    return Curve(
        title,
        unit,
        split,
        tuple(lines),
        tuple((x(width), str(width)) for width in widths),
        tuple((y(tick), f"{tick:g}") for tick in ticks),
    )


def _bounds(row: Mapping[str, Any], with_band: bool) -> Sequence[float]:
    return (row["low"], row["high"]) if with_band else (row["value"],)


def _step(span: float) -> float:
    """Return a round distance of horizontal lines, of which about four fit into the span."""
    target = max(span, 1e-9) / 4
    power = 10 ** math.floor(math.log10(target))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= target * (1 - 1e-9))


Judged = Literal["better", "worse", "higher", "lower", "open"]


def judged(row: Mapping[str, Any], higher_is_better: bool, is_task: bool = True) -> Judged:
    """Return what the interval of a difference shows; `is_task` says whether one direction is better."""
    if row["low"] <= 0 <= row["high"]:
        return "open"
    if not is_task:
        return "higher" if row["value"] > 0 else "lower"
    return "better" if (row["value"] > 0) == higher_is_better else "worse"
