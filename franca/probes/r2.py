"""R² of a patch's position, from sums over images. Imports no torch."""

import numpy as np
from numpy.typing import NDArray


def position_r2(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return R² of row and column, averaged, in percent; a mean below 0 becomes 0.

    Args:
        sums: (..., 2, 2), squared error and squared distance from the image's center, each for row and column.

    Returns:
        (...), from 0 (no better than the center of the image) to 100. A row or column that does not vary, as in images
        of a single patch, counts as not explained.
    """
    errors, totals = sums[..., 0, :], sums[..., 1, :]
    varies = totals > 0
    ratio = np.where(varies, errors / np.where(varies, totals, 1), 1)
    explained: NDArray[np.float64] = 100 * (1 - ratio).mean(axis=-1).clip(min=0)
    return explained
