"""From clusters to classes: one cluster for each class, or many clusters for a class."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def hungarian(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class of each cluster (K,), one to one, so that the sum of their IoU is largest.

    Args:
        counts: (K, K), pixels by cluster and class.
    """
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    overlap = counts / np.maximum(union, 1)
    return np.asarray(linear_sum_assignment(overlap, maximize=True)[1], dtype=np.int64)


def greedy(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class of each cluster (K,) with the highest precision, the one that most of its pixels have.

    Args:
        counts: (K, C), pixels by cluster and class.
    """
    return np.asarray(counts.argmax(axis=1), dtype=np.int64)
