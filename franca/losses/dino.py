"""Cross-entropy of the student's class tokens with the teacher's assignments (DINO, arXiv 2104.14294)."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.cross_entropy import RowStatistics, Targets, prototype_cross_entropy
from franca.losses.term import Term, level_metrics
from franca.models.heads import Level


class DinoLoss(NamedTuple):
    """The loss of one level. Only `loss` carries gradients; the other fields are for logging."""

    loss: Tensor
    """(local + 2 across) / (2 + 2 n) for n local crops an image, 2 across / 3 without local crops."""
    local: Tensor
    """Cross-entropy of every local crop with both global crops, summed over pairs of crops, averaged over images."""
    across: Tensor
    """Cross-entropy of each global crop with the other, averaged over crops and images."""
    rows: RowStatistics
    """Statistics of the global crops (2 B rows)."""


def dino_term(student: list[Level], targets: Iterable[Assignments], temperature: float, levels: Sequence[int]) -> Term:
    """Return the sum of `dino_loss` over levels.

    Args:
        student: The student's levels, narrowest first, (2 + n) B rows each.
        targets: The teacher's assignments, widest level first; each is requested once the one before is released.
        temperature: Temperature of the student.
        levels: Widths of the levels.
    """
    # map releases a level's assignments (N, K) before it requests the next; a loop variable would hold them longer.
    found = list(map(dino_loss, student[::-1], targets, repeat(temperature)))[::-1]
    rows = [level.rows for level in found]
    value = torch.stack([level.loss for level in found]).sum()
    with torch.no_grad():
        losses = torch.stack([level.local for level in found]) + torch.stack([level.across for level in found])
        metrics = level_metrics("dino", levels, losses, rows)
    return Term(value, metrics, [level.favorite for level in rows])


def dino_loss(student: Level, teacher: Assignments, temperature: float) -> DinoLoss:
    """Return the loss of one level.

    Args:
        student: One level of all crops, crop-major, the two global crops first: (2 + n) B rows.
        teacher: Assignments of the global crops (2 B rows) with the halves swapped: row r belongs to the other global
            crop of row r's image.
        temperature: Temperature of the student.
    """
    count = len(teacher)
    images = count // 2
    crops = len(student.hidden) // images
    # In (local + 2 across) each row, of a local or of a global crop, has the weight 1 / B. The official code divides
    # by 2 + 2 n, and by 3 if n is 0.
    scale = 1 / (2 + max(2 * (crops - 2), 1))
    weights = student.hidden.new_full((len(student.hidden),), scale / images, dtype=torch.float32)
    loss, rows = prototype_cross_entropy(*student, dino_targets(teacher, crops), weights, temperature)
    local = rows.cross_entropy[count:].sum() / images
    return DinoLoss(loss, local, rows.cross_entropy[:count].mean(), RowStatistics(*(x[:count] for x in rows)))


def dino_targets(teacher: Assignments, crops: int) -> Targets:
    """Return the targets of all crops: the other global crop's for a global crop, the sum of both for a local crop.

    Args:
        teacher: Assignments of 2 B rows with the halves swapped.
        crops: Number of crops of an image, the two global ones included.
    """
    assigned = teacher.rows()
    images = len(assigned) // 2
    # Cross-entropy is linear in its targets, so a local crop needs one row, the sum of two. A table with one such row
    # per image avoids (N, K) targets for all local crops.
    table = torch.cat([assigned, assigned[:images] + assigned[images:]])
    place = torch.arange(crops * images, device=table.device)
    place[2 * images :] = place[2 * images :] % images + 2 * images
    return lambda part: table[place[part]]
