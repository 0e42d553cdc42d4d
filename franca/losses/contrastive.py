"""InfoNCE between global crops: a crop's embedding must be nearest to that of the same image's other crop.

Not part of the Franca paper. Small models on few images learn faster with it (docs/log.md).
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from franca.losses.term import Metric, Term


class Keys(NamedTuple):
    """The teacher's embeddings of a whole batch, over all microbatches and ranks."""

    rows: Tensor
    """(2, B, d) float32 of unit length: the first and the second global crop of each of the batch's B images"""
    first: int
    """Index in 0..B - 1 of this microbatch's first image."""


def gather_keys(embeddings: list[Tensor]) -> list[Keys]:
    """Return the keys of each microbatch, gathered over ranks.

    Ranks share the images of a batch in consecutive runs, and the microbatches of a rank share its images in the same
    way. Embeddings concatenated in this order are those of the batch.

    Args:
        embeddings: The teacher's embeddings of the global crops of each microbatch of this rank, (2 b, d), crop-major.
            All microbatches and ranks have the same number of images b.
    """
    own = F.normalize(torch.cat([rows.float().unflatten(0, (2, -1)) for rows in embeddings], dim=1), dim=2)
    count = len(embeddings)
    images, rank = own.shape[1] // count, 0
    rows = own
    if dist.is_initialized():
        rank = dist.get_rank()
        gathered = own.new_empty(dist.get_world_size(), *own.shape)
        dist.all_gather(list(gathered.unbind()), own.contiguous())
        rows = gathered.transpose(0, 1).flatten(1, 2)
    return [Keys(rows, (rank * count + number) * images) for number in range(count)]


def contrastive_term(queries: Tensor, keys: Keys, temperature: float) -> Term:
    """Return `contrastive_loss` as a term of the objective."""
    value = contrastive_loss(queries, keys, temperature)
    return Term(value, {"contrastive": Metric(value.detach())})


def contrastive_loss(queries: Tensor, keys: Keys, temperature: float) -> Tensor:
    """Return the mean InfoNCE (arXiv 1807.03748) of both global crops against the other crops of the batch, ().

    For crop c of image i with unit-length embedding q: -log softmax_j(q . k_j / temperature)_i, where k_j are the keys
    of the other crop, 1 - c, of all B images.

    Args:
        queries: The student's embeddings of the global crops of a microbatch, (2 b, d), crop-major.
        keys: The teacher's embeddings, without gradients.
        temperature: Temperature of the softmax.
    """
    crops = F.normalize(queries.float().unflatten(0, (2, -1)), dim=2)
    logits = crops @ keys.rows.flip(0).transpose(1, 2) / temperature  # (2, b, B)
    targets = keys.first + torch.arange(crops.shape[1], device=queries.device)
    return F.cross_entropy(logits.flatten(0, 1), targets.repeat(2))
