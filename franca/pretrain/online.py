"""Evaluation during training, compared with two baselines: the same network with random weights, and raw pixels."""

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
from franca.probes.pixels import pixel_features
from franca.probes.view_agreement import found, two_views

KNN_TRAIN, KNN_VAL = 2000, 1000
"""Largest number of images of train and of val."""
K, TEMPERATURE = 20, 0.07
"""Neighbors and temperature of k-NN, as in DINO (arXiv 2104.14294)."""
KNN = "val/knn_top1"
EFFECTIVE_RANK = "val/effective_rank"
AGREEMENT = "val/view_agreement"
RANDOM, PIXELS = "_random", "_pixels"
"""Suffixes of the baselines' metrics."""
SHARE_BEFORE_WARNING = 0.1
"""Share of the run, 0 to 1, before which a model may be no better than its baselines."""
_BATCH = 256

Embed = Callable[[Tensor], Tensor]
"""Function that maps images (B, 3, S, S) uint8 to features (B, D)."""


class Sample(NamedTuple):
    """Images (N, 3, S, S) uint8 with labels (N,) int64, -1 for images without a label."""

    images: Tensor
    labels: Tensor

    def known(self) -> Tensor:
        """Return the labels of the images that have one."""
        return self.labels[self.labels >= 0]


class OnlineEvaluation:
    """Evaluates the teacher's class tokens on fixed samples of train and val.

    With labels it measures k-NN accuracy, without labels the agreement of two views of an image.
    """

    def __init__(self, store: Store, params: ResolvedParams, device: torch.device, precision: str) -> None:
        """Load the samples.

        Args:
            store: The prepared images.
            params: All parameters.
            device: The device of the networks.
            precision: "bf16" or "fp32", the precision of training.
        """
        self._base, self._device, self._precision = params.base, device, precision
        self._classes = len(store.manifest["classes"])
        self._train, self._val = (
            self._sample(store.images(split), draw, limit)  # type: ignore[arg-type]
            for draw, (split, limit) in enumerate((("train", KNN_TRAIN), ("val", KNN_VAL)))
        )
        # With a single class, every model is right for every image.
        self.labeled = all(len(sample.known().unique()) > 1 for sample in (self._train, self._val))
        self._channels = store.channels

    def measure(self, teacher: Network) -> dict[str, float]:
        """Return the effective rank of val's class tokens, and k-NN top-1 or the agreement of views in percent."""
        nothing = torch.zeros(0, dtype=torch.int64, device=self._device)
        # Eagerly: other batch sizes would be compiled again, and beyond its limit of variants torch runs training
        # eagerly as well.
        with torch.compiler.set_stance("force_eager"):
            return self._measure(lambda pixels: teacher(pixels, nothing).classes.float())

    def baselines(self) -> dict[str, float]:
        """Return the same metrics for a backbone with random weights and for raw pixels, by the same protocol.

        The random weights are those of the evaluate stage. Neither baseline is kept in memory afterwards.
        """
        # A fork: the draws of training must not depend on whether a process measures baselines.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._base.seed)
            twin = Backbone(self._base.backbone, self._base.image_size)
        twin = twin.requires_grad_(False).eval().to(self._device)

        def classes(pixels: Tensor) -> Tensor:
            # As in Network.forward, so that an untrained teacher has the same features to the last bit.
            tokens = twin.num_prefix_tokens + twin.patches(pixels)
            return twin([pixels], None, [tokens * torch.arange(len(pixels), device=pixels.device)])[0].float()

        twins = {f"{name}{RANDOM}": value for name, value in self._measure(classes).items()}
        mean, std = self._channels
        pixels = self._scores(
            lambda images: pixel_features(normalize(images.to(self._device).float() / 255, mean, std))
        )
        return twins | {f"{name}{PIXELS}": value for name, value in pixels.items()}

    @torch.no_grad()
    def _measure(self, network: Callable[[Tensor], Tensor]) -> dict[str, float]:
        def embed(images: Tensor) -> Tensor:
            pixels = normalize(images.to(self._device).float() / 255, self._base.mean, self._base.std)
            # In the precision of training: FSDP2 gathers the blocks' weights in it, and blocks were compiled for it.
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
    """Return a sentence if the model is no better than its baselines after a tenth of its steps, else None.

    With labels k-NN accuracy is compared, without labels the agreement of two views. The effective rank is not used:
    early in training it may fall while k-NN improves.

    Args:
        metrics: Metrics of the teacher and of both baselines.
        step: Number of steps done.
        total: Number of steps of the run.
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
