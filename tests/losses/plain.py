"""The textbook form of what the product computes in chunks: all logits, probabilities and losses at once."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """-sum_k t_k log softmax(s / temperature)_k for each row: (N, K), (N, K) -> (N,)."""
    return -(targets * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1)


def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Assignments (N, K) by alternate normalization of columns and rows, in float64."""
    shares = torch.exp((logits.double() - logits.double().max()) / temperature)
    for _ in range(iterations):
        shares = shares / shares.sum(dim=0, keepdim=True)
        shares = shares / shares.sum(dim=1, keepdim=True)
    return shares.float()
