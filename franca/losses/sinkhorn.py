"""Teacher assignments by Sinkhorn-Knopp."""

import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.chunks import chunks, exp_


def sinkhorn(hidden: Tensor, prototypes: Tensor, iterations: int) -> Assignments:
    """Assignments over the batch of all ranks, with their rows, which lie where the logits were.

    From Q = exp(h w^T), `iterations` times, at least once: divide by each prototype's sum over samples, then by each
    sample's sum over prototypes (constant factors cancel). hidden (N, b), already divided by the temperature, and
    prototypes (K, b) are float32.

    The first time goes by logarithms, so that no temperature overflows: f_k is the log of a prototype's sum and
    X = exp(h w^T - f - g) with the row's maximum for g. From there on Q = diag(u) X diag(v), and u and v follow from
    products of X with vectors. Nothing vanishes in them: rows of X sum to 1 … K, columns of diag(u) X to 1 / K … N.
    """
    x = hidden @ prototypes.T
    sample, peak = x.new_empty(len(x)), x.new_full((len(prototypes),), -torch.inf)
    parts = list(chunks(len(x), prototypes, products=False))
    for part in parts:
        peak = torch.maximum(peak, x[part].amax(dim=0))
    peak = _over_ranks(peak, dist.ReduceOp.MAX)
    total = torch.zeros_like(peak)
    for part in parts:
        total += exp_(x[part] - peak).sum(dim=0)
    prototype = peak + _over_ranks(total).log()
    for part in parts:
        sample[part] = x[part].sub_(prototype).amax(dim=1)
        exp_(x[part].sub_(sample[part, None]))
    u, v = 1 / x.sum(dim=1), torch.ones_like(prototype)
    for _ in range(iterations - 1):
        v = 1 / _over_ranks(u @ x)
        u = 1 / (x @ v)
    x.mul_(v).mul_(u[:, None])
    return Assignments(hidden, prototypes, prototype - v.log(), sample - u.log(), x)


def _over_ranks(x: Tensor, by: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """x reduced over all ranks, elementwise and in place."""
    if dist.is_initialized():
        dist.all_reduce(x, by)
    return x
