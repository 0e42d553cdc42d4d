"""k-means by Lloyd's algorithm with k-means++ starts, in chunks."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ITERATIONS = 100
TOLERANCE = 1e-4
"""Relative decrease of the inertia below which the iterations end."""
CHUNK = 1 << 24
"""Distances held at a time, at most: 64 MiB."""


class Clustering(NamedTuple):
    """Clusters of points.

    Attributes:
        centers: (K, D) float32.
        inertia: Sum of the squared distances of the points to their centers.
    """

    centers: Tensor
    inertia: float


def kmeans(points: Tensor, clusters: int, seed: tuple[int, ...], restarts: int = 1) -> Clustering:
    """Return the best of several clusterings of points (N, D) float32 into K <= N clusters.

    The starts depend on the seed alone, not on what has drawn random numbers before.
    """
    rng = np.random.default_rng(seed)
    runs = [lloyd(points, plus_plus(points, clusters, rng)) for _ in range(restarts)]
    return min(runs, key=lambda run: run.inertia)


def plus_plus(points: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """Return centers (K, D) drawn by k-means++: each with a chance proportional to its squared distance."""
    chosen = [int(rng.integers(len(points)))]
    nearest = (points - points[chosen[0]]).square().sum(dim=1)
    for _ in range(clusters - 1):
        total = nearest.double().cumsum(dim=0)
        draw = torch.tensor([float(rng.random()) * float(total[-1])], dtype=total.dtype, device=total.device)
        row = min(int(torch.searchsorted(total, draw, right=True)), len(points) - 1)
        chosen.append(row)
        nearest = torch.minimum(nearest, (points - points[row]).square().sum(dim=1))
    return points[chosen]


def lloyd(points: Tensor, centers: Tensor) -> Clustering:
    """Move centers (K, D) to the means of their points until the inertia stops decreasing.

    A center without points stays where it is.
    """
    inertia = float("inf")
    for _ in range(ITERATIONS):
        nearest, found = assign(points, centers)
        if inertia - found <= TOLERANCE * found:
            return Clustering(centers, found)
        inertia = found
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=len(centers))[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
    return Clustering(centers, assign(points, centers)[1])


def assign(points: Tensor, centers: Tensor) -> tuple[Tensor, float]:
    """Return the nearest center of each point (N,) int64 and the sum of the squared distances."""
    half = centers.square().sum(dim=1) / 2
    nearest, total = [], 0.0
    for part in points.split(max(1, CHUNK // len(centers))):
        best, rows = (part @ centers.T - half).max(dim=1)
        nearest.append(rows)
        total += float((part.square().sum(dim=1) - 2 * best).clamp(min=0).double().sum())
    return torch.cat(nearest), total
