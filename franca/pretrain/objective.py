"""The objective: the student matches the teacher's assignments of class tokens and masked patches, level by level.

total = dino (local + 2 global) / (2 + 2 n) + ibot + koleo (KoLeo of each global crop), n local crops an image; the
weights are `params.losses`. The official implementation computes the same (its scale for n = 0 is 1/3). A contrastive
term, which the paper does not have, is added if `params.losses.contrastive_weight` is above 0.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from franca.losses.assignments import Assignments
from franca.losses.centering import centered, moved_center
from franca.losses.contrastive import Keys, contrastive_loss
from franca.losses.dino import dino_loss
from franca.losses.ibot import ibot_loss
from franca.losses.koleo import koleo_loss
from franca.losses.sinkhorn import sinkhorn
from franca.models.heads import Level
from franca.params import Losses
from franca.pretrain.network import Outputs


class Targets(NamedTuple):
    """The teacher's assignments, one a level, widest first: to be gone through once."""

    dino: Iterable[Assignments]
    """2 B rows, the crops' halves swapped: row r belongs to the other global crop of row r's image"""
    ibot: Iterable[Assignments]
    """a row a masked patch, in row-major order of the masks"""


class Assigner(nn.Module):
    """Turns the teacher's levels into assignments, by Sinkhorn-Knopp or with a moving center for each level."""

    def __init__(self, losses: Losses, counts: tuple[int, ...]) -> None:
        """`counts` are the prototypes of each level."""
        super().__init__()
        self._losses = losses
        self._moved: dict[tuple[str, int], Tensor] = {}
        self.centers = nn.ModuleDict()
        if losses.assignment == "centering":
            for name in Targets._fields:
                centers = nn.ParameterList(nn.Parameter(torch.zeros(k), requires_grad=False) for k in counts)
                self.centers[name] = centers

    def forward(self, parts: list[Outputs], temperature: float, padding: list[Level] | None = None) -> list[Targets]:
        """Targets of each part, assigned over all parts and ranks together.

        Those of one part alone are assigned level by level as its losses ask for them: one level's rows at a time lie
        in memory. Those of several are, without their rows, all there before the first one's losses.
        `padding`, rows behind the masked patches, takes part in their assignment as it does in the official code.
        """
        dino = self._assign("dino", [[_swapped(level) for level in part.dino] for part in parts], temperature, None)
        ibot = self._assign("ibot", [part.ibot for part in parts], temperature, padding)
        if len(parts) == 1:
            return [Targets(chain.from_iterable(dino), chain.from_iterable(ibot))]
        heads = [list(map(_without_rows, head)) for head in (dino, ibot)]
        return [Targets(*([level[i] for level in head] for head in heads)) for i in range(len(parts))]

    def _assign(
        self, name: str, parts: list[list[Level]], temperature: float, padding: list[Level] | None
    ) -> Iterator[list[Assignments]]:
        """Each level's assignments, a list of the parts'."""
        for level in reversed(range(len(parts[0]))):
            yield self._assign_level(name, level, parts, temperature, padding)

    # Decorated itself, not as a generator: no_grad's wrapper around a generator keeps the last value that was yielded,
    # a level's assignments (N, K), while the next level is computed.
    @torch.no_grad()
    def _assign_level(
        self, name: str, level: int, parts: list[list[Level]], temperature: float, padding: list[Level] | None
    ) -> list[Assignments]:
        same = [part[level] for part in parts]
        more = [padding[level].hidden] if padding else []
        hidden = torch.cat([*(part.hidden for part in same), *more]).float() / temperature
        prototypes = same[0].prototypes.float()
        return self._whole(name, level, hidden, prototypes, temperature).split([len(part.hidden) for part in same])

    def _whole(self, name: str, level: int, hidden: Tensor, prototypes: Tensor, temperature: float) -> Assignments:
        if self._losses.assignment == "sinkhorn":
            return sinkhorn(hidden, prototypes, self._losses.sinkhorn_iterations)
        center: Any = self.centers[name][level]  # type: ignore[index]
        assigned = centered(hidden, prototypes, center / temperature)
        self._moved[name, level] = moved_center(center, hidden * temperature, prototypes, self._losses.center_momentum)
        return assigned

    @torch.no_grad()
    def update_centers(self, found_inf: Tensor) -> None:
        """Move the centers by this step's rows, once its assignments are used; does nothing without centers.

        Args:
            found_inf: () float32 on the device; the centers stay as they are if it is 1.
        """
        for (name, level), moved in self._moved.items():
            center: Any = self.centers[name][level]  # type: ignore[index]
            center.copy_(torch.where(found_inf > 0, center, moved))
        self._moved.clear()


def _without_rows(level: list[Assignments]) -> list[Assignments]:
    return [part.without_rows() for part in level]


def _swapped(level: Level) -> Level:
    return level._replace(hidden=torch.cat(level.hidden.chunk(2)[::-1]))


class Terms(NamedTuple):
    """The objective of one part. Only `total` carries gradients; the other fields are for logging.

    The losses are not weighted; they are tensors of (levels,), `koleo` and `contrastive` of (). Entropies are the
    teacher's, in nats. A divergence is KL(teacher | student), the cross-entropy less the entropy. Those of global
    crops are means, those of masked patches sums over `patches`, whose number differs between processes. Favorites are
    the first choices of the teacher's rows, int64, a tensor a level.
    """

    total: Tensor
    dino_local: Tensor
    dino_global: Tensor
    ibot: Tensor
    koleo: Tensor
    dino_entropy: Tensor
    ibot_entropy: Tensor
    dino_divergence: Tensor
    ibot_divergence: Tensor
    dino_favorites: list[Tensor]
    ibot_favorites: list[Tensor]
    patches: Tensor
    contrastive: Tensor | None = None


def student_terms(
    student: Outputs, targets: Targets, mask_weights: Tensor, losses: Losses, keys: Keys | None = None
) -> Terms:
    """Return the losses of the student's outputs.

    Args:
        student: of one part.
        targets: the teacher's assignments of the same part.
        mask_weights: (M,) of `losses.ibot.mask_weights`.
        losses: weights and temperatures.
        keys: the teacher's embeddings for the contrastive loss, None without that loss.
    """
    temperature, crops = losses.student_temperature, len(student.classes)
    # Widest first, while there are no other levels' gradients yet; map lets go of a level before it asks for the next.
    dino = list(map(dino_loss, student.dino[::-1], targets.dino, repeat(temperature)))[::-1]
    patches = map(
        ibot_loss, student.ibot[::-1], targets.ibot, repeat(mask_weights), repeat(crops), repeat(temperature)
    )
    ibot = list(patches)[::-1]
    koleo = koleo_loss(student.classes.unflatten(0, (2, -1, losses.koleo_images))).mean(dim=1).sum()
    total = losses.dino_weight * torch.stack([level.loss for level in dino]).sum()
    total = total + losses.ibot_weight * torch.stack([loss for loss, _ in ibot]).sum() + losses.koleo_weight * koleo
    contrastive = None
    if keys is not None and student.contrastive is not None:
        contrastive = contrastive_loss(student.contrastive, keys, losses.contrastive_temperature)
        total = total + losses.contrastive_weight * contrastive
    with torch.no_grad():
        return Terms(
            total,
            torch.stack([level.local for level in dino]),
            torch.stack([level.across for level in dino]),
            torch.stack([loss for loss, _ in ibot]).detach(),
            koleo.detach(),
            torch.stack([level.rows.entropy.mean() for level in dino]),
            torch.stack([rows.entropy.sum() for _, rows in ibot]),
            torch.stack([(level.rows.cross_entropy - level.rows.entropy).mean() for level in dino]),
            torch.stack([(rows.cross_entropy - rows.entropy).sum() for _, rows in ibot]),
            [level.rows.favorite for level in dino],
            [rows.favorite for _, rows in ibot],
            torch.full_like(koleo, len(mask_weights)),  # new_tensor would wait for the device
            None if contrastive is None else contrastive.detach(),
        )
