"""Teacher assignments by Sinkhorn-Knopp."""

import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.chunks import chunks, exp_, logsumexp_


def sinkhorn(hidden: Tensor, prototypes: Tensor, iterations: int) -> Assignments:
    """Assignments over the batch of all ranks, with their rows, which lie where the logits were.

    From Q = exp(h w^T), `iterations` times, at least once: divide by each prototype's sum over samples, then by each
    sample's sum over prototypes (constant factors cancel). hidden (N, b), already divided by the temperature, and
    prototypes (K, b) are float32.

    Done on logarithms, so that no temperature overflows: with f_k the log of a prototype's sum and g_n of a sample's,
    Q = exp(h w^T - f - g). Rows that have just been divided sum to 1, and prototypes sum to 1 / K … N over them, whose
    logarithm is added to f. So an iteration is one pass over the logits.
    """
    logits = hidden @ prototypes.T
    parts = list(chunks(len(logits), prototypes, products=False))
    sample, prototype = logits.new_empty(len(logits)), _logsumexp_of_columns(logits, parts)
    for left in reversed(range(iterations)):
        total = torch.zeros_like(prototype)
        for part in parts:
            x = logits[part] - prototype if left else logits[part].sub_(prototype)
            sample[part] = logsumexp_(x)
            share = 1 / x.sum(dim=1)
            if left:
                total += share @ x
            else:
                x.mul_(share[:, None])
        if left:
            prototype = prototype + _over_ranks(total).log()
    return Assignments(hidden, prototypes, prototype, sample, logits)


def _logsumexp_of_columns(x: Tensor, parts: list[slice]) -> Tensor:
    """log sum_n exp(x_nk) over all ranks, (K,)."""
    peak = x.new_full(x.shape[1:], -torch.inf)
    for part in parts:
        peak = torch.maximum(peak, x[part].amax(dim=0))
    peak = _over_ranks(peak, dist.ReduceOp.MAX)
    total = torch.zeros_like(peak)
    for part in parts:
        total += exp_(x[part] - peak).sum(dim=0)
    return peak + _over_ranks(total).log()


def _over_ranks(x: Tensor, by: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """x reduced over all ranks, elementwise and in place."""
    if dist.is_initialized():
        dist.all_reduce(x, by)
    return x
