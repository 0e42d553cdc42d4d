"""A figure of pictures of the same aspect ratio, each with a caption."""

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
    """One picture of the figure.

    Attributes:
        caption: Line above the picture.
        picture: Colors (h, w, 3), or a heat map (h, w) from 0 (black) to its 99th percentile; None to leave the tile
            empty below its caption.
    """

    caption: str
    picture: NDArray[Any] | None


def draw(title: str, subtitle: str, bands: list[list[Tile]], aspect: float) -> Figure:
    """Draw bands of tiles below each other; a long band is broken into several rows.

    Tiles of very tall images are drawn shorter, so that the figure is at most `_MAX_HEIGHT` tall, and tiles of very
    wide images taller (`_MIN_ASPECT`). The subtitle then says that they are not to scale.

    Args:
        title: First line.
        subtitle: Second line.
        bands: Tiles of each band.
        aspect: Height of a picture divided by its width.
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
    """Return the rows of a band with their number of columns: 4 to 8 with the fewest empty places, then the most."""
    count = len(band)
    columns = min(range(4, 9), key=lambda n: (-count % n, -n)) if count > 3 else 3
    return [(columns, band[start : start + columns]) for start in range(0, count, columns)]


def _width(columns: int) -> float:
    return (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"…{text[1 - _MAX_CHARACTERS :]}"
