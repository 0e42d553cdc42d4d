"""A linear probe for the position of a patch in its image, and its R².

The probe is ridge regression from the feature of a patch to the row and column of the patch's center. RASA and the
`position` benchmark report the same R², on different images.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from franca.probes.r2 import position_r2
from franca.probes.regression import LinearMap, fit_ridge


def patch_centers(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return row and column of the center of each patch, (height, width, 2) float32, in units of the image's sides."""
    rows, columns = ((torch.arange(side, device=device) + 0.5) / side for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=2)


def fit_position(features: Tensor) -> LinearMap:
    """Fit the probe to patch features (N, h, w, D)."""
    return fit_ridge(features.flatten(0, 2), _targets(features).flatten(0, 2))


def position_errors(probe: LinearMap, features: Tensor) -> NDArray[np.float64]:
    """Return what each image adds to the sums of `position_r2`.

    Args:
        probe: A map of features to row and column.
        features: (N, h, w, D) float32, patch features.

    Returns:
        (N, 2, 2), squared error and squared distance from the image's center, each for row and column.
    """
    truth = _targets(features)
    errors = [((guess - truth) ** 2).sum((1, 2)) for guess in (probe(features), torch.full_like(truth, 0.5))]
    sums: NDArray[np.float64] = torch.stack(errors, 1).double().cpu().numpy()
    return sums


def score_position(train: Tensor, val: Tensor) -> float:
    """Return R² in percent on `val` of a probe fitted to `train`, patch features (N, h, w, D) float32 each."""
    return float(position_r2(position_errors(fit_position(train), val).sum(axis=0)))


def _targets(features: Tensor) -> Tensor:
    count, height, width, _ = features.shape
    return patch_centers(height, width, features.device).expand(count, -1, -1, -1)
