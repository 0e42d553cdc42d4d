"""InfoNCE between global crops: a crop's embedding must be nearest to that of the same image's other crop.

Not part of the Franca paper. Small models on few images learn faster with it (docs/log.md).
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class Keys(NamedTuple):
    """The teacher's embeddings of a whole batch, over all parts and ranks."""

    rows: Tensor
    """(2, B, d) float32, of unit length: of the first and the second global crop of each of the batch's B images"""
    first: int
    """position in 0..B - 1 of this part's first image"""


def gather_keys(parts: list[Tensor]) -> list[Keys]:
    """Return the keys of each part.

    The images of a batch are shared by ranks in consecutive runs, and those of a rank by parts, so that embeddings put
    together in this order are those of the batch.

    Args:
        parts: the teacher's embeddings of the global crops of each part of this rank, (2 b, d), crop-major. All parts
            and ranks have the same number of images b.
    """
    own = F.normalize(torch.cat([part.float().unflatten(0, (2, -1)) for part in parts], dim=1), dim=2)
    images, rank = own.shape[1] // len(parts), 0
    rows = own
    if dist.is_initialized():
        rank = dist.get_rank()
        gathered = own.new_empty(dist.get_world_size(), *own.shape)
        dist.all_gather(list(gathered.unbind()), own.contiguous())
        rows = gathered.transpose(0, 1).flatten(1, 2)
    return [Keys(rows, (rank * len(parts) + part) * images) for part in range(len(parts))]


def contrastive_loss(queries: Tensor, keys: Keys, temperature: float) -> Tensor:
    """Return the mean InfoNCE (arXiv 1807.03748) of both global crops against the other crops of the batch, ().

    For crop c of image i with unit-length embedding q: -log softmax_j(q . k_j / temperature)_i, where k_j are the keys
    of the other crop, 1 - c, of all B images.

    Args:
        queries: the student's embeddings of the global crops of a part, (2 b, d), crop-major.
        keys: the teacher's, without gradients.
        temperature: of the softmax.
    """
    crops = F.normalize(queries.float().unflatten(0, (2, -1)), dim=2)
    logits = crops @ keys.rows.flip(0).transpose(1, 2) / temperature  # (2, b, B)
    targets = keys.first + torch.arange(crops.shape[1], device=queries.device)
    return F.cross_entropy(logits.flatten(0, 1), targets.repeat(2))
