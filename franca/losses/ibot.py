"""Cross-entropy of the student's masked patches with the teacher's assignments (iBOT), level by level."""

from torch import Tensor

from franca.losses.dino import cross_entropy


def ibot_loss(student: Tensor, teacher: Tensor, weights: Tensor, crops: int, temperature: float) -> Tensor:
    """Masked patches (N, K), each weighted by `weights` (N,), divided by the number of global crops, masked or not."""
    return (cross_entropy(student, teacher, temperature) * weights).sum() / crops


def mask_weights(masks: Tensor) -> Tensor:
    """1 / (masked patches of its crop) for each masked patch of `masks` (crops, patches), in row-major order: (N,)."""
    share = 1 / masks.sum(dim=1, keepdim=True).clamp(min=1)
    return share.expand_as(masks)[masks]
