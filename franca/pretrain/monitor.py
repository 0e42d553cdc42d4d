"""What a person watches while a model trains: losses, signs of collapse for each level, online k-NN, throughput."""

import resource
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from franca.data.order import permute
from franca.data.store import Store
from franca.data.transform import load_images
from franca.evaluation.knn import knn_predict
from franca.models.model import normalize
from franca.params import Base
from franca.pretrain.network import Network
from franca.pretrain.objective import Terms
from franca.pretrain.parallel import Ranks

KNN_TRAIN, KNN_VAL = 2000, 1000
COLLAPSED_SHARE = 0.1
COLLAPSED_RANK = 2.0
EFFECTIVE_RANK = "val/effective_rank"
HEADS = ("dino", "ibot")
PATCHES = "patches"
BY_PATCH = ("teacher_entropy/ibot", "divergence/ibot")
"""Beginnings of names whose sums are over masked patches."""


class Meter:
    """Means over the steps since the last reading; sums stay on the device, so that a step waits for nothing."""

    def __init__(self, levels: tuple[int, ...], counts: tuple[int, ...], device: torch.device) -> None:
        """`levels` name the heads' levels, `counts` are their prototypes."""
        self._levels, self._counts, self._device = levels, counts, device
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


def effective_rank(features: Tensor) -> float:
    """exp(entropy of the normalized singular values) of centered features (N, D): 1 to D (Roy and Vetterli, 2007)."""
    values = torch.linalg.svdvals((features - features.mean(dim=0)).double())
    return float(torch.special.entr(values / values.sum().clamp(min=1e-30)).sum().exp())


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


class OnlineEvaluation:
    """Measures the teacher's class tokens on fixed samples of train and val."""

    def __init__(self, store: Store, base: Base, device: torch.device, precision: str) -> None:
        self._base, self._device, self._precision = base, device, precision
        self._classes = len(store.manifest["classes"])
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []
        for draw, (split, limit) in enumerate((("train", KNN_TRAIN), ("val", KNN_VAL))):
            images = store.images(split)  # type: ignore[arg-type]
            chosen = permute(np.arange(min(limit, len(images))), len(images), (base.seed, 4, draw))
            labels = images.labels[chosen].astype(np.int64)
            known = labels >= 0 if self._classes > 1 else np.full(len(labels), True)
            self._images.append(load_images(images, base.image_size, chosen[known].tolist()))
            self._labels.append(torch.from_numpy(labels[known]))

    def measure(self, teacher: Network, k: int = 20, temperature: float = 0.07) -> dict[str, float]:
        """Return the effective rank of val's class tokens and, if there are labels, top-1 of k-NN in percent."""
        # Eagerly: other batch sizes in float32 would be compiled anew, and torch stops compiling after eight variants.
        with torch.compiler.set_stance("force_eager"):
            train, val = (
                torch.cat([self._class_tokens(teacher, part) for part in images.split(256)]) for images in self._images
            )
        metrics = {EFFECTIVE_RANK: effective_rank(val)}
        if self._classes > 1 and all(len(labels) for labels in self._labels):
            shares = knn_predict(train, self._labels[0].to(self._device), val, self._classes, k, temperature)
            hits = shares.argmax(dim=1).cpu() == self._labels[1]
            metrics["val/knn_top1"] = 100 * float(hits.float().mean())
        return metrics

    @torch.no_grad()
    def _class_tokens(self, teacher: Network, images: Tensor) -> Tensor:
        pixels = images.to(self._device).float() / 255
        nothing = torch.zeros(0, dtype=torch.int64, device=self._device)
        # In the precision of training: FSDP2 gathers the blocks' weights in it, and torch.compile has compiled for it.
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            return teacher(normalize(pixels, self._base.mean, self._base.std), nothing).classes.float()
