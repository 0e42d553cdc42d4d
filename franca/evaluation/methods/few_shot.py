"""Nearest class mean from a few images of each class, over many random draws of these images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

CHUNK = 1 << 13
"""Queries that are classified at a time."""


def draw_shots(labels: NDArray[np.int64], shots: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of the drawn images, (draws, classes, shots).

    The draws depend on the arguments alone, so two models get the same images.

    Args:
        labels: (N,) classes; each class that occurs must have at least `shots` rows.
        shots: Images of each class.
        draws: Number of draws.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng((seed, shots))
    rows_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.stack([[rng.choice(rows, shots, replace=False) for rows in rows_of] for _ in range(draws)])


def few_shot_hits(
    train: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, drawn: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which queries are right in which draw, (draws, M).

    The method is CL2N of SimpleShot (arXiv 1911.04623): features minus the mean of all training features, scaled to
    unit length; a query gets the class with the nearest mean of its drawn images.

    Args:
        train: (N, D) float.
        labels: (N,) int64.
        queries: (M, D) float.
        truth: (M,) int64.
        drawn: (draws, classes, shots), rows of `train`; the images of a class have the same label.
    """
    center = train.float().mean(dim=0)
    train, queries = (normalize(part.float() - center, dim=1) for part in (train, queries))
    hits = []
    for rows in torch.from_numpy(drawn).to(train.device):
        means = train[rows].mean(dim=1)  # (classes, D)
        names = labels[rows[:, 0]]
        # The largest q·m - |m|²/2 is the smallest Euclidean distance.
        half = means.square().sum(dim=1) / 2
        nearest = torch.cat([(part @ means.T - half).argmax(dim=1) for part in queries.split(CHUNK)])
        hits.append((names[nearest] == truth).cpu().numpy())
    return np.stack(hits)
