"""Features of all images of a prepared store, computed once per model and shared by all benchmarks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, DenseSet, ImageSet, SplitName, Store
from franca.data.store.transform import resize_and_crop
from franca.evaluation.outcomes import images_digest
from franca.evaluation.result import Skipped
from franca.evaluation.sets.boxes import BoxSet, open_boxes
from franca.evaluation.sets.videos import VideoSet, open_videos
from franca.feature_files import mapped_zeros, take_rows
from franca.models import Features
from franca.probes.view_agreement import two_views

BATCH = 128
MAX_PATCHES = 1 << 15
"""Patches of a split whose features are kept, at most: 128 MiB at 1,024 float32 dimensions."""
MAX_VIEWED = 1000
"""Images of a split of which two views are embedded, at most."""


@dataclass(frozen=True)
class FeatureExtractor:
    """A function from images to features, with what the benchmarks have to know about it.

    Attributes:
        name: Name of the model in `results.json`.
        embed: Maps images (B, 3, H, W) uint8, H and W multiples of `patch_size`, to `Features` on its own device.
        image_size: Side in pixels to which whole images are resized.
        patch_size: Side of a patch in pixels.
        levels: Matryoshka widths of the pooled features; empty if they do not nest.
        native: Maps images (B, 3, H, W) uint8 of any size to pooled features (B, D), in place of those of `embed`;
            None if images have to be resized.
        learned: Whether a network computes the features.
        keys: Maps images like `embed` to the keys of the last block (B, h, w, D); None if there are none.
    """

    name: str
    embed: Callable[[Tensor], Features]
    image_size: int
    patch_size: int
    levels: tuple[int, ...] = ()
    native: Callable[[Tensor], Tensor] | None = None
    learned: bool = False
    keys: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class SplitFeatures:
    """Features of the N images of a split.

    Attributes:
        pooled: (N, D) float32 on the CPU, mapped from a file: it may be larger than memory and than that of a GPU.
        labels: (N,) int64, -1 for an image without label, on the device that benchmarks compute on.
        patches: (P, h, w, D) float32, of P <= N evenly spaced images with at most `MAX_PATCHES` patches in all.
        views: Two (V, D) float32, pooled features of two views of at most `MAX_VIEWED` evenly spaced images; empty for
            train.
    """

    pooled: Tensor
    labels: Tensor
    patches: Tensor
    views: tuple[Tensor, Tensor] = (torch.empty(0, 0), torch.empty(0, 0))

    @cached_property
    def labeled(self) -> tuple[Tensor, Tensor]:
        """Pooled features (n, D) and labels (n,) of the images that have a label."""
        known = self.labels >= 0
        if bool(known.all()):
            return self.pooled, self.labels
        rows = known.nonzero()[:, 0].cpu()
        return take_rows(self.pooled, rows), self.labels[known]


@dataclass(frozen=True)
class FeatureSet:
    """The data of all benchmarks for one model: features of the images, and the dense set.

    Attributes:
        classes: Names of the classes of the images.
        splits: Features by split.
        digest: Digest of the store.
        dense: Images with masks by split; empty if the store has no dense set.
        boxes: Images with boxes by split; empty if the store has none.
        videos: Videos by split; empty if the store has none.
        image_sets: The images by split, for benchmarks that embed changed images.
        control_widths: Numbers of dimensions at which k-NN is measured on other dimensions than the first (see
            `franca.evaluation.benchmarks.knn`).
    """

    classes: list[str]
    splits: Mapping[SplitName, SplitFeatures]
    digest: str = ""
    dense: Mapping[SplitName, DenseSet] = field(default_factory=dict)
    boxes: Mapping[SplitName, BoxSet] = field(default_factory=dict)
    videos: Mapping[SplitName, VideoSet] = field(default_factory=dict)
    image_sets: Mapping[SplitName, ImageSet] = field(default_factory=dict)
    control_widths: tuple[int, ...] = ()

    def scored_splits(self) -> list[SplitName]:
        """Return val and test, without those that have no images."""
        return [split for split in SPLITS[1:] if len(self.splits[split].labels)]

    def labeled_splits(self) -> tuple[list[SplitName], dict[SplitName, str]]:
        """Return the scored splits whose images have labels of several classes, and why the others do not count.

        Raises:
            Skipped: The training images have no labels of several classes.
        """
        if reason := self._unusable_labels("train"):
            raise Skipped(reason)
        reasons = {split: self._unusable_labels(split) for split in self.scored_splits()}
        usable = [split for split, reason in reasons.items() if not reason]
        return usable, {split: reason for split, reason in reasons.items() if reason}

    def labeled(self, split: SplitName) -> tuple[Tensor, Tensor]:
        """Return pooled features (n, D), as in `SplitFeatures`, and labels (n,) of a split's labeled images.

        Raises:
            Skipped: No image has a label, or all have the same.
        """
        if reason := self._unusable_labels(split):
            raise Skipped(reason)
        return self.splits[split].labeled

    def images(self, split: SplitName, rows: NDArray[np.int64] | None = None) -> str:
        """Return the digest of the list of a split's images `rows`, by default of all labeled ones."""
        if rows is None:
            rows = np.flatnonzero(self.splits[split].labels.cpu().numpy() >= 0)
        return images_digest(self.digest, split, rows)

    def _unusable_labels(self, split: SplitName) -> str:
        """Return why the labels of a split cannot be used; empty if they can.

        With a single class every model is right on every image, so the score would not depend on the model.
        """
        labels = self.splits[split].labels
        if not len(labels):
            return f"no {split} images"
        classes = len(labels[labels >= 0].unique())
        if not classes:
            return f"the {split} images have no labels"
        return f"the {split} images have a single class" if classes == 1 else ""


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as a tensor (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def extract_all(extractors: list[FeatureExtractor], store: Store) -> dict[str, FeatureSet]:
    """Return the features of all splits by the name of the extractor; each image is decoded only once.

    The levels of the first extractor, the model that is evaluated, become the `control_widths` of all.
    """
    by_name: dict[str, dict[SplitName, SplitFeatures]] = {extractor.name: {} for extractor in extractors}
    for split in SPLITS:
        found = _extract(extractors, store.images(split), f"features of {split}", with_views=split != "train")
        for name, features in found.items():
            by_name[name][split] = features
    classes = store.images("train").classes
    dense = {split: images for split in SPLITS if (images := store.dense(split)) is not None}
    image_sets = {split: store.images(split) for split in SPLITS}
    widths = extractors[0].levels
    boxes, videos = open_boxes(store), open_videos(store)
    return {
        name: FeatureSet(classes, splits, store.digest, dense, boxes, videos, image_sets, widths)
        for name, splits in by_name.items()
    }


@torch.inference_mode()
def _extract(
    extractors: list[FeatureExtractor], images: ImageSet, title: str, with_views: bool
) -> dict[str, SplitFeatures]:
    pooled: dict[str, Tensor] = {}
    patches: dict[str, list[Tensor]] = {extractor.name: [] for extractor in extractors}
    sides = {extractor.image_size for extractor in extractors}
    kept = {extractor.name: _rows_with_patches(extractor, len(images)) for extractor in extractors}
    viewed = evenly_spaced(len(images), MAX_VIEWED) if with_views else np.zeros(0, np.int64)
    views: dict[str, list[list[Tensor]]] = {extractor.name: [[], []] for extractor in extractors}
    for rows, batch in _batches(images, title):
        squares = {side: torch.stack([to_tensor(resize_and_crop(image, side)) for image in batch]) for side in sides}
        for extractor in extractors:
            features = extractor.embed(squares[extractor.image_size])
            whole = _embed_native(extractor.native, batch) if extractor.native else features.pooled
            if extractor.name not in pooled:
                pooled[extractor.name] = mapped_zeros(len(images), whole.shape[1])
            pooled[extractor.name][rows[0] : rows[-1] + 1] = whole
            patches[extractor.name].append(features.patches[np.isin(rows, kept[extractor.name])])
            if len(chosen := squares[extractor.image_size][np.isin(rows, viewed)]):
                # A copy: the class token is a view that would keep the tokens of all patches in memory.
                for part, view in zip(views[extractor.name], two_views(chosen), strict=True):
                    part.append(extractor.native(view) if extractor.native else extractor.embed(view).pooled.clone())
    labels = torch.from_numpy(images.labels.astype(np.int64))
    if not len(images):
        return {name: SplitFeatures(torch.empty(0, 0), labels, torch.empty(0, 0, 0, 0)) for name in patches}
    found = {}
    for name, whole in pooled.items():
        grids = torch.cat(patches[name])
        first, second = (torch.cat(part) if part else whole[:0] for part in views[name])
        found[name] = SplitFeatures(whole, labels.to(grids.device), grids, (first, second))
    return found


def _embed_native(embed: Callable[[Tensor], Tensor], batch: list[Image.Image]) -> Tensor:
    tensors = [to_tensor(image) for image in batch]
    alike = len({image.size for image in batch}) == 1
    groups = [torch.stack(tensors)] if alike else [tensor[None] for tensor in tensors]
    return torch.cat([embed(group) for group in groups])


def _rows_with_patches(extractor: FeatureExtractor, count: int) -> NDArray[np.int64]:
    per_image = (extractor.image_size // extractor.patch_size) ** 2
    return evenly_spaced(count, max(1, MAX_PATCHES // per_image))


def _batches(images: ImageSet, title: str) -> Iterator[tuple[NDArray[np.int64], list[Image.Image]]]:
    for start in tqdm(range(0, len(images), BATCH), desc=title, unit="batch", disable=None):
        rows = np.arange(start, min(start + BATCH, len(images)))
        yield rows, list(images.fetch(rows.tolist()))


def evenly_spaced(count: int, wanted: int) -> NDArray[np.int64]:
    """Return at most `wanted` of the indices 0 to `count` - 1, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
