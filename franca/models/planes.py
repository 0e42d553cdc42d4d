"""Planes in feature space that encode a patch's position, and their removal (RASA; Franca, arXiv 2507.14137)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def plane(weight: Tensor) -> Tensor:
    """Return orthonormal rows (r, D) with the span of `weight` (r, D), r = 1 or 2, by Gram-Schmidt."""
    first = F.normalize(weight[0], dim=0)
    if len(weight) == 1:
        return first[None]
    second = weight[1] - (weight[1] @ first) * first
    return torch.stack([first, F.normalize(second, dim=0)])


def decompose(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split features (..., D) into their projection onto the plane of `weight` (r, D) and the rest, (..., D) each."""
    axes = plane(weight)
    position = (x @ axes.T) @ axes
    return position, x - position


def projection(planes: Tensor, dim: int) -> Tensor:
    """Return P (D, D) such that x P^T removes the planes from features x, one after another.

    Args:
        planes: (rounds, 2, D), in the order in which they were learned.
        dim: D.
    """
    kept = torch.eye(dim, device=planes.device)
    for weight in planes:
        kept = decompose(kept, weight)[1]
    # The rows of the identity are treated as features: row i became P e_i, so these rows are P^T.
    return kept.T


def kept_space(planes: Tensor, dim: int) -> Tensor:
    """Return the orthogonal projection (D, D) onto the features that remain after removing the planes.

    It equals `projection` if the planes are orthogonal to each other. Those of official heads overlap: removing a
    later plane restores a part of an earlier one, and `projection` is then not orthogonal.

    Args:
        planes: (rounds, 2, D).
        dim: D.
    """
    if not len(planes):
        return torch.eye(dim, device=planes.device)
    axes, lengths, _ = torch.linalg.svd(projection(planes, dim))
    kept = axes[:, lengths > 1e-3]
    return kept @ kept.T
