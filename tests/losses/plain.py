"""The textbook form of what the product computes in chunks: all logits, probabilities and losses at once."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """-sum_k t_k log softmax(s / temperature)_k for each row: (N, K), (N, K) -> (N,)."""
    return -(targets * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1)


def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Assignments (N, K) by alternate normalization of columns and rows, of logarithms in float64."""
    shares = logits.double() / temperature
    for _ in range(iterations):
        shares = shares - shares.logsumexp(dim=0, keepdim=True)
        shares = shares - shares.logsumexp(dim=1, keepdim=True)
    return shares.exp().float()
