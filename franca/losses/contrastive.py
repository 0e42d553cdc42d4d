"""InfoNCE between global crops: a crop's embedding must be nearest to that of the same image's other crop.

Not part of the Franca paper. Small models on few images learn faster with it (docs/log.md). With nested levels it is
taken at each of them, as Matryoshka representations are trained (arXiv 2205.13147).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from franca.losses.term import Metric, Term


class Keys(NamedTuple):
    """The teacher's embeddings of a whole batch, over all microbatches and ranks."""

    rows: Tensor
    """(L, 2, B, d) float32 of unit length: for each of L levels the first and the second global crop of each of the
    batch's B images"""
    first: int
    """Index in 0..B - 1 of this microbatch's first image."""


def gather_keys(embeddings: list[Tensor]) -> list[Keys]:
    """Return the keys of each microbatch, gathered over ranks.

    Ranks share the images of a batch in consecutive runs, and the microbatches of a rank share its images in the same
    way. Embeddings concatenated in this order are those of the batch.

    Args:
        embeddings: The teacher's embeddings of the global crops of each microbatch of this rank, (L, 2 b, d),
            crop-major. All microbatches and ranks have the same number of images b.
    """
    own = F.normalize(torch.cat([rows.float().unflatten(1, (2, -1)) for rows in embeddings], dim=2), dim=3)
    count = len(embeddings)
    images, rank = own.shape[2] // count, 0
    rows = own
    if dist.is_initialized():
        rank = dist.get_rank()
        gathered = own.new_empty(dist.get_world_size(), *own.shape)
        dist.all_gather(list(gathered.unbind()), own.contiguous())
        rows = gathered.movedim(0, 2).flatten(2, 3)
    return [Keys(rows, (rank * count + number) * images) for number in range(count)]


def contrastive_term(queries: Tensor, keys: Keys, temperature: float, levels: Sequence[int]) -> Term:
    """Return the mean of `contrastive_loss` over levels.

    Args:
        queries: The student's embeddings of the global crops of a microbatch, (L, 2 b, d), crop-major.
        keys: The teacher's embeddings, without gradients.
        temperature: Temperature of the softmax.
        levels: Widths of the L levels, for the names of the metrics.
    """
    losses = contrastive_loss(queries, keys, temperature)
    value = losses.mean()
    metrics = {"contrastive": Metric(value.detach())}
    for level, loss in zip(levels, losses.detach(), strict=True):
        metrics[f"contrastive/level{level}"] = Metric(loss)
    return Term(value, metrics)


def contrastive_loss(queries: Tensor, keys: Keys, temperature: float) -> Tensor:
    """Return for each level the mean InfoNCE (arXiv 1807.03748) of both global crops against the others, (L,) float32.

    For crop c of image i with unit-length embedding q: -log softmax_j(q . k_j / temperature)_i, where k_j are the keys
    of the other crop, 1 - c, of all B images.
    """
    crops = F.normalize(queries.float().unflatten(1, (2, -1)), dim=3)
    logits = crops @ keys.rows.flip(1).transpose(2, 3) / temperature  # (L, 2, b, B)
    targets = keys.first + torch.arange(crops.shape[2], device=queries.device)
    each = F.cross_entropy(logits.flatten(0, 2), targets.repeat(2 * len(logits)), reduction="none")
    return each.unflatten(0, (len(logits), -1)).mean(dim=1)
