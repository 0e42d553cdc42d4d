"""Video object segmentation without training: masks are passed on between similar patches, and scored by J and F.

The propagation is that of DINO's evaluation (arXiv 2104.14294, from arXiv 2006.14613), the scores are those of DAVIS
(Perazzi et al., CVPR 2016; arXiv 1704.00675).
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import normalize

PREVIOUS = 7
"""Frames before the current one that pass on their masks, besides the first one."""
NEIGHBORS = 5
RADIUS = 12
"""Largest distance in rows and in columns of patches that a mask moves between two frames."""
TEMPERATURE = 0.1
TOLERANCE = 0.008
"""Distance at which contours still agree, as a share of the image's diagonal."""


def propagate(frames: Iterable[Tensor], first: Tensor) -> Iterator[Tensor]:
    """Yield the shares of the objects in each patch, (h, w, K) for each frame after the first.

    Args:
        frames: Patch features of each frame, (h, w, D) float32.
        first: Shares of the objects in the patches of the first frame, (h, w, K) float32.
    """
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=PREVIOUS)
    start: tuple[Tensor, Tensor] | None = None
    for frame in frames:
        features = normalize(frame.flatten(0, 1), dim=1)
        if start is None:
            start = features, first.flatten(0, 1)
            near = neighborhood(*frame.shape[:2]).to(frame.device)
            continue
        shares = attend_frames(features, [start, *recent], near)
        recent.append((features, shares))
        yield shares.unflatten(0, frame.shape[:2])


def attend_frames(features: Tensor, sources: list[tuple[Tensor, Tensor]], near: Tensor) -> Tensor:
    """Return shares (P, K) as the mean of those of the `NEIGHBORS` most similar patches nearby in all source frames.

    Args:
        features: (P, D) float32, rows of unit length.
        sources: Features (P, D) and shares (P, K) of each source frame.
        near: (P, P) bool, whether two patches are near each other.
    """
    found = []
    for others, shares in sources:
        similarities = (features @ others.T).masked_fill_(~near, -torch.inf)
        # The best of each frame: all pairs of eight frames would take gigabytes.
        values, rows = similarities.topk(min(NEIGHBORS, len(others)), dim=1)
        found.append((values, shares[rows]))
    values, best = torch.cat([values for values, _ in found], dim=1).topk(min(NEIGHBORS, len(near)), dim=1)
    candidates = torch.cat([shares for _, shares in found], dim=1)
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, candidates.shape[2]))
    return ((values / TEMPERATURE).softmax(dim=1)[..., None] * chosen).sum(dim=1)


def neighborhood(height: int, width: int) -> Tensor:
    """Return which pairs of patches are at most `RADIUS` rows and columns apart, (P, P) bool."""
    rows, columns = (torch.arange(length) for length in (height, width))
    near_rows, near_columns = ((x[:, None] - x).abs() <= RADIUS for x in (rows, columns))
    return (near_rows[:, None, :, None] & near_columns[None, :, None, :]).reshape(height * width, -1)


def stretch(shares: Tensor) -> Tensor:
    """Return shares (K, H, W), each object scaled to the range 0 to 1; objects that are nowhere stay at 0."""
    low, high = shares.amin(dim=(1, 2), keepdim=True), shares.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > 0, (shares - low) / (high - low).clamp(min=1e-12), shares)


def region_similarity(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    """Return J, the intersection over union of two masks (H, W); 1 if both are empty."""
    union = (truth | found).sum()
    return float((truth & found).sum() / union) if union else 1.0


def contour_accuracy(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    """Return F, the F-measure of the contours of two masks (H, W) at a tolerance of `TOLERANCE`."""
    reach = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    expected, got = contour(truth), contour(found)
    if not expected.any() or not got.any():
        return float(expected.any() == got.any())
    precision = (distance_transform_edt(~expected)[got] <= reach).mean()
    recall = (distance_transform_edt(~got)[expected] <= reach).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask (H, W) that differ from the one to the right, below, or right below."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    others = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    result: NDArray[np.bool_] = np.logical_or.reduce([mask != other for other in others])
    return result
