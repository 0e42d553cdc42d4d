"""In-context segmentation of the dense set: patches get the classes of similar patches of train, nothing is fitted.

It is also measured on the first D dimensions of the patch features for each Matryoshka level D (`in_context_levels`),
and on controls of the same size (`in_context_random_dims`, `in_context_components`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet, SplitName
from franca.evaluation.dense_scores import correct_pixels, overlaps, pixel_counts, score_masks
from franca.evaluation.dimensions import controls
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.intervals import Measurement
from franca.evaluation.methods.in_context import attend, choose_patches, patch_counts, random_crop
from franca.evaluation.result import Result, Skipped
from franca.evaluation.segmenter import patch_features, upsample
from franca.params import Params

EPOCHS = 2
"""Random crops of each training image that the memory has patches of."""


class Part(NamedTuple):
    """Some of the dimensions of patch features.

    Attributes:
        benchmark: Name in `results.json`.
        width: Number of dimensions.
        take: Maps features (N, D) to these dimensions (N, width).
        memory: (M, width) float32, the memory's features.
    """

    benchmark: str
    width: int
    take: Callable[[Tensor], Tensor]
    memory: Tensor


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure miou and pixel_accuracy of `in_context`; miou_D of its levels and their controls."""
    if not features.dense:
        raise Skipped("the data have no dense set")
    side = params.evaluate.dense_size
    memory, labels = _memory(extractor, features.dense["train"], side, params.evaluate.in_context_memory)
    if not len(memory):
        raise Skipped("the dense set has no train image with a label")
    if int((labels.sum(0) > 0).sum()) < 2:
        raise Skipped("the masks of the dense set's train images have a single class")
    parts = _parts(memory, extractor.levels, params.base.seed)
    found: list[Measurement] = []
    skipped: dict[SplitName, str] = {}
    for split in SPLITS[1:]:
        counts = _counts(extractor, features.dense[split], side, parts, labels)
        for part, of_part in zip(parts, counts, strict=True):
            whole = part.benchmark == "in_context"
            metrics = (
                {"miou": overlaps, "pixel_accuracy": correct_pixels} if whole else {f"miou_{part.width}": overlaps}
            )
            scores, reason = score_masks(part.benchmark, split, metrics, of_part, features, params)
            found += scores
            skipped |= {split: reason} if reason else {}
    return Result(found, skipped)


def _parts(memory: Tensor, levels: tuple[int, ...], seed: int) -> list[Part]:
    """Return all dimensions, the first D for each level D, and the controls of each level."""
    takes: list[tuple[str, int, Callable[[Tensor], Tensor]]] = [("in_context", memory.shape[1], lambda x: x)]
    takes += [("in_context_levels", width, lambda x, width=width: x[:, :width]) for width in levels]  # type: ignore[misc]
    takes += [(f"in_context_{part.kind}", part.width, part.take) for part in controls(memory, levels, seed)]
    return [Part(name, width, take, take(memory)) for name, width, take in takes]


@torch.inference_mode()
def _memory(extractor: FeatureExtractor, images: DenseSet, side: int, size: int) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and shares of the classes (N, K) of at most about `size` patches of random crops."""
    features, labels = [], []
    kept = max(1, size // max(1, len(images) * EPOCHS))
    for index in tqdm(range(len(images)), desc=f"memory of {extractor.name}", unit="image", disable=None):
        image, mask = images[index], images.mask(index)
        for epoch in range(EPOCHS):
            # Not the run's seed: models of different seeds could then not be compared on the same memory.
            crop, truth = random_crop(image, mask, (0, epoch, index))
            patches = patch_features(extractor, crop, side)
            counts = patch_counts(truth, images.ignore, len(images.classes), *patches.shape[:2])
            chosen = choose_patches(counts, kept, (1, epoch, index)).to(patches.device)
            counts = counts.to(patches.device)[chosen]
            features.append(patches.flatten(0, 1)[chosen].float())
            labels.append(counts / counts.sum(dim=1, keepdim=True))
    if not features:
        return torch.empty(0, 0), torch.empty(0, 0)
    return torch.cat(features), torch.cat(labels)


@torch.inference_mode()
def _counts(extractor: FeatureExtractor, images: DenseSet, side: int, parts: list[Part], labels: Tensor) -> Tensor:
    """Return `pixel_counts` of each image, (parts, images, 3, K) float64."""
    classes = len(images.classes)
    found = torch.zeros(len(parts), len(images), 3, classes, dtype=torch.float64)
    for index in tqdm(range(len(images)), desc=f"masks of {extractor.name}", unit="image", disable=None):
        image = images[index]
        patches = patch_features(extractor, image, side)
        truth = torch.from_numpy(images.mask(index).astype(np.int64)).to(patches.device)
        counted = truth != images.ignore
        for number, part in enumerate(parts):
            shares = attend(part.memory, labels, part.take(patches.flatten(0, 1)).float())
            predicted = upsample(shares.unflatten(0, patches.shape[:2]), image)
            found[number, index] = pixel_counts(truth[counted], predicted[counted], classes)
    return found
