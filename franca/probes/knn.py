"""Weighted k-nearest-neighbor classifier on cosine similarity, as in the official Franca evaluation."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


def nearest_neighbors(train: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest rows of `train` for each query, the most similar first.

    Args:
        train: (N, D) float32, rows of unit length.
        queries: (M, D) float32, rows of unit length.
        k: Number of neighbors, at most N.

    Returns:
        cosine similarities (M, k) float32 and rows of `train` (M, k) int64.
    """
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
    """Return the share of each class among the nearest neighbors, weighted by softmax(similarity / temperature).

    Args:
        train: (N, D) float, features of any length; they are normalized here.
        labels: (N,) int64, classes from 0 to `classes` - 1.
        queries: (M, D) float, features of any length.
        classes: Number of classes.
        k: Neighbors that vote; reduced to N if larger.
        temperature: Temperature of the softmax.
        max_k: Neighbors that the softmax runs over; None for `k`. If it is larger than `k`, the shares add up to less
            than 1, as in the official code, which computes one softmax for several `k`.
        chunk: Queries compared at a time, which limits memory to chunk x N similarities.

    Returns:
        (M, classes) float32, on the device of `train`.
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
