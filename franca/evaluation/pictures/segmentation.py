"""Images of the dense set with their patch features as colors, and with true and predicted masks."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from franca.benchmarks import OURS, RANDOM_INIT
from franca.data.store.prepared import DenseSet
from franca.drawing import PrincipalColors
from franca.evaluation.pictures.style import CLASS_COLORS, UNLABELED, rgb, style
from franca.evaluation.segmenter import Segmenter, patch_features

MAX_COLUMNS = 6


def draw_patch_maps(images: DenseSet, rows: list[int], segmenters: dict[str, Segmenter]) -> Figure:
    """Draw images above the first three principal components of their patch features as red, green and blue."""
    bands = {"image": [np.asarray(images[row]) for row in rows]}
    for name in _drawn(segmenters):
        segmenter = segmenters[name]
        features = [patch_features(segmenter.extractor, images[row], segmenter.side) for row in rows]
        # One fit for all images of a model, so that a color means the same in all of them.
        colors = PrincipalColors.fit(torch.cat([part.flatten(0, 1) for part in features]))
        bands[style(name)[0]] = [colors(part) for part in features]
    return _tiles(bands)


def draw_masks(images: DenseSet, rows: list[int], segmenters: dict[str, Segmenter]) -> Figure:
    """Draw images above their true and their predicted masks."""
    palette = np.array([rgb(CLASS_COLORS[i % len(CLASS_COLORS)]) for i in range(len(images.classes))])
    truth = []
    for row in rows:
        mask = images.mask(row)
        known = mask != images.ignore
        truth.append(np.where(known[..., None], palette[np.where(known, mask, 0)], rgb(UNLABELED)))
    bands = {"image": [np.asarray(images[row]) for row in rows], "ground truth": truth}
    for name in _drawn(segmenters):
        bands[style(name)[0]] = [palette[segmenters[name](images[row]).cpu().numpy()] for row in rows]
    # A legend only if no color stands for two classes.
    names = images.classes if len(images.classes) <= len(CLASS_COLORS) else []
    return _tiles(bands, dict(zip(names, CLASS_COLORS, strict=False)))


def _drawn(segmenters: dict[str, Segmenter]) -> list[str]:
    return [name for name in (OURS, RANDOM_INIT) if name in segmenters]


def _tiles(bands: dict[str, list[NDArray[Any]]], legend: dict[str, str] | None = None) -> Figure:
    """Draw a column per image and a row per band; after `MAX_COLUMNS` columns the rows start again below."""
    count = len(next(iter(bands.values())))
    columns = min(count, MAX_COLUMNS)
    blocks = -(-count // columns)
    figure = Figure(
        figsize=(0.4 + 1.55 * columns, 1.55 * len(bands) * blocks + (0.4 if legend else 0.1)),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    grid = figure.subplots(len(bands) * blocks, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for index in range(count):
        block, column = divmod(index, columns)
        for row, (name, pictures) in enumerate(bands.items()):
            axes = grid[block * len(bands) + row, column]
            axes.imshow(_central_square(pictures[index]), interpolation="nearest")
            if column == 0:
                axes.set_ylabel(name, fontsize=10)
    if legend:
        handles = [Patch(facecolor=color, label=name) for name, color in legend.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
    return figure


def _central_square(picture: NDArray[Any]) -> NDArray[Any]:
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]
