"""Scores of predicted masks: which images of a dense split can be scored, and their measurements."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from franca.data.store.prepared import SplitName
from franca.evaluation.features import FeatureSet
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.outcomes import Outcome, images_digest
from franca.params import Params

TRUE = 1
"""Row of `pixel_counts` with the pixels that have a class."""


def score_masks(
    benchmark: str,
    split: SplitName,
    metrics: Mapping[str, Callable[[Tensor], Tensor]],
    counts: Tensor,
    features: FeatureSet,
    params: Params,
) -> tuple[list[Measurement], str]:
    """Measure a benchmark on a split of the dense set.

    Args:
        benchmark: Name in `results.json`.
        split: Split of the images.
        metrics: By metric, what maps counts (n, 3, K) to the sums that its statistic takes.
        counts: (N, 3, K) float64, `pixel_counts` of each image of the split.
        features: The data.
        params: All parameters.

    Returns:
        the measurements, none if no image has a label, and the reason why labeled images cannot be scored.
    """
    rows = (counts[:, TRUE].sum(1) > 0).nonzero()[:, 0]
    if not len(rows):
        return [], ""
    labeled = counts[rows]
    if int((labeled[:, TRUE].sum(0) > 0).sum()) < 2:
        return [], _single_class(split)
    images = images_digest(features.digest, split, rows.numpy(), dense=True)
    outcomes = {metric: Outcome("sums", sums(labeled).numpy(), images, len(rows)) for metric, sums in metrics.items()}
    resampling = Resampling.of(params)
    return [measure(benchmark, split, metric, outcome, resampling) for metric, outcome in outcomes.items()], ""


def labeled_images(masks: NDArray[np.uint8], ignore: int, split: SplitName) -> tuple[NDArray[np.int64], str]:
    """Return the images of masks (N, H, W) with labeled pixels, (n,), and why they cannot be scored."""
    rows = np.flatnonzero((masks != ignore).any(axis=(1, 2)))
    if len(np.unique(masks[masks != ignore])) == 1:
        return rows, _single_class(split)
    return rows, ""


def _single_class(split: SplitName) -> str:
    return f"the masks of the dense set's {split} images have a single class"


def pixel_counts(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels by class; the whole confusion matrix of each image would take 360 MB for 2,000 and 150 classes.

    Args:
        truth: (P,) int64, true classes.
        predicted: (P,) int64, predicted classes.
        classes: Number of classes K.

    Returns:
        (3, K) float64: pixels of each class that are predicted correctly, that have it, and that are predicted as it.
    """
    counted = (truth[truth == predicted], truth, predicted)
    return torch.stack([torch.bincount(values, minlength=classes) for values in counted]).double()


def overlaps(counts: Tensor) -> Tensor:
    """Return the pixels in the intersection and in the union of each class.

    Args:
        counts: (..., 3, K) float64, see `pixel_counts`.

    Returns:
        (..., 2, K) float64.
    """
    hits, true, predicted = counts.unbind(-2)
    return torch.stack([hits, true + predicted - hits], dim=-2)


def correct_pixels(counts: Tensor) -> Tensor:
    """Return the numbers of correct and of all pixels.

    Args:
        counts: (..., 3, K) float64, see `pixel_counts`.

    Returns:
        (..., 2) float64.
    """
    return counts[..., :2, :].sum(-1)
