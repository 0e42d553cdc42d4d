"""Scores computed from sums over images, so that resampling images is the same for all of them. Imports no torch."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from franca.probes.r2 import position_r2

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


def mean_iou(sums: Floats) -> Floats:
    """Return the mean intersection over union in percent, over the classes that occur.

    Args:
        sums: (..., 2, K), pixels in the intersection and in the union of each class.
    """
    intersection, union = sums[..., 0, :], sums[..., 1, :]
    # A class that occurs in no mask and in no prediction has union 0: its IoU is NaN and is left out of the mean.
    with np.errstate(invalid="ignore"):
        share: Floats = 100 * np.nanmean(intersection / union, axis=-1)
    return share


def pixel_accuracy(sums: Floats) -> Floats:
    """Return the percentage of correct pixels.

    Args:
        sums: (..., 2), numbers of correct and of all pixels.
    """
    share: Floats = 100 * sums[..., 0] / sums[..., 1]
    return share


STATISTICS: dict[str, Statistic] = {"miou": mean_iou, "pixel_accuracy": pixel_accuracy, "r2": position_r2}
"""By metric, for outcomes of kind `sums`."""
