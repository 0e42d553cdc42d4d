"""What a loss term returns: its value, and metrics to log by name."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from franca.losses.cross_entropy import RowStatistics


class Metric(NamedTuple):
    """A number to log, () float32 on the device without gradients."""

    value: Tensor
    """A mean over the samples of a microbatch, or a sum if `per` is given."""
    per: str | None = None
    """Name of the metric that counts the samples of the sum, if their number differs between microbatches and ranks.
    The sum of all values is then divided by the sum of all counts. The count itself is not logged."""


class Term(NamedTuple):
    """One term of the objective on one microbatch."""

    value: Tensor
    """() float32, not weighted; carries gradients"""
    metrics: dict[str, Metric]
    """What to log, by name; levels as "NAME/level192"."""
    favorites: list[Tensor] | None = None
    """For each level the prototype with the largest assignment of each of the teacher's rows, int64 (N,); None for
    terms without prototypes"""


def level_metrics(
    name: str, levels: Sequence[int], losses: Tensor, rows: list[RowStatistics], per: str | None = None
) -> dict[str, Metric]:
    """Return the metrics of a cross-entropy between assignments at several levels.

    Args:
        name: Name of the term.
        levels: Widths of the levels, for the names of the metrics.
        losses: (levels,) float32, the loss of each level.
        rows: Statistics of the logged rows of each level.
        per: None to log means over rows, or the name of the metric that counts the rows, to log sums.

    Returns:
        The loss summed over levels, and for each level its loss, the entropy of the teacher's assignments and
        KL(teacher | student), the cross-entropy minus the entropy; both in nats.
    """
    reduce: Callable[[Tensor], Tensor] = torch.mean if per is None else torch.sum
    entropies = torch.stack([reduce(level.entropy) for level in rows])
    divergences = torch.stack([reduce(level.cross_entropy - level.entropy) for level in rows])
    metrics = {name: Metric(losses.sum())}
    for level, loss, entropy, divergence in zip(levels, losses, entropies, divergences, strict=True):
        metrics[f"{name}/level{level}"] = Metric(loss)
        metrics[f"teacher_entropy/{name}/level{level}"] = Metric(entropy, per)
        metrics[f"divergence/{name}/level{level}"] = Metric(divergence, per)
    return metrics
