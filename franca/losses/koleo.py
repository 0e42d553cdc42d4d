"""KoLeo: keeps embeddings apart (Sablayrolles et al., Spreading vectors for similarity search, 2019)."""

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8


def koleo_loss(x: Tensor) -> Tensor:
    """-mean_i log(|y_i - y_j(i) + e| + e), y = x / |x|, j(i) the nearest other row; (…, N, D) -> (…), float32.

    Rows find neighbors within their own N alone. Finite on identical rows: the constant added to each coordinate
    keeps the distance, and so the gradient, off zero.
    """
    y = F.normalize(x.float(), eps=EPSILON, dim=-1)
    with torch.no_grad():
        # By differences: near neighbors cannot be told apart by products in bfloat16 or TF32.
        distances = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
        nearest = distances.argmin(dim=-1)
    neighbors = y.gather(-2, nearest[..., None].expand_as(y))
    distance = (y - neighbors + EPSILON).norm(dim=-1)
    return -(distance + EPSILON).log().mean(dim=-1)
