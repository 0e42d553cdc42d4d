"""Stochastic depth that computes only the samples it keeps (efficient stochastic depth of DINOv2, arXiv 2304.07193).

Samples are selected from a batch and added back by gathers, in the forward and in the backward pass. The backward pass
of plain indexing uses scatters, which are slower on a GPU. In deterministic mode they sort their indices and are much
slower, and torch.compile cannot fuse them with neighboring operations.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """The samples of a batch that keep a branch."""

    samples: Tensor
    """(k,) int64, the samples that keep the branch"""
    place: Tensor
    """(B,) int64, the index of each sample in `samples`; k or more for dropped samples"""

    @property
    def scale(self) -> float:
        """B / k, with which the expectation is that of a network without stochastic depth."""
        return len(self.place) / len(self.samples)


def draw_kept(branches: int, batch: int, rate: float, device: torch.device) -> list[Kept]:
    """Draw max(int(batch (1 - rate)), 1) samples for each branch, without replacement.

    Args:
        branches: Number of branches; all are drawn in one call.
        batch: Number of samples B.
        rate: Share of samples to drop.
        device: The device of the result. The draws depend on it.
    """
    order = torch.rand(branches, batch, device=device).argsort(dim=1)
    return [kept_first(*branch, rate) for branch in zip(order, order.argsort(dim=1), strict=True)]


def kept_first(order: Tensor, place: Tensor, rate: float) -> Kept:
    """Keep the first samples of a permutation.

    Args:
        order: (B,) int64, the permutation.
        place: (B,) int64, its inverse.
        rate: Share of samples to drop.
    """
    count = max(int(len(order) * (1 - rate)), 1)
    return Kept(order[:count], place)


def residual(
    x: list[Tensor], branch: Callable[[list[Tensor]], list[Tensor]], kept: Sequence[Kept] | None
) -> list[Tensor]:
    """Return x + branch(x) for each set of samples.

    Args:
        x: Sets of samples, (B_i, ...).
        branch: The function to add.
        kept: For each set, the samples that the branch runs on; its results are scaled by B_i / k_i. None for all
            samples.
    """
    if kept is None:
        return [y + update for y, update in zip(x, branch(x), strict=True)]
    updates = branch([_Take.apply(y, *keeps) for y, keeps in zip(x, kept, strict=True)])
    return [_Add.apply(y, update, *keeps) for y, update, keeps in zip(x, updates, kept, strict=True)]


class _Take(torch.autograd.Function):
    """Computes x[samples], with a gather as its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, samples: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x[samples]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return _spread(gradient, place), None, None


class _Add(torch.autograd.Function):
    """Adds scale * update to the kept samples of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, samples: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(samples)
        ctx.scale, ctx.dtype = Kept(samples, place).scale, update.dtype
        return x + ctx.scale * _spread(update.to(x.dtype), place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (samples,) = ctx.saved_tensors
        return gradient, (ctx.scale * gradient[samples]).to(ctx.dtype), None, None


def _spread(rows: Tensor, place: Tensor) -> Tensor:
    """Return rows[place], and zeros for places beyond the rows."""
    found = rows[place.clamp(max=len(rows) - 1)]
    return torch.where((place < len(rows)).view(-1, *[1] * (rows.ndim - 1)), found, 0)
