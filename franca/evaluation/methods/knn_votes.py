"""Weighted k-NN for several k at once, without an array of queries x training images or of neighbors x classes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from franca.evaluation.methods.neighbors import QUERIES, nearest


class Votes(NamedTuple):
    """The class with the most votes.

    Attributes:
        classes: (M,) int64.
        shares: (M,) float32, its share of the votes of the largest k.
    """

    classes: Tensor
    shares: Tensor


def knn_classes(
    train: Tensor, labels: Tensor, queries: Tensor, classes: int, ks: Sequence[int], temperature: float
) -> dict[int, Votes]:
    """Return the class with the most votes among the k nearest neighbors for each k.

    The weight of a neighbor is softmax(similarity / temperature) over the largest k, as in the official evaluation.

    Args:
        train: (N, D) float, features of any length.
        labels: (N,) int64, classes from 0 to `classes` - 1, on the device that computes.
        queries: (M, D) float, features of any length.
        classes: Number of classes.
        ks: Numbers of neighbors; those above N count as N.
        temperature: Temperature of the softmax.
    """
    order = sorted(ks)
    found: dict[int, list[Votes]] = {k: [] for k in order}
    for part in queries.split(QUERIES):
        similarities, rows = nearest(train, part, min(order[-1], len(train)), labels.device)
        weights = (similarities / temperature).softmax(dim=1)
        votes = weights.new_zeros(len(part), classes)
        start = 0
        for k in order:
            votes.scatter_add_(1, labels[rows[:, start:k]], weights[:, start:k])
            shares, best = votes.max(dim=1)
            found[k].append(Votes(best, shares))
            start = k
    return {k: Votes(*map(torch.cat, zip(*parts, strict=True))) for k, parts in found.items()}
