"""One step's input: crops with their color changes, or small images from which the crops are still to be cut."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from franca.data.color import Color, apply_color
from franca.data.resample import cut_batch

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
        return Views(cut_batch(images, self.boxes, self.transposed, self.side), self.color)


class Batch(NamedTuple):
    """Crops of B images."""

    global_views: Views
    local_views: Views
    masks: Tensor
    """bool (2 B, patches of a global crop)"""

    def cut(self) -> "Batch":
        return self

    def crops(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Global crops (2 B, 3, S, S) and local crops (n B, 3, s, s), float32 in 0..1, and masks, on the device.

        Crop-major. Nothing waits for the device: what decides on the host never leaves it.
        """
        batch = _moved(self, device)
        return apply_color(*batch.global_views), apply_color(*batch.local_views), batch.masks


class RawBatch(NamedTuple):
    """B images of one size, and what to cut out of them."""

    images: Tensor
    """uint8 (B, H, W, 3)"""
    global_cuts: Cuts
    local_cuts: Cuts
    masks: Tensor

    def cut(self) -> Batch:
        """The batch of crops, cut where the images are."""
        return Batch(self.global_cuts.cut(self.images), self.local_cuts.cut(self.images), self.masks)

    def crops(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """As `Batch.crops`; the crops are cut on the device."""
        return _moved(self, device).cut().crops(device)


def _moved(batch: T, device: torch.device) -> T:
    return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), batch)
