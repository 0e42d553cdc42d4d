"""Weighted k-NN for several k at once, without an array of neighbors x classes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from franca.probes.knn import nearest_neighbors

CHUNK = 1 << 25
"""Similarities held at a time, at most: 128 MiB."""


def knn_classes(
    train: Tensor, labels: Tensor, queries: Tensor, classes: int, ks: Sequence[int], temperature: float
) -> dict[int, Tensor]:
    """Return the class with the most votes among the k nearest neighbors, (M,) int64 for each k.

    The weight of a neighbor is softmax(similarity / temperature) over the largest k, as in the official evaluation.

    Args:
        train: (N, D) float, features of any length.
        labels: (N,) int64, classes from 0 to `classes` - 1.
        queries: (M, D) float, features of any length.
        classes: Number of classes.
        ks: Numbers of neighbors, none above N.
        temperature: Temperature of the softmax.
    """
    train = normalize(train.float(), dim=1)
    order = sorted(ks)
    found: dict[int, list[Tensor]] = {k: [] for k in order}
    for part in queries.split(max(1, CHUNK // len(train))):
        similarities, rows = nearest_neighbors(train, normalize(part.float(), dim=1), order[-1])
        weights = (similarities / temperature).softmax(dim=1)
        votes = train.new_zeros(len(part), classes)
        start = 0
        for k in order:
            votes.scatter_add_(1, labels[rows[:, start:k]], weights[:, start:k])
            found[k].append(votes.argmax(dim=1))
            start = k
    return {k: torch.cat(parts) for k, parts in found.items()}
