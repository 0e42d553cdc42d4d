"""Nearest class mean from a few images of each class, over many random draws of these images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from franca.feature_files import blocks


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
        labels: (N,) int64, on the device that computes.
        queries: (M, D) float.
        truth: (M,) int64.
        drawn: (draws, classes, shots), rows of `train`; the images of a class have the same label.
    """
    device = labels.device
    total = torch.zeros(train.shape[1], dtype=torch.float64, device=device)
    for part in blocks(train, device):
        total += part.sum(dim=0, dtype=torch.float64)
    center = (total / len(train)).float()
    means, names = [], []
    for rows in torch.from_numpy(drawn):
        shots = normalize(train[rows.flatten()].to(device, torch.float32) - center, dim=1)
        means.append(shots.unflatten(0, rows.shape).mean(dim=1))  # (classes, D)
        names.append(labels[rows[:, 0].to(device)])
    hits, start = np.zeros((len(drawn), len(truth)), dtype=np.bool_), 0
    for part in blocks(queries, device):
        x, right = normalize(part - center, dim=1), truth[start : start + len(part)]
        for draw, (mean, name) in enumerate(zip(means, names, strict=True)):
            # The largest q·m - |m|²/2 is the smallest Euclidean distance.
            nearest = (x @ mean.T - mean.square().sum(dim=1) / 2).argmax(dim=1)
            hits[draw, start : start + len(part)] = (name[nearest] == right).cpu().numpy()
        start += len(part)
    return hits
