"""The objective: the student matches the teacher's assignments of class tokens and masked patches, level by level.

total = sum of weight x term over the terms dino, ibot, koleo and, if its weight is above 0, contrastive (not part of
the paper). The weights are `params.losses`. Each term is a file of `franca.losses`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from franca.losses.assignments import Assignments
from franca.losses.centering import centered, moved_center
from franca.losses.contrastive import Keys, contrastive_term, gather_keys
from franca.losses.dino import dino_term
from franca.losses.ibot import PATCHES, ibot_term, patch_count
from franca.losses.koleo import koleo_term
from franca.losses.sinkhorn import sinkhorn
from franca.losses.term import Metric, Term
from franca.models.heads import Level
from franca.params import Losses
from franca.pretrain.network import Outputs

TERMS = ("dino", "ibot", "koleo")
OPTIONAL_TERMS = ("contrastive",)
"""Terms that are computed only if their weight is above 0."""
HEADS = ("dino", "ibot")
"""Terms whose targets are assignments to prototypes."""


class Targets(NamedTuple):
    """What one microbatch's losses take from the teacher. Assignments come widest level first, to be iterated once."""

    dino: Iterable[Assignments]
    """2 B rows a level, with the halves swapped: row r belongs to the other global crop of row r's image"""
    ibot: Iterable[Assignments]
    """one row per masked patch and level, in row-major order of the masks"""
    keys: Keys | None
    """embeddings for the contrastive loss; None without that loss"""


class Assigner(nn.Module):
    """Turns the teacher's outputs into targets: Sinkhorn-Knopp or a moving center assigns each level to prototypes."""

    def __init__(self, losses: Losses, counts: tuple[int, ...]) -> None:
        """Create the centers, if there are any.

        Args:
            losses: Kind of assignment and its parameters.
            counts: Number of prototypes of each level.
        """
        super().__init__()
        self._losses = losses
        self._moved: dict[tuple[str, int], Tensor] = {}
        self.centers = nn.ModuleDict()
        if losses.assignment == "centering":
            for name in HEADS:
                centers = nn.ParameterList(nn.Parameter(torch.zeros(k), requires_grad=False) for k in counts)
                self.centers[name] = centers

    def forward(
        self, teacher_outputs: list[Outputs], temperature: float, padding: list[Level] | None = None
    ) -> list[Targets]:
        """Return the targets of each microbatch, assigned over all microbatches and ranks together.

        Args:
            teacher_outputs: Outputs of the teacher for each microbatch of this rank.
            temperature: Temperature of the teacher.
            padding: Levels of rows after the masked patches that take part in their assignment, as in the official
                code; None for no such rows.
        """
        heads = (
            self._assign("dino", [[_swapped(level) for level in o.dino] for o in teacher_outputs], temperature, None),
            self._assign("ibot", [outputs.ibot for outputs in teacher_outputs], temperature, padding),
        )
        if len(teacher_outputs) == 1:
            # Lazy: a level is assigned when its loss requests it, so only one level's rows (N, K) are in memory.
            (keys,) = _keys(teacher_outputs)
            dino, ibot = heads
            return [Targets(chain.from_iterable(dino), chain.from_iterable(ibot), keys)]
        # All microbatches are assigned before the first one's losses. Keeping all rows would need too much memory, so
        # the losses compute them again.
        dino_levels, ibot_levels = ([[own.without_rows() for own in level] for level in head] for head in heads)
        return [
            Targets([level[number] for level in dino_levels], [level[number] for level in ibot_levels], keys)
            for number, keys in enumerate(_keys(teacher_outputs))
        ]

    def _assign(
        self, name: str, outputs: list[list[Level]], temperature: float, padding: list[Level] | None
    ) -> Iterator[list[Assignments]]:
        """Yield each level's assignments, widest level first, as a list over microbatches."""
        for level in reversed(range(len(outputs[0]))):
            yield self._assign_level(name, level, outputs, temperature, padding)

    # Decorated here and not at the generator: no_grad's wrapper around a generator keeps the last value that was
    # yielded, a level's assignments (N, K), while the next level is computed.
    @torch.no_grad()
    def _assign_level(
        self, name: str, level: int, outputs: list[list[Level]], temperature: float, padding: list[Level] | None
    ) -> list[Assignments]:
        own = [levels[level] for levels in outputs]
        more = [padding[level].hidden] if padding else []
        hidden = torch.cat([*(each.hidden for each in own), *more]).float() / temperature
        prototypes = own[0].prototypes.float()
        assigned = self._assign_rows(name, level, hidden, prototypes, temperature)
        return assigned.split([len(each.hidden) for each in own])

    def _assign_rows(
        self, name: str, level: int, hidden: Tensor, prototypes: Tensor, temperature: float
    ) -> Assignments:
        if self._losses.assignment == "sinkhorn":
            return sinkhorn(hidden, prototypes, self._losses.sinkhorn_iterations)
        center: Any = self.centers[name][level]  # type: ignore[index]
        assigned = centered(hidden, prototypes, center / temperature)
        self._moved[name, level] = moved_center(center, hidden * temperature, prototypes, self._losses.center_momentum)
        return assigned

    @torch.no_grad()
    def update_centers(self, found_inf: Tensor) -> None:
        """Move the centers by this step's rows, after its assignments have been used; does nothing without centers.

        Args:
            found_inf: () float32 on the device; the centers stay as they are if it is 1.
        """
        for (name, level), moved in self._moved.items():
            center: Any = self.centers[name][level]  # type: ignore[index]
            center.copy_(torch.where(found_inf > 0, center, moved))
        self._moved.clear()


def _keys(teacher_outputs: list[Outputs]) -> list[Keys] | list[None]:
    """Return the keys of the contrastive loss for each microbatch, or None for each without that loss."""
    embeddings = [outputs.contrastive for outputs in teacher_outputs if outputs.contrastive is not None]
    return gather_keys(embeddings) if embeddings else [None] * len(teacher_outputs)


def _swapped(level: Level) -> Level:
    return level._replace(hidden=torch.cat(level.hidden.chunk(2)[::-1]))


class StudentLoss(NamedTuple):
    """The objective of one microbatch. Only `total` carries gradients; the other fields are for logging."""

    total: Tensor
    """() float32, the weighted sum of the terms"""
    metrics: dict[str, Metric]
    """`loss`, which is the total, and the metrics of all terms"""
    favorites: dict[str, list[Tensor]]
    """For each of HEADS and each level, the first choices of the teacher's rows, int64 (N,)."""


def student_loss(
    student_outputs: Outputs, targets: Targets, mask_weights: Tensor, losses: Losses, levels: Sequence[int]
) -> StudentLoss:
    """Return the objective of one microbatch.

    Args:
        student_outputs: Outputs of the student for the microbatch.
        targets: The teacher's targets of the same microbatch.
        mask_weights: (M,) float32 of `losses.ibot.mask_weights`.
        losses: Weights and temperatures.
        levels: Widths of the heads' levels, for the names of the metrics.
    """
    classes, temperature = student_outputs.classes, losses.student_temperature
    # Each head goes through its levels widest first: then the largest logits are computed while no other level's
    # gradients are in memory yet.
    dino = dino_term(student_outputs.dino, targets.dino, temperature, levels)
    ibot = ibot_term(student_outputs.ibot, targets.ibot, mask_weights, len(classes), temperature, levels)
    koleo = koleo_term(classes, losses.koleo_images)
    total = losses.dino_weight * dino.value + losses.ibot_weight * ibot.value + losses.koleo_weight * koleo.value
    optional: list[tuple[float, Term]] = []
    if targets.keys is not None and student_outputs.contrastive is not None:
        # The contrastive head has as many levels as the others, or only the widest.
        widths = levels[-len(student_outputs.contrastive) :]
        term = contrastive_term(student_outputs.contrastive, targets.keys, losses.contrastive_temperature, widths)
        optional.append((losses.contrastive_weight, term))
    for weight, term in optional:
        total = total + weight * term.value
    # The meter adds all metrics up as one vector, and checkpoints contain it: the order of the names must not change.
    metrics = {"loss": Metric(total.detach())} | koleo.metrics | {PATCHES: patch_count(mask_weights)}
    for term in (*(term for _, term in optional), dino, ibot):
        metrics |= term.metrics
    favorites = {name: term.favorites for name, term in (("dino", dino), ("ibot", ibot)) if term.favorites is not None}
    return StudentLoss(total, metrics, favorites)
