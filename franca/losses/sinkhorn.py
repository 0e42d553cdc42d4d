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
    Q = exp(h w^T - f - g).
    """
    logits = hidden @ prototypes.T
    iterate = _on_gpu if logits.is_cuda else _on_cpu
    sample, prototype = iterate(logits, prototypes, iterations)
    return Assignments(hidden, prototypes, prototype, sample, logits)


def _on_gpu(logits: Tensor, prototypes: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Replace logits by assignments; return g (N,) and f (K,). Two reads of the logits an iteration."""
    from franca.losses import kernels  # needs Triton, which PyTorch has on Linux only

    local = kernels.column_logsumexp(logits, logits.new_zeros(len(logits)))
    peak = _over_ranks(local.clone(), dist.ReduceOp.MAX)
    prototype = peak + _over_ranks((local - peak).exp()).log()
    sample = kernels.row_logsumexp(logits, prototype)
    for _ in range(iterations - 1):
        local = kernels.column_logsumexp(logits, sample)
        # Relative to the sums before, so that one reduction over ranks is enough: the ratios are moderate.
        prototype = prototype + _over_ranks((local - prototype).exp()).log()
        sample = kernels.row_logsumexp(logits, prototype)
    kernels.assign_(logits, sample, prototype)
    return sample, prototype


def _on_cpu(logits: Tensor, prototypes: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Replace logits by assignments; return g (N,) and f (K,). One read of the logits an iteration.

    After a division by rows each row sums to 1. The log of each prototype's sum over them is then added to f.
    """
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
    return sample, prototype


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
