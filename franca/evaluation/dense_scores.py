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


def score_masks(
    benchmark: str,
    split: SplitName,
    metrics: Mapping[str, Callable[[Tensor], Tensor]],
    confusion: Tensor,
    features: FeatureSet,
    params: Params,
) -> tuple[list[Measurement], str]:
    """Measure a benchmark on a split of the dense set.

    Args:
        benchmark: Name in `results.json`.
        split: Split of the images.
        metrics: By metric, what maps (n, K, K) to the sums that its statistic takes.
        confusion: (N, K, K) float64, pixels by true and predicted class for each image of the split.
        features: The data.
        params: All parameters.

    Returns:
        the measurements, none if no image has a label, and the reason why labeled images cannot be scored.
    """
    rows = (confusion.sum((1, 2)) > 0).nonzero()[:, 0]
    if not len(rows):
        return [], ""
    labeled = confusion[rows]
    if int((labeled.sum((0, 2)) > 0).sum()) < 2:
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


def overlaps(confusion: Tensor) -> Tensor:
    """Return the pixels in the intersection and in the union of each class.

    Args:
        confusion: (..., K, K) float64, pixels by true and predicted class.

    Returns:
        (..., 2, K) float64.
    """
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    return torch.stack([hits, confusion.sum(-1) + confusion.sum(-2) - hits], dim=-2)


def correct_pixels(confusion: Tensor) -> Tensor:
    """Return the numbers of correct and of all pixels.

    Args:
        confusion: (..., K, K) float64, pixels by true and predicted class.

    Returns:
        (..., 2) float64.
    """
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1).sum(-1), confusion.sum((-2, -1))], dim=-1)
