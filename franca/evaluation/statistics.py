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


def accuracy(sums: Floats) -> Floats:
    """Return the percentage of correct pixels or trials, or the mean of a measure of objects.

    Args:
        sums: (..., 2), numbers of correct ones and of all, or the sum of a measure in 0..1 and the number of objects.
    """
    share: Floats = 100 * sums[..., 0] / sums[..., 1]
    return share


def mean_iou_of_seeds(sums: Floats) -> Floats:
    """Return the mean over seeds of the mean intersection over union in percent.

    Args:
        sums: (..., seeds, 2, K), pixels in the intersection and in the union of each class.
    """
    share: Floats = mean_iou(sums).mean(axis=-1)
    return share


STATISTICS: dict[str, Statistic] = {
    "miou": mean_iou,
    "pixel_accuracy": accuracy,
    "top1": accuracy,
    "r2": position_r2,
    "jf": accuracy,
    "j": accuracy,
    "f": accuracy,
    "hungarian_miou": mean_iou_of_seeds,
    "greedy_miou": mean_iou_of_seeds,
}
"""By metric, for outcomes of kind `sums`."""


def statistic_of(metric: str) -> Statistic:
    """Return the statistic of a metric: the name of a statistic, or it with a suffix, as in `miou_192`."""
    return next(value for name, value in STATISTICS.items() if metric == name or metric.startswith(f"{name}_"))
