"""A sheet of pictures of one aspect, each with a line above it."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Lengths in inches.
_WIDTH, _MARGIN, _GAP, _TITLE, _CAPTION = 9.0, 0.15, 0.12, 0.55, 0.25
_MAX_HEIGHT = 40.0
_MIN_ASPECT = 1 / 8
_MAX_CHARACTERS = 110


class Tile(NamedTuple):
    """A picture (h, w, 3), or heat (h, w) from black, 0, to bright, its 99th percentile; the caption alone if None."""

    caption: str
    picture: NDArray[Any] | None


def draw(title: str, subtitle: str, bands: list[list[Tile]], aspect: float) -> Figure:
    """A figure of bands of tiles, each `aspect` times as high as wide; a band breaks into rows if it is long.

    Strips are drawn less tall, so that the figure is no taller than `_MAX_HEIGHT`, or less flat (`_MIN_ASPECT`). The
    subtitle then says that the tiles are not to scale.
    """
    rows = [row for band in bands for row in _rows(band)]
    widths = sum(_width(columns) for columns, _ in rows)
    room = _MAX_HEIGHT - _TITLE - len(rows) * (_CAPTION + _GAP)
    shown = max(min(aspect, room / widths), _MIN_ASPECT)
    if shown != aspect:
        aspect, subtitle = shown, f"not to scale; {subtitle}"
    height = _TITLE + len(rows) * (_CAPTION + _GAP) + aspect * widths
    figure = Figure(figsize=(_WIDTH, height))
    figure.text(
        _MARGIN / _WIDTH, 1 - 0.27 / height, _shortened(title), fontsize=10, fontweight="bold", parse_math=False
    )
    figure.text(
        _MARGIN / _WIDTH, 1 - 0.46 / height, _shortened(subtitle), fontsize=10, color="#6c757d", parse_math=False
    )
    top = height - _TITLE
    for columns, row in rows:
        width = _width(columns)
        top -= _CAPTION + aspect * width
        for column, tile in enumerate(row):
            left = _MARGIN + column * (width + _GAP)
            axes = figure.add_axes((left / _WIDTH, top / height, width / _WIDTH, aspect * width / height))
            axes.set_axis_off()
            axes.set_title(tile.caption, loc="left", fontsize=9 if columns < 5 else 8, pad=3)
            if tile.picture is not None:
                heat = {"cmap": "magma", "vmin": 0, "vmax": np.quantile(tile.picture, 0.99)}
                axes.imshow(tile.picture, aspect="auto", **(heat if tile.picture.ndim == 2 else {}))
        top -= _GAP
    return figure


def _rows(band: list[Tile]) -> list[tuple[int, list[Tile]]]:
    """Rows of a band with their number of columns: as full as can be, then as long."""
    count = len(band)
    columns = min(range(4, 9), key=lambda n: (-count % n, -n)) if count > 3 else 3
    return [(columns, band[start : start + columns]) for start in range(0, count, columns)]


def _width(columns: int) -> float:
    return (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"…{text[1 - _MAX_CHARACTERS :]}"
