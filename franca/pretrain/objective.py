"""The objective: the student matches the teacher's assignments of class tokens and masked patches, level by level.

total = dino (local + 2 global) / (2 + 2 n) + ibot + koleo (KoLeo of each global crop), n local crops an image; the
weights are `params.losses`. The official implementation computes the same (its scale for n = 0 is 1/3).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from franca.losses.assignments import Assignments
from franca.losses.centering import center_potentials, moved_center
from franca.losses.dino import dino_loss
from franca.losses.ibot import ibot_loss
from franca.losses.koleo import koleo_loss
from franca.losses.sinkhorn import sinkhorn_potentials
from franca.models.heads import Level
from franca.params import Losses
from franca.pretrain.network import Outputs


class Targets(NamedTuple):
    """The teacher's assignments, one a level, narrowest first."""

    dino: list[Assignments]
    """2 B rows, the crops' halves swapped: row r belongs to the other global crop of row r's image"""
    ibot: list[Assignments]
    """a row a masked patch, in row-major order of the masks"""


class Assigner(nn.Module):
    """Turns the teacher's levels into assignments, by Sinkhorn-Knopp or with a moving center for each level."""

    def __init__(self, losses: Losses, counts: tuple[int, ...]) -> None:
        """`counts` are the prototypes of each level."""
        super().__init__()
        self._losses = losses
        self.centers = nn.ModuleDict()
        if losses.assignment == "centering":
            for name in Targets._fields:
                centers = nn.ParameterList(nn.Parameter(torch.zeros(k), requires_grad=False) for k in counts)
                self.centers[name] = centers

    @torch.no_grad()
    def forward(self, parts: list[Outputs], temperature: float, padding: list[Level] | None = None) -> list[Targets]:
        """Targets of each part, assigned over all parts and ranks together.

        `padding`, rows behind the masked patches, takes part in their assignment as it does in the official code.
        """
        dino = self._assign("dino", [[_swapped(level) for level in part.dino] for part in parts], temperature, None)
        ibot = self._assign("ibot", [part.ibot for part in parts], temperature, padding)
        return [Targets(*both) for both in zip(dino, ibot, strict=True)]

    def _assign(
        self, name: str, parts: list[list[Level]], temperature: float, padding: list[Level] | None
    ) -> list[list[Assignments]]:
        """Assignments of each part, a list a level."""
        levels = []
        for level, same in enumerate(zip(*parts, strict=True)):
            more = [padding[level].hidden] if padding else []
            hidden = torch.cat([*(part.hidden for part in same), *more]).float() / temperature
            prototypes = same[0].prototypes.float()
            if self._losses.assignment == "sinkhorn":
                potentials = sinkhorn_potentials(hidden, prototypes, self._losses.sinkhorn_iterations)
            else:
                centers: Any = self.centers[name]
                potentials = center_potentials(hidden, prototypes, centers[level] / temperature)
                centers[level].copy_(
                    moved_center(centers[level], hidden * temperature, prototypes, self._losses.center_momentum)
                )
            levels.append(Assignments(hidden, prototypes, *potentials).split([len(part.hidden) for part in same]))
        return [list(part) for part in zip(*levels, strict=True)]


def _swapped(level: Level) -> Level:
    return level._replace(hidden=torch.cat(level.hidden.chunk(2)[::-1]))


class Terms(NamedTuple):
    """The objective of one part: `total` has the gradient, the rest is for the eye.

    The losses are not weighted; tensors of (levels,) but for `koleo`. Entropies are the teacher's, in nats; a
    divergence is KL(teacher | student), the cross-entropy less the entropy. Those of global crops are means, those of
    masked patches sums over `patches`, of which other processes have other numbers. Favorites are the first choices
    of the teacher's rows, int64, a tensor a level.
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


def student_terms(student: Outputs, targets: Targets, mask_weights: Tensor, losses: Losses) -> Terms:
    """The losses of the student's outputs; `mask_weights` (M,) of `losses.ibot.mask_weights`."""
    temperature, crops = losses.student_temperature, len(student.classes)
    dino = [dino_loss(*pair, temperature) for pair in zip(student.dino, targets.dino, strict=True)]
    ibot = [
        ibot_loss(*pair, mask_weights, crops, temperature) for pair in zip(student.ibot, targets.ibot, strict=True)
    ]
    koleo = koleo_loss(student.classes.unflatten(0, (2, -1, losses.koleo_images))).mean(dim=1).sum()
    total = losses.dino_weight * torch.stack([level.loss for level in dino]).sum()
    total = total + losses.ibot_weight * torch.stack([loss for loss, _ in ibot]).sum() + losses.koleo_weight * koleo
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
            koleo.new_tensor(len(mask_weights)),
        )
