"""LiDAR (arXiv 2312.04000): the number of dimensions in which images differ more than views of the same image."""

import torch
from torch import Tensor

DELTA = 1e-4
"""Added to the variance within images in each direction, as in the paper."""


def lidar(features: Tensor) -> float:
    """Return the effective rank of the linear discriminants that tell images apart by their views, at least 1.

    RankMe also counts dimensions that differ between views of one image; LiDAR counts each by how well it tells images
    apart. It is exp of the entropy of the eigenvalues of W^-1/2 B W^-1/2, for the covariances W within and B between
    images.

    Args:
        features: (N, V, D) float, features of V >= 2 views of each of N >= 2 images.
    """
    x = features.double()
    means = x.mean(dim=1)
    within = (x - means[:, None]).flatten(0, 1)
    within = within.T @ within / (len(within) - len(x))
    centered = means - means.mean(dim=0)
    between = centered.T @ centered / (len(x) - 1)
    within += DELTA * torch.eye(len(within), dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky(within)
    # L^-1 B L^-T has the eigenvalues of W^-1/2 B W^-1/2, and L is cheaper than the root.
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    values = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.T, upper=False))
    values = torch.where(values > 1e-12 * values[-1], values, 0)
    return float(torch.special.entr(values / values.sum().clamp(min=1e-30)).sum().exp().clamp(min=1))


def random_views(images: Tensor, corners: Tensor) -> Tensor:
    """Return a view of square images (B, 3, S, S) uint8: the same crop of each, resized back to S pixels.

    Args:
        images: The images.
        corners: (4,) top, left and side as shares of S, and whether to mirror (0 or 1).
    """
    size = images.shape[-1]
    side = max(1, round(float(corners[2]) * size))
    top, left = (round(float(share) * (size - side)) for share in corners[:2])
    part = images[..., top : top + side, left : left + side].float()
    view = torch.nn.functional.interpolate(part, size=(size, size), mode="bicubic", antialias=True)
    return (view.flip(-1) if corners[3] else view).round().clamp(0, 255).to(torch.uint8)
