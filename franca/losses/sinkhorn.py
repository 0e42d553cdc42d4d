"""Teacher assignments by Sinkhorn-Knopp (SwAV, arXiv 2006.09882; in DINOv2, arXiv 2304.07193, over all ranks)."""

import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.chunks import chunks, exp_, logsumexp_


def sinkhorn(hidden: Tensor, prototypes: Tensor, iterations: int) -> Assignments:
    """Return the assignments over the batch of all ranks, with their rows, which overwrite the logits.

    Starting from Q = exp(h w^T), each iteration divides by each prototype's sum over samples, then by each sample's
    sum over prototypes. (The constant factors of the usual form cancel.)

    Args:
        hidden: h (N, b) float32, divided by the teacher's temperature.
        prototypes: w (K, b) float32.
        iterations: Number of iterations, at least 1.
    """
    # Computed on logarithms: with f_k the log of a prototype's sum and g_n that of a sample's, Q = exp(h w^T - f - g).
    # The official code exponentiates the logits, which overflows in float32 above about 3.5 at temperature 0.04.
    logits = hidden @ prototypes.T
    iterate = _on_gpu if logits.is_cuda else _on_cpu
    # Both overwrite the logits (N, K) by the assignments: a second tensor of this size would double the peak memory.
    sample, prototype = iterate(logits, iterations)
    return Assignments(hidden, prototypes, prototype, sample, logits)


def _on_gpu(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Replace logits (N, K) by assignments; return g (N,) and f (K,). Reads the logits twice per iteration."""
    from franca.losses import kernels  # needs Triton, which PyTorch has on Linux only

    local = kernels.column_logsumexp(logits, logits.new_zeros(len(logits)))
    # Nothing bounds the first sums, so that exponentials need the maximum over ranks: a second reduction, once.
    peak = _over_ranks(local.clone(), dist.ReduceOp.MAX)
    prototype = peak + _over_ranks((local - peak).exp()).log()
    sample = kernels.row_logsumexp(logits, prototype)
    for _ in range(iterations - 1):
        local = kernels.column_logsumexp(logits, sample)
        # Relative to the previous sums one reduction over ranks is enough: the ratios are moderate.
        prototype = prototype + _over_ranks((local - prototype).exp()).log()
        sample = kernels.row_logsumexp(logits, prototype)
    kernels.assign_(logits, sample, prototype)
    return sample, prototype


def _on_cpu(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Replace logits (N, K) by assignments; return g (N,) and f (K,). Reads the logits once per iteration."""
    parts = list(chunks(len(logits), logits.T, products=False))
    sample, prototype = logits.new_empty(len(logits)), _logsumexp_of_columns(logits, parts)
    for left in reversed(range(iterations)):
        # After the division by the samples' sums each row sums to 1. The log of each prototype's sum over these rows
        # is what the next division by prototypes adds to f, so both divisions need a single pass.
        total = torch.zeros_like(prototype)
        for part in parts:
            x = logits[part] - prototype if left else logits[part].sub_(prototype)
            sample[part] = logsumexp_(x)
            share = 1 / x.sum(dim=1)
            if left:
                # A product of a vector and a matrix, which needs no (n, K) tensor for the scaled rows.
                total += share @ x
            else:
                x.mul_(share[:, None])
        if left:
            prototype = prototype + _over_ranks(total).log()
    return sample, prototype


def _logsumexp_of_columns(x: Tensor, parts: list[slice]) -> Tensor:
    """Return log sum_n exp(x_nk) over the rows of all ranks, (K,)."""
    peak = x.new_full(x.shape[1:], -torch.inf)
    for part in parts:
        peak = torch.maximum(peak, x[part].amax(dim=0))
    peak = _over_ranks(peak, dist.ReduceOp.MAX)
    total = torch.zeros_like(peak)
    for part in parts:
        total += exp_(x[part] - peak).sum(dim=0)
    return peak + _over_ranks(total).log()


def _over_ranks(x: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """Reduce x over all ranks, elementwise and in place, and return it."""
    if dist.is_initialized():
        dist.all_reduce(x, op)
    return x
