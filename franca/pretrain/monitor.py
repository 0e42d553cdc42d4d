"""What a person watches while a model trains: losses, signs of collapse for each level, online k-NN, throughput."""

from typing import Any

import torch
from torch import Tensor

from franca.data.store import Store
from franca.data.transform import load_images
from franca.evaluation.knn import knn_predict
from franca.models.model import normalize
from franca.params import Base
from franca.pretrain.network import Network
from franca.pretrain.objective import Targets, Terms

KNN_TRAIN, KNN_VAL = 2000, 1000
COLLAPSED_SHARE = 0.1


class LossMeter:
    """Means over the steps since the last reading; sums stay on the device, so that a step waits for nothing."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        self._levels = levels
        self._steps = 0
        self._sums: dict[str, Tensor] = {}
        self._used: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def update(self, loss: Tensor, terms: Terms, targets: Targets, norms: dict[str, Tensor]) -> None:
        self._steps += 1
        values = {"loss": loss, "koleo": terms.koleo}
        values |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
        for name, assignments, losses in (
            ("dino", targets.dino, terms.dino_local + terms.dino_global),
            ("ibot", targets.ibot, terms.ibot),
        ):
            values[name] = losses.sum()
            used = self._used.setdefault(name, [a.new_zeros(a.shape[1], dtype=torch.bool) for a in assignments])
            for level, share, part, seen in zip(self._levels, assignments, losses, used, strict=True):
                values[f"{name}/level{level}"] = part
                # No patch may be masked in the whole batch: the mean over samples is then 0, not 0 / 0.
                entropy = torch.special.entr(share).sum(dim=1).sum() / max(len(share), 1)
                values[f"teacher_entropy/{name}/level{level}"] = entropy
                seen[share.argmax(dim=1)] = True
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value.detach())) + value.detach()

    def read(self) -> dict[str, float]:
        """Means and shares of prototypes (0..1) that were some sample's first choice; then start anew."""
        metrics = {f"train/{name}": float(total) / self._steps for name, total in self._sums.items()}
        for name, used in self._used.items():
            for level, seen in zip(self._levels, used, strict=True):
                metrics[f"train/prototypes_used/{name}/level{level}"] = float(seen.float().mean())
        self.load_state_dict({"steps": 0, "sums": {}, "used": {}})
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "sums": self._sums, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps, self._sums, self._used = state["steps"], state["sums"], state["used"]


def collapse_warning(metrics: dict[str, float]) -> str | None:
    """A plain sentence where the finest prototypes in use have become very few."""
    worst = {key: value for key, value in metrics.items() if "prototypes_used" in key and value < COLLAPSED_SHARE}
    if not worst:
        return None
    key, value = min(worst.items(), key=lambda item: item[1])
    return (
        f"signs of collapse: {key} is {100 * value:.1f} % (try more batch, fewer prototypes or a higher temperature)"
    )


class OnlineKnn:
    """Top-1 of the teacher's class tokens by weighted k-NN on fixed samples of train and val, in percent."""

    def __init__(self, store: Store, base: Base, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(base.seed)
        self._base, self._device = base, device
        self._classes = len(store.manifest["classes"])
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []
        for split, limit in (("train", KNN_TRAIN), ("val", KNN_VAL)):
            images = store.images(split)  # type: ignore[arg-type]
            labels = torch.as_tensor(images.labels)
            chosen = torch.randperm(len(images), generator=generator)[:limit]
            chosen = chosen[labels[chosen] >= 0]
            self._images.append(load_images(images, base.image_size, chosen.tolist()))
            self._labels.append(labels[chosen])

    @property
    def possible(self) -> bool:
        return self._classes > 1 and all(len(labels) for labels in self._labels)

    @torch.inference_mode()
    def top1(self, teacher: Network, k: int = 20, temperature: float = 0.07) -> float:
        train, val = (
            torch.cat([self._class_tokens(teacher, part) for part in images.split(256)]) for images in self._images
        )
        shares = knn_predict(train, self._labels[0].to(self._device), val, self._classes, k, temperature)
        return 100 * float((shares.argmax(dim=1).cpu() == self._labels[1]).float().mean())

    def _class_tokens(self, teacher: Network, images: Tensor) -> Tensor:
        pixels = images.to(self._device).float() / 255
        return teacher.tokens(normalize(pixels, self._base.mean, self._base.std))[0].float()
