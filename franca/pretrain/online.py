"""Evaluation while a model trains, beside what it has to leave behind: its random twin and raw pixels."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from franca.data.store.prepared import ImageSet, Store
from franca.data.store.transform import load_images
from franca.data.views.shuffle import permute
from franca.models.backbone import Backbone
from franca.models.model import normalize
from franca.params import ResolvedParams
from franca.pretrain.network import Network
from franca.probes.effective_rank import rankme
from franca.probes.knn import knn_predict
from franca.probes.pixels import pixel_features, standardize
from franca.probes.view_agreement import found, two_views

KNN_TRAIN, KNN_VAL = 2000, 1000
"""Images of train and val, at most."""
K, TEMPERATURE = 20, 0.07
KNN = "val/knn_top1"
EFFECTIVE_RANK = "val/effective_rank"
AGREEMENT = "val/view_agreement"
RANDOM, PIXELS = "_random", "_pixels"
"""Endings of the baselines' metrics."""
SHARE_BEFORE_WARNING = 0.1
_BATCH = 256

Embed = Callable[[Tensor], Tensor]
"""Maps uint8 images (B, 3, S, S) to features (B, D)."""


class Sample(NamedTuple):
    """uint8 images (N, 3, S, S) and labels int64 (N,), -1 where an image has none."""

    images: Tensor
    labels: Tensor

    def known(self) -> Tensor:
        """Return the labels of the images that have one."""
        return self.labels[self.labels >= 0]


class OnlineEvaluation:
    """Measures the teacher's class tokens on fixed samples of train and val.

    With labels by k-NN; without labels by the agreement of two views of an image. `baselines` has the same of the
    random twin and of raw pixels, measured once.
    """

    def __init__(self, store: Store, params: ResolvedParams, device: torch.device, precision: str) -> None:
        self._base, self._device, self._precision = params.base, device, precision
        self._classes = len(store.manifest["classes"])
        self._train, self._val = (
            self._sample(store.images(split), draw, limit)  # type: ignore[arg-type]
            for draw, (split, limit) in enumerate((("train", KNN_TRAIN), ("val", KNN_VAL)))
        )
        # With a single class every model is right on every image.
        self.labeled = all(len(sample.known().unique()) > 1 for sample in (self._train, self._val))
        self._channels = store.channels

    def measure(self, teacher: Network) -> dict[str, float]:
        """Return the effective rank of val's class tokens, and k-NN's top-1 or the views' agreement in percent."""
        nothing = torch.zeros(0, dtype=torch.int64, device=self._device)
        # Eagerly: other batch sizes in float32 would be compiled anew, and torch stops compiling after eight variants.
        with torch.compiler.set_stance("force_eager"):
            return self._measure(lambda pixels: teacher(pixels, nothing).classes.float())

    def baselines(self) -> dict[str, float]:
        """Return the same metrics of the random twin and of raw pixels, by the same protocol.

        The twin has the weights that `evaluate` draws for it. Each is measured once and then left to be freed.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._base.seed)
            twin = Backbone(self._base.backbone, self._base.image_size)
        twin = twin.requires_grad_(False).eval().to(self._device)

        def classes(pixels: Tensor) -> Tensor:
            # As in Network.forward, so that a teacher that has not moved has the same features to the last bit.
            tokens = twin.num_prefix_tokens + twin.patches(pixels)
            return twin([pixels], None, [tokens * torch.arange(len(pixels), device=pixels.device)])[0].float()

        twins = {f"{name}{RANDOM}": value for name, value in self._measure(classes).items()}
        pixels = self._scores(lambda images: pixel_features(standardize(images.to(self._device), *self._channels)))
        return twins | {f"{name}{PIXELS}": value for name, value in pixels.items()}

    @torch.no_grad()
    def _measure(self, network: Callable[[Tensor], Tensor]) -> dict[str, float]:
        def embed(images: Tensor) -> Tensor:
            pixels = normalize(images.to(self._device).float() / 255, self._base.mean, self._base.std)
            # In the precision of training: FSDP2 gathers the blocks' weights in it, and torch.compile compiled for it.
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
                return network(pixels)

        return {EFFECTIVE_RANK: rankme(_embedded(embed, self._val.images))} | self._scores(embed)

    def _scores(self, embed: Embed) -> dict[str, float]:
        if self.labeled:
            samples = (self._train, self._val)
            train, val = (_embedded(embed, sample.images[sample.labels >= 0]) for sample in samples)
            shares = knn_predict(train, self._train.known().to(train.device), val, self._classes, K, TEMPERATURE)
            hits = shares.argmax(dim=1).cpu() == self._val.known()
            return {KNN: 100 * float(hits.float().mean())}
        if len(self._val.images) < 4:
            return {}
        first, second = (_embedded(embed, view) for view in two_views(self._val.images))
        return {AGREEMENT: 100 * float(found(first, second).float().mean())}

    def _sample(self, images: ImageSet, draw: int, limit: int) -> Sample:
        chosen = permute(np.arange(min(limit, len(images))), len(images), (self._base.seed, 4, draw))
        labels = images.labels[chosen].astype(np.int64)
        return Sample(load_images(images, self._base.image_size, chosen.tolist()), torch.from_numpy(labels))


def behind(metrics: dict[str, float], step: int, total: int) -> str | None:
    """Return a sentence if the model has not left its baselines after a tenth of its steps, else None.

    With labels k-NN must be better than that of the random twin and of raw pixels; without labels two views of an
    image must agree more. The effective rank is no criterion: training may first lower it while k-NN gets better.
    """
    if step < SHARE_BEFORE_WARNING * total:
        return None
    names = {KNN: "k-NN on val", AGREEMENT: "agreement of two views"}
    worse = []
    for key in (KNN,) if KNN in metrics else (AGREEMENT,):
        for ending, whose in ((RANDOM, "random weights"), (PIXELS, "raw pixels")):
            if key in metrics and metrics[key] <= metrics.get(key + ending, -1.0):
                worse.append(f"{names[key]} {metrics[key]:.1f}, {whose} {metrics[key + ending]:.1f}")
    if not worse:
        return None
    return f"at step {step} of {total} the model is no better than its baselines ({'; '.join(worse)})"


def _embedded(embed: Embed, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([embed(part) for part in images.split(_BATCH)])
