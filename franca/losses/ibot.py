"""Cross-entropy of the student's masked patches with the teacher's assignments (iBOT), of one level."""

from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.cross_entropy import RowStatistics, prototype_cross_entropy
from franca.models.heads import Level


def ibot_loss(
    student: Level, teacher: Assignments, weights: Tensor, crops: int, temperature: float
) -> tuple[Tensor, RowStatistics]:
    """Masked patches (M rows), each weighted by `weights` (M,), over the number of global crops, masked or not."""
    return prototype_cross_entropy(*student, teacher.rows, weights / crops, temperature)


def mask_weights(masks: Tensor) -> Tensor:
    """1 / (masked patches of its crop) for each masked patch of `masks` (crops, patches), in row-major order: (M,)."""
    share = 1 / masks.sum(dim=1, keepdim=True).clamp(min=1)
    return share.expand_as(masks)[masks]
