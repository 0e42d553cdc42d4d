"""KoLeo: spreads embeddings apart (Sablayrolles et al., Spreading vectors for similarity search, arXiv 1806.03198)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from franca.losses.term import Metric, Term

EPSILON = 1e-8


def koleo_term(classes: Tensor, group_images: int) -> Term:
    """Return the sum over both global crops of the mean KoLeo loss of groups of images.

    Args:
        classes: (2 B, D), the student's class tokens of the global crops, crop-major.
        group_images: Number of consecutive images that form a group; B is a multiple of it. The official code uses a
            GPU's share of the batch, 32 images.
    """
    value = koleo_loss(classes.unflatten(0, (2, -1, group_images))).mean(dim=1).sum()
    return Term(value, {"koleo": Metric(value.detach())})


def koleo_loss(x: Tensor) -> Tensor:
    """Return -mean_i log(|y_i - y_j(i) + e| + e) with y = x / |x|, j(i) the nearest other row and e = 1e-8.

    Args:
        x: (..., N, D), groups of N rows; neighbors are searched within a group.

    Returns:
        (...,) float32. It is finite for identical rows too: the constant that is added to each coordinate keeps the
        distance, and so the gradient, away from zero.
    """
    y = F.normalize(x.float(), eps=EPSILON, dim=-1)
    with torch.no_grad():
        # By differences: products in bfloat16 or TF32 cannot resolve the distances of near neighbors.
        distances = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
        nearest = distances.argmin(dim=-1)
    neighbors = y.gather(-2, nearest[..., None].expand_as(y))
    distance = (y - neighbors + EPSILON).norm(dim=-1)
    return -(distance + EPSILON).log().mean(dim=-1)
