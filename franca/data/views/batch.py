"""One step's input: crops with their color changes, or images from which the crops are still to be cut."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from franca.data.views.color import Color, apply_color
from franca.data.views.resample import Plan, cut_batch, cut_flat
from franca.losses.ibot import mask_weights

T = TypeVar("T")


class Views(NamedTuple):
    """Crops of one size with their color changes, crop-major: rows i B … (i + 1) B - 1 are crop i of the B images."""

    pixels: Tensor
    """uint8 (crops B, 3, side, side)"""
    color: Color


class Cuts(NamedTuple):
    """What to cut out of B images to get crops of one size, and their color changes."""

    boxes: Tensor
    """float32 (B, crops, 4): left, upper, right, lower in pixels; mirrored where the ends are exchanged"""
    transposed: Tensor
    """bool (crops B,), crop-major"""
    side: int
    color: Color

    def cut(self, images: Tensor) -> Views:
        """Cut uint8 images (B, H, W, 3)."""
        return Views(cut_batch(images, self.boxes, self.transposed, self.side), self.color)


class FlatCuts(NamedTuple):
    """The same as `Cuts` for images of different sizes."""

    plan: Plan
    transposed: Tensor
    """bool (crops B,), crop-major"""
    side: int
    color: Color

    def cut(self, images: Tensor) -> Views:
        """Cut images whose pixels, uint8 (P, 3), follow one another."""
        return Views(cut_flat(images, self.plan, self.transposed, self.side), self.color)


class PartMasks(NamedTuple):
    """Masked patches of b images that go through the networks together.

    The indices and weights are computed in the loading processes. On a GPU, `nonzero` would make the host wait for the
    device; on the training thread it would give tensors in pageable memory, whose upload blocks the host.
    """

    masks: Tensor
    """bool (2 b, patches of a global crop), crop-major"""
    masked: Tensor
    """int64 (M,): where `masks`, flattened, is true"""
    weights: Tensor
    """float32 (M,): 1 / (masked patches of its crop)"""


def part_masks(masks: Tensor, count: int) -> list[PartMasks]:
    """Split masks of B images, bool (2 B, patches) and crop-major, into those of `count` parts of B / count images."""
    parts = [part.flatten(0, 1) for part in masks.unflatten(0, (2, count, -1)).unbind(1)]
    return [PartMasks(part, part.flatten().nonzero()[:, 0], mask_weights(part)) for part in parts]


class Batch(NamedTuple):
    """Crops of B images."""

    global_views: Views
    local_views: Views
    masks: list[PartMasks]
    """the images' masks, in parts of equally many consecutive images"""

    def cut(self) -> "Batch":
        return self

    def crops(self, device: torch.device) -> tuple[Tensor, Tensor, list[PartMasks]]:
        """Return global crops (2 B, 3, S, S), local crops (n B, 3, s, s) and the masks on `device`.

        Crops are float32 in 0..1 and crop-major. The host does not wait for the device, provided that the batch is in
        pinned memory: each of its tensors is uploaded as it is.
        """
        batch = _moved(self, device)
        return apply_color(*batch.global_views), apply_color(*batch.local_views), batch.masks


class RawBatch(NamedTuple):
    """B images, and what to cut out of them."""

    images: Tensor
    """uint8 (B, H, W, 3) for `Cuts`, (P, 3) for `FlatCuts`"""
    global_cuts: Cuts | FlatCuts
    local_cuts: Cuts | FlatCuts
    masks: list[PartMasks]

    def cut(self) -> Batch:
        """The batch of crops, cut where the images are."""
        return Batch(self.global_cuts.cut(self.images), self.local_cuts.cut(self.images), self.masks)

    def crops(self, device: torch.device) -> tuple[Tensor, Tensor, list[PartMasks]]:
        """Return the same as `Batch.crops`; the crops are cut on the device."""
        return _moved(self, device).cut().crops(device)


def _moved(batch: T, device: torch.device) -> T:
    return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), batch)
