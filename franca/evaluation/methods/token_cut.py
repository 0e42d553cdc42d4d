"""TokenCut (arXiv 2202.11539): the most salient object of an image by a normalized cut of its patches."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

TAU = 0.2
"""Cosine similarity above which two patches are connected."""
EPSILON = 1e-5
"""Weight of all other pairs of patches."""
DENSE = 400
"""Patches up to which all eigenvectors are computed, which is faster than an iteration for two of them."""
MIN_SHARE = 0.01
"""Share of an image that a region of its mask must have to count as an object, at least."""
MIN_IOU = 0.5


class Box(NamedTuple):
    """A rectangle; bottom and right are outside of it."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def area(self) -> float:
        """Area, 0 if a side is negative."""
        return max(0.0, self.bottom - self.top) * max(0.0, self.right - self.left)


def find_object(features: NDArray[np.float32]) -> Box:
    """Return the box of the salient object, in patches.

    Args:
        features: (h, w, D), a feature for each patch, of at least two patches.
    """
    vector = second_eigenvector(affinity(features.reshape(-1, features.shape[-1])))
    grid = vector.reshape(features.shape[:2])
    seed = np.unravel_index(np.abs(grid).argmax(), grid.shape)
    above = grid > grid.mean()
    # The sign of an eigenvector is arbitrary: the object is the side of the largest absolute value.
    regions = ndimage.label(above == above[seed])[0]
    rows, columns = np.nonzero(regions == regions[seed])
    return Box(rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


def affinity(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the weights between all pairs of features (P, D): 1 if they are similar, else `EPSILON`."""
    x = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return np.where(x @ x.T > TAU, 1.0, EPSILON)


def second_eigenvector(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvector (P,) of the second smallest eigenvalue of (D - W) y = λ D y, for weights W (P, P)."""
    scale = 1 / np.sqrt(weights.sum(axis=1))
    # With z = D^1/2 y these are the largest eigenvalues 1 - λ of the symmetric D^-1/2 W D^-1/2.
    matrix = weights * scale[:, None] * scale
    count = len(matrix)
    vectors = None
    if count > DENSE:
        try:
            values, vectors = eigsh(matrix, k=2, which="LA", v0=np.random.default_rng(0).random(count))
            vectors = vectors[:, np.argsort(values)]
        except ArpackNoConvergence:
            vectors = None
    if vectors is None:
        vectors = linalg.eigh(matrix, subset_by_index=[count - 2, count - 1])[1]
    second: NDArray[np.float64] = vectors[:, 0] * scale
    return second


def mask_boxes(mask: NDArray[np.uint8], classes: list[int]) -> list[Box]:
    """Return the boxes of the connected regions of each of `classes` in a mask (H, W), without small regions."""
    found = []
    for label in classes:
        regions, _ = ndimage.label(mask == label)
        sizes = np.bincount(regions.ravel())
        for number, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
            if sizes[number] >= MIN_SHARE * mask.size:
                found.append(Box(rows.start, columns.start, rows.stop, columns.stop))
    return found


def iou(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    both = Box(*(max(pair) for pair in zip(one[:2], other[:2], strict=True)), *map(min, one[2:], other[2:])).area
    return both / (one.area + other.area - both)


def is_located(box: Box, boxes: list[Box]) -> bool:
    """Return whether a box has an IoU of at least `MIN_IOU` with any of `boxes`, as CorLoc counts it."""
    return any(iou(box, other) >= MIN_IOU for other in boxes)
