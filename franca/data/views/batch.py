"""The input of one training step: crops and their color changes, or images and the crops to make of them."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from franca.data.views.batched_crop import CropPlan, crop_batch, crop_flat
from franca.data.views.color import Color, apply_color
from franca.losses.ibot import mask_weights

T = TypeVar("T")


class Views(NamedTuple):
    """Crops of one size and their color changes, crop-major: rows i B to (i + 1) B - 1 are crop i of the B images."""

    pixels: Tensor
    """uint8 (crops B, 3, side, side)"""
    color: Color


class CropSpecs(NamedTuple):
    """Crops of one size to make of B images that all have the same size, and their color changes."""

    boxes: Tensor
    """float32 (B, crops, 4): left, upper, right, lower in pixels; exchanged edges mirror the crop"""
    transposed: Tensor
    """bool (crops B,), crop-major"""
    side: int
    color: Color

    def crop(self, images: Tensor) -> Views:
        """Make the crops of `images`, uint8 (B, H, W, 3)."""
        return Views(crop_batch(images, self.boxes, self.transposed, self.side), self.color)


class FlatCropSpecs(NamedTuple):
    """The same for images of different sizes."""

    plan: CropPlan
    transposed: Tensor
    """bool (crops B,), crop-major"""
    side: int
    color: Color

    def crop(self, images: Tensor) -> Views:
        """Make the crops of images whose pixels are concatenated in `images`, uint8 (P, 3)."""
        return Views(crop_flat(images, self.plan, self.transposed, self.side), self.color)


class PartMasks(NamedTuple):
    """Masked patches of the b images of a microbatch.

    Indices and weights are computed in the loading processes. On a GPU, `nonzero` would make the host wait for the
    device. In the training thread, it would create tensors in pageable memory, of which the upload blocks the host.
    """

    masks: Tensor
    """bool (2 b, patches of a global crop), crop-major"""
    masked: Tensor
    """int64 (M,): indices of the masked patches in the flattened `masks`"""
    weights: Tensor
    """float32 (M,): 1 / (masked patches of its crop)"""


def part_masks(masks: Tensor, count: int) -> list[PartMasks]:
    """Split masks of B images, bool (2 B, patches), crop-major, into `count` parts of B / count images each."""
    parts = [part.flatten(0, 1) for part in masks.unflatten(0, (2, count, -1)).unbind(1)]
    return [PartMasks(part, part.flatten().nonzero()[:, 0], mask_weights(part)) for part in parts]


class Batch(NamedTuple):
    """Crops of B images."""

    global_views: Views
    local_views: Views
    masks: list[PartMasks]
    """masks of the images, in equal parts of consecutive images"""

    def make_crops(self) -> "Batch":
        """Return the batch itself, which consists of crops already."""
        return self

    def crops(self, device: torch.device) -> tuple[Tensor, Tensor, list[PartMasks]]:
        """Return global crops (2 B, 3, S, S), local crops (n B, 3, s, s) and the masks on `device`.

        Crops are float32 in 0..1, crop-major. If the batch is in pinned memory, the host does not wait for the device:
        every tensor is uploaded unchanged.
        """
        batch = _to_device(self, device)
        return apply_color(*batch.global_views), apply_color(*batch.local_views), batch.masks


class RawBatch(NamedTuple):
    """B images, and the crops to make of them."""

    images: Tensor
    """uint8 (B, H, W, 3) for `CropSpecs`, (P, 3) for `FlatCropSpecs`"""
    global_specs: CropSpecs | FlatCropSpecs
    local_specs: CropSpecs | FlatCropSpecs
    masks: list[PartMasks]

    def make_crops(self) -> Batch:
        """Make the crops on the device of the images."""
        return Batch(self.global_specs.crop(self.images), self.local_specs.crop(self.images), self.masks)

    def crops(self, device: torch.device) -> tuple[Tensor, Tensor, list[PartMasks]]:
        """Return the same as `Batch.crops`; the crops are made on `device`."""
        return _to_device(self, device).make_crops().crops(device)


def _to_device(batch: T, device: torch.device) -> T:
    """Return the batch with all of its tensors on `device`."""
    return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), batch)
