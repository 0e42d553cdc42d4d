"""Teacher assignments by a softmax of logits minus a moving center (DINO, arXiv 2104.14294), one level at a time."""

import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.chunks import chunks, logsumexp_


def centered(hidden: Tensor, prototypes: Tensor, center: Tensor) -> Assignments:
    """Return the assignments softmax(h w^T - center), whose rows are not kept.

    Args:
        hidden: h (N, b) float32, divided by the temperature.
        prototypes: w (K, b) float32.
        center: (K,) float32, divided by the temperature.
    """
    sample = hidden.new_empty(len(hidden))
    for part in chunks(len(hidden), prototypes):
        logits = (hidden[part] @ prototypes.T).sub_(center)
        sample[part] = logsumexp_(logits)
    return Assignments(hidden, prototypes, center.clone(), sample)


def moved_center(center: Tensor, hidden: Tensor, prototypes: Tensor, momentum: float) -> Tensor:
    """Return momentum center + (1 - momentum) (mean logits of the rows of all ranks), (K,) float32.

    Without any rows the center stays as it is.

    Args:
        center: (K,) float32.
        hidden: h (N, b) float32, not divided by the temperature.
        prototypes: w (K, b) float32.
        momentum: Weight of the old center, 0 to 1.
    """
    # The mean of h w^T over rows is the mean of h times w^T, so the logits are not computed, and b + 1 numbers are
    # reduced over ranks instead of K. new_tensor would be a blocking copy to the device.
    total = torch.cat([hidden.sum(dim=0), hidden.new_full((1,), len(hidden))])
    if dist.is_initialized():
        dist.all_reduce(total)
    mean = prototypes @ (total[:-1] / total[-1].clamp(min=1))
    return torch.where(total[-1] > 0, center.lerp(mean, 1 - momentum), center)
