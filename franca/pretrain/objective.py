"""The objective: the student matches the teacher's assignments of class tokens and masked patches, level by level.

total = dino (local + 2 global) / (2 + 2 n) + ibot + koleo (KoLeo of each global crop), n local crops an image; the
weights are `params.losses`. The official implementation computes the same (its scale for n = 0 is 1/3).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from franca.losses.dino import dino_global_loss, dino_local_loss
from franca.losses.ibot import ibot_loss, mask_weights
from franca.losses.koleo import koleo_loss
from franca.losses.sinkhorn import sinkhorn_knopp
from franca.params import Losses
from franca.pretrain.network import Network


class Targets(NamedTuple):
    """The teacher's assignments, a tensor a level, narrowest first."""

    dino: list[Tensor]
    """(2 B, K_l), the crops' halves swapped: row r belongs to the other global crop of row r's image"""
    ibot: list[Tensor]
    """(masked patches, K_l), in row-major order of the masks"""


class Terms(NamedTuple):
    """The objective's parts, each a scalar or a tensor of (levels,), not yet weighted."""

    dino_local: Tensor
    dino_global: Tensor
    ibot: Tensor
    koleo: Tensor


@torch.no_grad()
def teacher_targets(
    teacher: Network, global_crops: Tensor, masks: Tensor, temperature: float, iterations: int
) -> Targets:
    """Assignments of unmasked global crops (2 B, 3, S, S), crop-major; `masks` (2 B, h w) picks the patches."""
    classes, patches = teacher.tokens(global_crops)
    classes = torch.cat(classes.chunk(2)[::-1])
    return Targets(
        [sinkhorn_knopp(logits, temperature, iterations) for logits in teacher.dino_head(classes)],
        [sinkhorn_knopp(logits, temperature, iterations) for logits in teacher.ibot_head(patches[masks])],
    )


def student_terms(
    student: Network, global_crops: Tensor, local_crops: Tensor, masks: Tensor, targets: Targets, temperature: float
) -> Terms:
    """The losses of the student on masked global crops (2 B, 3, S, S) and local crops (n B, 3, s, s)."""
    count = len(global_crops)
    classes, patches = student.tokens(global_crops, masks)
    every = torch.cat([classes, student.tokens(local_crops)[0]]) if len(local_crops) else classes
    dino = student.dino_head(every)
    ibot = student.ibot_head(patches[masks])
    weights = mask_weights(masks)
    local = [
        dino_local_loss(logits[count:], target, temperature) if len(local_crops) else logits.new_zeros(())
        for logits, target in zip(dino, targets.dino, strict=True)
    ]
    across = [
        dino_global_loss(logits[:count], target, temperature)
        for logits, target in zip(dino, targets.dino, strict=True)
    ]
    masked = [
        ibot_loss(logits, target, weights, count, temperature)
        for logits, target in zip(ibot, targets.ibot, strict=True)
    ]
    koleo = torch.stack([koleo_loss(half) for half in classes.chunk(2)]).sum()
    return Terms(torch.stack(local), torch.stack(across), torch.stack(masked), koleo)


def total_loss(terms: Terms, local_count: int, weights: Losses) -> Tensor:
    scale = 1 / (2 + max(2 * local_count, 1))
    dino = (terms.dino_local.sum() + 2 * terms.dino_global.sum()) * scale
    return weights.dino_weight * dino + weights.ibot_weight * terms.ibot.sum() + weights.koleo_weight * terms.koleo
