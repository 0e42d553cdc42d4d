"""What every benchmark stands on: a backbone is one function from images to features; a dataset holds its features."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from franca.data.store.prepared import SPLITS, ImageSet, SplitName, Store
from franca.data.store.transform import resize_and_crop
from franca.evaluation.outcomes import images_digest
from franca.models import Features
from franca.probes.view_agreement import two_views

BATCH = 128
KEPT_TOKENS = 1 << 15
VIEWS = 1000
"""Images of a split of which two views are taken, at most."""


class Skipped(Exception):
    """The data do not allow a benchmark; the message is the reason."""


@dataclass(frozen=True)
class Backbone:
    """`embed` maps uint8 images (B, 3, H, W), H and W multiples of `patch_size`, to `Features` on its own device.

    `image_size` is the side to which whole images are brought. `levels` are the Matryoshka widths of the pooled
    features, if they nest. `native`, where given, maps uint8 images of any size to the pooled features instead.
    `learned` says that a network computes the features.
    """

    name: str
    embed: Callable[[Tensor], Features]
    image_size: int
    patch_size: int
    levels: tuple[int, ...] = ()
    native: Callable[[Tensor], Tensor] | None = None
    learned: bool = False


class LeftOut(NamedTuple):
    """A split on which a benchmark is not run, and why."""

    split: SplitName
    reason: str


class Part(NamedTuple):
    """Features of a split: `pooled` (N, D), `labels` int64 (N,) with -1 for none, `patches` (P, h, w, D).

    The patches are those of P <= N evenly spaced images, `KEPT_TOKENS` in all at most. `views` are the pooled features
    (V, D) of two views of `VIEWS` evenly spaced images of val or test, at most.
    """

    pooled: Tensor
    labels: Tensor
    patches: Tensor
    views: tuple[Tensor, Tensor] = (torch.empty(0, 0), torch.empty(0, 0))

    def labeled(self) -> tuple[Tensor, Tensor]:
        """Features and labels of the images that have one."""
        known = self.labels >= 0
        return self.pooled[known], self.labels[known]


class Dataset(NamedTuple):
    """Features of all images by one backbone; `digest` is the store's."""

    classes: list[str]
    parts: dict[SplitName, Part]
    digest: str = ""

    def splits(self) -> list[SplitName]:
        """Return those of val and test that have images."""
        return [split for split in SPLITS[1:] if len(self.parts[split].labels)]

    def labeled_splits(self) -> list[SplitName | LeftOut]:
        """Return those of val and test whose images have labels of several classes, and why others have not.

        Raises:
            Skipped: the training images have not.
        """
        if reason := self._unscored("train"):
            raise Skipped(reason)
        found: list[SplitName | LeftOut] = []
        for split in self.splits():
            reason = self._unscored(split)
            found.append(LeftOut(split, reason) if reason else split)
        return found

    def labeled(self, split: SplitName) -> tuple[Tensor, Tensor]:
        """Return features and labels of a split's labeled images.

        Raises:
            Skipped: there are none, or all have the same class.
        """
        if reason := self._unscored(split):
            raise Skipped(reason)
        return self.parts[split].labeled()

    def images(self, split: SplitName, rows: NDArray[np.int64] | None = None) -> str:
        """Return the digest of the list of a split's labeled images, or of its images `rows`."""
        if rows is None:
            rows = np.flatnonzero(self.parts[split].labels.cpu().numpy() >= 0)
        return images_digest(self.digest, split, rows)

    def _unscored(self, split: SplitName) -> str:
        """Why labels of a split cannot be used; empty if they can.

        With a single class every model is right on every image, so a score would say nothing of the model.
        """
        labels = self.parts[split].labels
        if not len(labels):
            return f"no {split} images"
        classes = len(labels[labels >= 0].unique())
        if not classes:
            return f"the {split} images have no labels"
        return f"the {split} images have a single class" if classes == 1 else ""


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, H, W) of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def extract_all(backbones: list[Backbone], store: Store) -> dict[str, Dataset]:
    """Features of all splits by each backbone, every image decoded once."""
    parts: dict[str, dict[SplitName, Part]] = {backbone.name: {} for backbone in backbones}
    for split in SPLITS:
        found = _extract(backbones, store.images(split), f"features of {split}", with_views=split != "train")
        for name, part in found.items():
            parts[name][split] = part
    classes = store.images("train").classes
    return {name: Dataset(classes, by_split, store.digest) for name, by_split in parts.items()}


@torch.inference_mode()
def _extract(backbones: list[Backbone], images: ImageSet, title: str, with_views: bool) -> dict[str, Part]:
    pooled: dict[str, list[Tensor]] = {backbone.name: [] for backbone in backbones}
    patches: dict[str, list[Tensor]] = {backbone.name: [] for backbone in backbones}
    sides = {backbone.image_size for backbone in backbones}
    kept = {backbone.name: _rows_with_patches(backbone, len(images)) for backbone in backbones}
    viewed = evenly_spaced(len(images), VIEWS) if with_views else np.zeros(0, np.int64)
    views: dict[str, list[list[Tensor]]] = {backbone.name: [[], []] for backbone in backbones}
    for rows, batch in _batches(images, title):
        squares = {side: torch.stack([to_tensor(resize_and_crop(image, side)) for image in batch]) for side in sides}
        for backbone in backbones:
            features = backbone.embed(squares[backbone.image_size])
            whole = _embed_native(backbone.native, batch) if backbone.native else features.pooled.clone()
            pooled[backbone.name].append(whole)
            patches[backbone.name].append(features.patches[np.isin(rows, kept[backbone.name])])
            if len(chosen := squares[backbone.image_size][np.isin(rows, viewed)]):
                for part, view in zip(views[backbone.name], two_views(chosen), strict=True):
                    part.append(backbone.native(view) if backbone.native else backbone.embed(view).pooled.clone())
    labels = torch.from_numpy(images.labels.astype(np.int64))
    if not len(images):
        return {name: Part(torch.empty(0, 0), labels, torch.empty(0, 0, 0, 0)) for name in pooled}
    parts = {}
    for name, whole in ((name, torch.cat(batches)) for name, batches in pooled.items()):
        first, second = (torch.cat(part) if part else whole[:0] for part in views[name])
        parts[name] = Part(whole, labels.to(whole.device), torch.cat(patches[name]), (first, second))
    return parts


def _embed_native(embed: Callable[[Tensor], Tensor], batch: list[Image.Image]) -> Tensor:
    tensors = [to_tensor(image) for image in batch]
    alike = len({image.size for image in batch}) == 1
    groups = [torch.stack(tensors)] if alike else [tensor[None] for tensor in tensors]
    return torch.cat([embed(group) for group in groups])


def _rows_with_patches(backbone: Backbone, count: int) -> NDArray[np.int64]:
    tokens = (backbone.image_size // backbone.patch_size) ** 2
    return evenly_spaced(count, max(1, KEPT_TOKENS // tokens))


def _batches(images: ImageSet, title: str) -> Iterator[tuple[NDArray[np.int64], list[Image.Image]]]:
    for start in tqdm(range(0, len(images), BATCH), desc=title, unit="batch", disable=None):
        rows = np.arange(start, min(start + BATCH, len(images)))
        yield rows, list(images.fetch(rows.tolist()))


def evenly_spaced(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` of the indices 0 to `count` - 1, spread over all of them."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
