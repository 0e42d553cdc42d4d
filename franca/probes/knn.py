"""Weighted k-nearest-neighbor classifier on cosine similarity, as the official Franca evaluation has it."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


def nearest_neighbors(train: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarity (M, k), falling, and row in `train` (N, D), both of unit length, of each query's neighbors."""
    similarities, rows = (queries @ train.T).topk(k, dim=1)
    return similarities, rows


def knn_predict(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    classes: int,
    k: int,
    temperature: float,
    *,
    max_k: int | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Share of each class among a query's nearest neighbors, weighted by softmax(similarity / temperature).

    The softmax runs over the `max_k` nearest (default: `k`), of which the first `k` count, so that with
    `max_k > k` the shares add up to less than 1. `k` and `max_k` are cut to the number of training rows.

    Args:
        train: float (N, D), features of any length; made unit length here.
        labels: int64 (N,), classes from 0 to `classes` - 1.
        queries: float (M, D).
        chunk: queries compared at a time: bounds memory to chunk x N similarities.

    Returns:
        float32 (M, classes), on the device of `train`.
    """
    train = normalize(train.float(), dim=1)
    max_k = min(max_k or k, len(train))
    k = min(k, max_k)
    shares = []
    for part in queries.split(chunk):
        similarities, indices = nearest_neighbors(train, normalize(part.float(), dim=1), max_k)
        weights = (similarities / temperature).softmax(dim=1)[:, :k]
        votes = one_hot(labels[indices[:, :k]], classes).float()
        shares.append((weights.unsqueeze(2) * votes).sum(dim=1))
    return torch.cat(shares) if shares else train.new_zeros(0, classes)
