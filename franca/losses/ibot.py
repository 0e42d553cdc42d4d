"""Cross-entropy of the student's masked patches with the teacher's assignments (iBOT, arXiv 2111.07832)."""

from collections.abc import Iterable, Sequence
from itertools import repeat

import torch
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.cross_entropy import RowStatistics, prototype_cross_entropy
from franca.losses.term import Metric, Term, level_metrics
from franca.models.heads import Level

PATCHES = "patches"
"""Name of the metric that counts masked patches."""


def ibot_term(
    student: list[Level],
    targets: Iterable[Assignments],
    mask_weights: Tensor,
    crops: int,
    temperature: float,
    levels: Sequence[int],
) -> Term:
    """Return the sum of `ibot_loss` over levels.

    Args:
        student: The student's levels, narrowest first, M rows each.
        targets: The teacher's assignments, widest level first; each is requested once the one before is released.
        mask_weights: (M,) float32, as from `mask_weights`.
        crops: Number of global crops, masked or not.
        temperature: Temperature of the student.
        levels: Widths of the levels.
    """
    # map releases a level's assignments (N, K) before it requests the next; a loop variable would hold them longer.
    found = list(map(ibot_loss, student[::-1], targets, repeat(mask_weights), repeat(crops), repeat(temperature)))
    losses = torch.stack([loss for loss, _ in found[::-1]])
    rows = [rows for _, rows in found[::-1]]
    with torch.no_grad():
        metrics = level_metrics("ibot", levels, losses.detach(), rows, per=PATCHES)
    return Term(losses.sum(), metrics, [level.favorite for level in rows])


def patch_count(mask_weights: Tensor) -> Metric:
    """Return the number of masked patches as a metric on the device, for the metrics that are sums over patches."""
    # new_tensor would be a blocking copy to the device.
    return Metric(torch.full((), len(mask_weights), dtype=torch.float32, device=mask_weights.device))


def ibot_loss(
    student: Level, teacher: Assignments, weights: Tensor, crops: int, temperature: float
) -> tuple[Tensor, RowStatistics]:
    """Return the weighted cross-entropy of one level, divided by the number of crops.

    Args:
        student: One level of M masked patches.
        teacher: The teacher's assignments of the same patches, (M, K).
        weights: (M,) float32, 1 / (masked patches of the crop) for each patch.
        crops: Number of global crops, masked or not.
        temperature: Temperature of the student.

    Returns:
        The loss, () float32, and statistics of the M rows.
    """
    return prototype_cross_entropy(*student, teacher.rows, weights / crops, temperature)


def mask_weights(masks: Tensor) -> Tensor:
    """Return 1 / (masked patches of its crop) for each masked patch.

    Args:
        masks: (crops, patches) bool.

    Returns:
        (M,) float32, in row-major order of `masks`.
    """
    share = 1 / masks.sum(dim=1, keepdim=True).clamp(min=1)
    return share.expand_as(masks)[masks]
