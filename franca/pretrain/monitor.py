"""What a person watches while a model trains: losses, signs of collapse for each level, throughput."""

import math
import resource
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from franca.pretrain.objective import Terms
from franca.pretrain.online import EFFECTIVE_RANK
from franca.pretrain.parallel import Ranks

COLLAPSED_SHARE = 0.1
COLLAPSED_RANK = 2.0
HEADS = ("dino", "ibot")
PATCHES = "patches"
BY_PATCH = ("teacher_entropy/ibot", "divergence/ibot")
"""Beginnings of names whose sums are over masked patches."""


class Meter:
    """Means over the steps since the last reading; sums stay on the device, so that a step waits for nothing."""

    def __init__(self, levels: tuple[int, ...], counts: tuple[int, ...], device: torch.device) -> None:
        """`levels` name the heads' levels, `counts` are their prototypes."""
        self._levels, self._counts, self._device = levels, counts, device
        self._last_loss = math.nan
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[int, Tensor]] = {}
        self._used = {
            name: [torch.zeros(count, dtype=torch.bool, device=self._device) for count in self._counts]
            for name in HEADS
        }

    @torch.no_grad()
    def update(self, terms: Terms) -> None:
        """Take in one part's terms."""
        values = {"loss": terms.total.detach(), "koleo": terms.koleo, PATCHES: terms.patches}
        if terms.contrastive is not None:
            values["contrastive"] = terms.contrastive
        for name, losses, entropies, divergences, favorites in (
            (
                "dino",
                terms.dino_local + terms.dino_global,
                terms.dino_entropy,
                terms.dino_divergence,
                terms.dino_favorites,
            ),
            ("ibot", terms.ibot, terms.ibot_entropy, terms.ibot_divergence, terms.ibot_favorites),
        ):
            values[name] = losses.sum()
            for level, *numbers in zip(self._levels, losses, entropies, divergences, strict=True):
                for kind, number in zip(("{}", "teacher_entropy/{}", "divergence/{}"), numbers, strict=True):
                    values[f"{kind.format(name)}/level{level}"] = number
            for seen, favorite in zip(self._used[name], favorites, strict=True):
                seen.index_fill_(0, favorite, True)
        self.add(values)

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in further numbers, scalars by name; the same names always come together."""
        names, added = tuple(values), torch.stack(list(values.values()))
        # One vector for all: a kernel launched for each of 50 numbers costs more time than the numbers do.
        count, total = self._sums.get(names, (0, torch.zeros_like(added)))
        self._sums[names] = (count + 1, total + added)

    def loss(self) -> float:
        """Return the mean loss since the last reading, in this process; at a reading, that of the reading.

        It is for the log: a reading that the log asked for would change the curves, which are outputs.
        """
        for names, (count, total) in self._sums.items():
            if "loss" in names:
                self._last_loss = float(total[names.index("loss")]) / count
        return self._last_loss

    def read(self, ranks: Ranks) -> dict[str, float]:
        """Means over updates and processes, and shares of prototypes (0..1) that were some row's first choice."""
        state = self.state_dict(ranks)
        means = {names: (total / count).tolist() for names, (count, total) in state["sums"].items()}
        counts = {name: count for names, (count, _) in state["sums"].items() for name in names}
        sums = {name: mean for names, values in means.items() for name, mean in zip(names, values, strict=True)}
        # If no patch was masked, report 0.
        patches = max(sums.pop(PATCHES), 1 / counts[PATCHES])
        metrics = {
            f"train/{name}": mean / patches if name.startswith(BY_PATCH) else mean for name, mean in sums.items()
        }
        for name, used in state["used"].items():
            for level, seen in zip(self._levels, used, strict=True):
                metrics[f"train/prototypes_used/{name}/level{level}"] = float(seen.float().mean())
        self._last_loss = metrics.get("train/loss", math.nan)
        self._reset()
        return metrics

    def state_dict(self, ranks: Ranks) -> dict[str, Any]:
        """What all processes know together."""
        sums = {names: (count, ranks.mean(total.clone())) for names, (count, total) in self._sums.items()}
        used = {name: [ranks.union(seen) for seen in levels] for name, levels in self._used.items()}
        return {"sums": sums, "used": used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = tree_map_only(Tensor, lambda x: x.to(self._device), state)
        self._sums, self._used = state["sums"], state["used"]


def memory_gib(device: torch.device) -> float:
    """The most memory that was in use at once: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def collapse_warning(metrics: dict[str, float]) -> str | None:
    """A plain sentence where few prototypes are in use or the features lie in few dimensions."""
    used = {key: value for key, value in metrics.items() if "prototypes_used" in key and value < COLLAPSED_SHARE}
    if used:
        key, value = min(used.items(), key=lambda item: item[1])
        return (
            f"signs of collapse: {key} is {100 * value:.1f} %"
            " (try more batch, fewer prototypes or a higher temperature)"
        )
    rank = metrics.get(EFFECTIVE_RANK)
    if rank is not None and rank < COLLAPSED_RANK:
        return (
            f"signs of collapse: {EFFECTIVE_RANK} is {rank:.1f} (try a higher losses.koleo_weight or a lower base_lr)"
        )
    return None
