"""Teacher assignments by a softmax less a moving center of the logits (DINO, arXiv 2104.14294), level by level."""

import torch
import torch.distributed as dist
from torch import Tensor

from franca.losses.assignments import Assignments
from franca.losses.chunks import chunks, logsumexp_


def centered(hidden: Tensor, prototypes: Tensor, center: Tensor) -> Assignments:
    """Assignments softmax(h w^T - center); their rows are not kept.

    hidden (N, b) and center (K,) are divided by the temperature already; all float32.
    """
    sample = hidden.new_empty(len(hidden))
    for part in chunks(len(hidden), prototypes):
        logits = (hidden[part] @ prototypes.T).sub_(center)
        sample[part] = logsumexp_(logits)
    return Assignments(hidden, prototypes, center.clone(), sample)


def moved_center(center: Tensor, hidden: Tensor, prototypes: Tensor, momentum: float) -> Tensor:
    """momentum center + (1 - momentum) (mean logits of all ranks' rows), (K,); no rows leave it where it is.

    The mean of h w^T over rows is the mean of h times w^T.
    """
    # new_tensor would be a blocking copy to the device.
    total = torch.cat([hidden.sum(dim=0), hidden.new_full((1,), len(hidden))])
    if dist.is_initialized():
        dist.all_reduce(total)
    mean = prototypes @ (total[:-1] / total[-1].clamp(min=1))
    return torch.where(total[-1] > 0, center.lerp(mean, 1 - momentum), center)
