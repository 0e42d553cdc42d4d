"""Teacher assignments by Sinkhorn-Knopp."""

import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses.chunks import chunks


def sinkhorn_potentials(hidden: Tensor, prototypes: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The dual potentials f (K,) and g (N,) of assignments exp(h w^T - f - g), over the batch of all ranks.

    With Q = exp(h w^T), `iterations` times: divide by each prototype's sum over samples, then by each sample's sum
    over prototypes (constant factors cancel). hidden (N, b), already divided by the temperature, and prototypes
    (K, b) are float32. Done on logarithms, so that no temperature overflows.
    """
    logits = hidden @ prototypes.T
    sample = hidden.new_zeros(len(hidden))
    prototype = hidden.new_zeros(len(prototypes))
    parts = list(chunks(len(hidden), prototypes))
    for _ in range(iterations):
        prototype = torch.full_like(prototype, -torch.inf)
        for part in parts:
            prototype = torch.logaddexp(prototype, (logits[part] - sample[part, None]).logsumexp(dim=0))
        prototype = _logsumexp_over_ranks(prototype)
        for part in parts:
            sample[part] = (logits[part] - prototype).logsumexp(dim=1)
    return prototype, sample


def _logsumexp_over_ranks(x: Tensor) -> Tensor:
    """log sum exp over ranks, elementwise."""
    if not dist.is_initialized():
        return x
    peak = x.clone()
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    total = (x - peak).exp()
    dist.all_reduce(total)
    return peak + total.log()
