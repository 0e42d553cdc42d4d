"""Cross-entropy of the student's class tokens with the teacher's assignments (DINO), of one level."""

from typing import NamedTuple

import torch
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.cross_entropy import RowStatistics, Targets, prototype_cross_entropy
from franca.models.heads import Level


class DinoLoss(NamedTuple):
    """`loss` has the gradient: dino (local + 2 global) / (2 + 2 n); the parts are for the eye."""

    loss: Tensor
    local: Tensor
    """every local crop against both global crops, summed over pairs of crops, averaged over images"""
    across: Tensor
    """each global crop against the other, averaged over crops and images"""
    rows: RowStatistics
    """of the global crops (2 B rows)"""


def dino_loss(student: Level, teacher: Assignments, temperature: float) -> DinoLoss:
    """Student rows ((2 + n) B) are crop-major, the two global crops first; teacher (2 B), its halves swapped."""
    count = len(teacher)
    images = count // 2
    crops = len(student.hidden) // images
    # (local + 2 global) has a weight of 1 / B on each row, be it of a local or a global crop.
    scale = 1 / (2 + max(2 * (crops - 2), 1))
    weights = student.hidden.new_full((len(student.hidden),), scale / images, dtype=torch.float32)
    loss, rows = prototype_cross_entropy(*student, dino_targets(teacher, crops), weights, temperature)
    local = rows.cross_entropy[count:].sum() / images
    return DinoLoss(loss, local, rows.cross_entropy[:count].mean(), RowStatistics(*(x[:count] for x in rows)))


def dino_targets(teacher: Assignments, crops: int) -> Targets:
    """Targets of all crops of B images, crop-major: the other global crop's for a global one, both for a local one."""
    assigned = teacher.rows()
    images = len(assigned) // 2
    table = torch.cat([assigned, assigned[:images] + assigned[images:]])
    place = torch.arange(crops * images, device=table.device)
    place[2 * images :] = place[2 * images :] % images + 2 * images
    return lambda part: table[place[part]]
