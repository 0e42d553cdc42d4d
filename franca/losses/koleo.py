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
    # Under autocast the products would be bfloat16, in which near neighbors cannot be told apart.
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        similarity = y @ y.mT
        similarity.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
        nearest = similarity.argmax(dim=-1)
    neighbors = y.gather(-2, nearest[..., None].expand_as(y))
    distance = (y - neighbors + EPSILON).norm(dim=-1)
    return -(distance + EPSILON).log().mean(dim=-1)
