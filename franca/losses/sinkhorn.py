"""Teacher assignments by Sinkhorn-Knopp."""

import torch
import torch.distributed as dist
from torch import Tensor


def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Soft assignments (B, K) of samples to prototypes, every prototype used alike over the batch of all ranks.

    Q = exp(logits / temperature); `iterations` times: divide by each prototype's sum over samples, then by each
    sample's sum over prototypes (constant factors cancel). Done on the logarithm's dual potentials f (K,) and g (B,)
    in float32, so that no temperature overflows. Each row of the result sums to 1.
    """
    scaled = logits.float() / temperature
    sample = torch.zeros_like(scaled[:, :1])
    prototype = torch.zeros_like(scaled[:1])
    for _ in range(iterations):
        prototype = _logsumexp_over_ranks(scaled - sample)
        sample = (scaled - prototype).logsumexp(dim=1, keepdim=True)
    return (scaled - prototype - sample).exp()


def _logsumexp_over_ranks(x: Tensor) -> Tensor:
    """log sum exp over the samples of all ranks: (B, K) -> (1, K)."""
    if not dist.is_initialized():
        return x.logsumexp(dim=0, keepdim=True)
    peak = x.amax(dim=0, keepdim=True) if len(x) else x.new_full((1, x.shape[1]), -torch.inf)
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    total = (x - peak).exp().sum(dim=0, keepdim=True)
    dist.all_reduce(total)
    return peak + total.log()
