"""Stochastic depth that computes only the samples it keeps (DINOv2, arXiv 2304.07193, efficient stochastic depth).

Samples are taken out of a batch and added back by gathers, forward and backward. The scatters that plain indexing has
in its backward pass are slower on a GPU, by far in deterministic mode, where they sort, and torch.compile cannot fuse
them with the operations around them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """Which samples of a batch keep a branch."""

    samples: Tensor
    """(k,) int64: the samples that keep it"""
    place: Tensor
    """(B,) int64: the position of each sample in `samples`, or k and more for a dropped one"""

    @property
    def scale(self) -> float:
        """B / k, which keeps the expectation that of a network without dropping."""
        return len(self.place) / len(self.samples)


def draw_kept(branches: int, batch: int, rate: float, device: torch.device) -> list[Kept]:
    """Draw for each branch max(int(batch (1 - rate)), 1) samples without replacement, all branches in one call."""
    order = torch.rand(branches, batch, device=device).argsort(dim=1)
    return [kept_first(*branch, rate) for branch in zip(order, order.argsort(dim=1), strict=True)]


def kept_first(order: Tensor, place: Tensor, rate: float) -> Kept:
    """Keep the first samples of `order` (B,), a permutation whose inverse is `place` (B,)."""
    count = max(int(len(order) * (1 - rate)), 1)
    return Kept(order[:count], place)


def residual(
    x: list[Tensor], branch: Callable[[list[Tensor]], list[Tensor]], kept: Sequence[Kept] | None
) -> list[Tensor]:
    """Return x + branch(x) for each set of samples (B_i, ...).

    With `kept`, the branch runs on those samples of each set alone, and what it gives is scaled up.
    """
    if kept is None:
        return [y + update for y, update in zip(x, branch(x), strict=True)]
    updates = branch([_Take.apply(y, *keeps) for y, keeps in zip(x, kept, strict=True)])
    return [_Add.apply(y, update, *keeps) for y, update, keeps in zip(x, updates, kept, strict=True)]


class _Take(torch.autograd.Function):
    """x[samples]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, samples: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x[samples]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return _spread(gradient, place), None, None


class _Add(torch.autograd.Function):
    """x, and scale * update added to the samples."""

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
    """Return rows[place], zeros where `place` is beyond the rows."""
    found = rows[place.clamp(max=len(rows) - 1)]
    return torch.where((place < len(rows)).view(-1, *[1] * (rows.ndim - 1)), found, 0)
