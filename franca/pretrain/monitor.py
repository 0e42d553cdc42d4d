"""Metrics of training: averages between readings, memory, and a warning about collapsing features."""

import math
import resource
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from franca.pretrain.objective import HEADS, StudentLoss
from franca.pretrain.online import EFFECTIVE_RANK
from franca.pretrain.parallel import Ranks

COLLAPSED_SHARE = 0.1
"""Share of prototypes in use, 0 to 1, below which a level counts as collapsed."""
COLLAPSED_RANK = 2.0
"""Effective rank of the features below which they count as collapsed."""


class AverageMeter:
    """Averages of metrics over the steps since the last reading.

    Sums stay on the device, so that no step waits for it.
    """

    def __init__(self, levels: tuple[int, ...], counts: tuple[int, ...], device: torch.device) -> None:
        """Start empty.

        Args:
            levels: Widths of the heads' levels.
            counts: Number of prototypes of each level.
            device: The device of the metrics.
        """
        self._levels, self._counts, self._device = levels, counts, device
        self._per: dict[str, str] = {}
        self._last_loss = math.nan
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[int, Tensor]] = {}
        self._used = {
            name: [torch.zeros(count, dtype=torch.bool, device=self._device) for count in self._counts]
            for name in HEADS
        }

    @torch.no_grad()
    def update(self, loss: StudentLoss) -> None:
        """Add the metrics and the used prototypes of one microbatch."""
        self._per.update({name: metric.per for name, metric in loss.metrics.items() if metric.per})
        for name, favorites in loss.favorites.items():
            for used, favorite in zip(self._used[name], favorites, strict=True):
                used.index_fill_(0, favorite, True)
        self.add({name: metric.value for name, metric in loss.metrics.items()})

    def add(self, values: dict[str, Tensor]) -> None:
        """Add further metrics, () each, by name; names that come together once must always come together."""
        names, added = tuple(values), torch.stack(list(values.values()))
        # One vector for all: launching a kernel for each of 50 numbers takes longer than adding the numbers.
        count, total = self._sums.get(names, (0, torch.zeros_like(added)))
        self._sums[names] = (count + 1, total + added)

    def loss(self) -> float:
        """Return the mean loss since the last reading in this process, or that of the reading if there is none since.

        This is for the log, whose steps depend on `runtime`. A reading there would change the curves, which are
        outputs and may not depend on it.
        """
        for names, (count, total) in self._sums.items():
            if "loss" in names:
                self._last_loss = float(total[names.index("loss")]) / count
        return self._last_loss

    def read(self, ranks: Ranks) -> dict[str, float]:
        """Return the metrics as `train/NAME`, averaged over updates and ranks, and start anew.

        `train/prototypes_used/HEAD/LEVEL` is the share of prototypes, 0 to 1, that were some row's first choice.
        """
        state = self.state_dict(ranks)
        means = {names: (total / count).tolist() for names, (count, total) in state["sums"].items()}
        updates = {name: count for names, (count, _) in state["sums"].items() for name in names}
        values = {name: mean for names, row in means.items() for name, mean in zip(names, row, strict=True)}
        metrics = {}
        for name, mean in values.items():
            if name in self._per:
                # If the count is 0 in all updates, so is the sum: report 0.
                mean /= max(values[self._per[name]], 1 / updates[self._per[name]])
            if name not in self._per.values():
                metrics[f"train/{name}"] = mean
        for name, used in state["used"].items():
            for level, flags in zip(self._levels, used, strict=True):
                metrics[f"train/prototypes_used/{name}/level{level}"] = float(flags.float().mean())
        self._last_loss = metrics.get("train/loss", math.nan)
        self._reset()
        return metrics

    def state_dict(self, ranks: Ranks) -> dict[str, Any]:
        """Return the sums and the used prototypes of all ranks together."""
        sums = {names: (count, ranks.mean(total.clone())) for names, (count, total) in self._sums.items()}
        used = {name: [ranks.union(flags) for flags in levels] for name, levels in self._used.items()}
        return {"sums": sums, "used": used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, with any number of ranks."""
        state = tree_map_only(Tensor, lambda x: x.to(self._device), state)
        self._sums, self._used = state["sums"], state["used"]


def memory_gib(device: torch.device) -> float:
    """Return the peak memory in GiB: of the GPU, or on a CPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def collapse_warning(metrics: dict[str, float]) -> str | None:
    """Return a sentence if few prototypes are in use or the features span few dimensions, else None.

    Args:
        metrics: The newest value of each metric, by name.
    """
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
