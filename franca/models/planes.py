"""Planes of position in patch features, and what is left without them (RASA; Franca, arXiv 2507.14137)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def plane(weight: Tensor) -> Tensor:
    """Orthonormal rows (r, D) that span the rows of `weight` (r, D), r 1 or 2, by Gram-Schmidt from the first."""
    first = F.normalize(weight[0], dim=0)
    if len(weight) == 1:
        return first[None]
    second = weight[1] - (weight[1] @ first) * first
    return torch.stack([first, F.normalize(second, dim=0)])


def decompose(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split features (…, D) into their part within the plane of `weight` (r, D) and the rest."""
    axes = plane(weight)
    position = (x @ axes.T) @ axes
    return position, x - position


def projection(planes: Tensor, dim: int) -> Tensor:
    """The linear map P (D, D) that takes the planes (rounds, 2, D) out, one after another: x -> x P^T."""
    kept = torch.eye(dim, device=planes.device)
    for weight in planes:
        kept = decompose(kept, weight)[1]
    # The rows of the identity are features here: row i became P e_i, so that x -> x times these rows is x P^T.
    return kept.T


def kept_space(planes: Tensor, dim: int) -> Tensor:
    """Return the orthogonal projection (D, D) onto the features that remain once the planes (rounds, 2, D) are out.

    It is `projection` itself if the planes are orthogonal to each other. Those of official heads overlap: removing a
    later plane puts a part of an earlier one back, and `projection` is then no orthogonal projection.
    """
    if not len(planes):
        return torch.eye(dim, device=planes.device)
    axes, lengths, _ = torch.linalg.svd(projection(planes, dim))
    kept = axes[:, lengths > 1e-3]
    return kept @ kept.T
