"""Scores as statistics of sums over images, so that the same resampling serves all. Imports no torch."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


def mean_iou(sums: Floats) -> Floats:
    """Return the mean intersection over union, 0 to 100, over the classes that occur.

    Args:
        sums: (…, 2, K), pixels in the intersection and in the union of each class.
    """
    intersection, union = sums[..., 0, :], sums[..., 1, :]
    with np.errstate(invalid="ignore"):
        share: Floats = 100 * np.nanmean(intersection / union, axis=-1)
    return share


def pixel_accuracy(sums: Floats) -> Floats:
    """Return the share of pixels that are right, 0 to 100, of `sums` (…, 2): right pixels and all pixels."""
    share: Floats = 100 * sums[..., 0] / sums[..., 1]
    return share


def r2(sums: Floats) -> Floats:
    """Return the explained variance of row and column, their mean, 0 to 100; below 0 counts as 0.

    Args:
        sums: (…, 2, 2), squared error and squared distance from the middle, each for row and column.
    """
    explained: Floats = 100 * (1 - sums[..., 0, :] / sums[..., 1, :]).mean(axis=-1).clip(min=0)
    return explained


STATISTICS: dict[str, Statistic] = {"miou": mean_iou, "pixel_accuracy": pixel_accuracy, "r2": r2}
"""By metric, for outcomes that are sums."""
