"""A process's share of a batch on its device, split into microbatches that go through the networks one by one."""

from typing import NamedTuple

import torch
from torch import Tensor

from franca.data.views.batch import Batch, RawBatch
from franca.params import Params, ResolvedBase


class Microbatch(NamedTuple):
    """Crops of b images, crop-major: rows i b … (i + 1) b - 1 are crop i."""

    global_crops: Tensor
    """(2 b, 3, S, S) float32, normalized"""
    local_crops: Tensor
    """(n b, 3, s, s) float32, normalized"""
    masks: Tensor
    """(2 b, patches of a global crop) bool"""
    masked: Tensor
    """(M,) int64: indices of the true elements of `masks`, flattened"""
    mask_weights: Tensor
    """(M,) float32: 1 / (masked patches of the crop)"""


def count_microbatches(images: int, params: Params) -> int:
    """Return the smallest number of equal microbatches that respects `runtime.microbatch`.

    Args:
        images: Number of images of this process's share of a batch, a multiple of `pretrain.losses.koleo_images`.
        params: A microbatch has at most `runtime.microbatch` images and is a multiple of
            `pretrain.losses.koleo_images`.
    """
    groups = images // params.pretrain.losses.koleo_images
    most = (params.runtime.microbatch or images) // params.pretrain.losses.koleo_images
    return next(count for count in range(1, groups + 1) if groups % count == 0 and groups // count <= most)


class MicrobatchSplitter:
    """Moves batches to a device, normalizes their crops and splits them into microbatches.

    Create one per run: the constants of the normalization then stay on the device. If they were created in every step,
    they would be copied from pageable memory, and the host would wait until the device has done all earlier work.
    """

    def __init__(self, base: ResolvedBase, device: torch.device) -> None:
        self._device = device
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (base.mean, base.std))

    def __call__(self, batch: Batch | RawBatch) -> list[Microbatch]:
        """Return the microbatches that the batch's masks are split into, on the device; the host does not wait."""
        global_crops, local_crops, masks = batch.crops(self._device)
        global_crops, local_crops = self._normalize(global_crops), self._normalize(local_crops)
        images = len(global_crops) // 2
        size = images // len(masks)
        rows = [slice(start, start + size) for start in range(0, images, size)]
        return [
            Microbatch(_images(global_crops, images, own), _images(local_crops, images, own), *own_masks)
            for own, own_masks in zip(rows, masks, strict=True)
        ]

    def _normalize(self, crops: Tensor) -> Tensor:
        # In place, since no later step uses these crops. Subtract and divide as `models.model.normalize` does: a
        # product with 1 / std would have other last bits than the input of the evaluation.
        return crops.sub_(self._mean).div_(self._std)


def _images(crops: Tensor, images: int, selected: slice) -> Tensor:
    """Return the crops of the images `selected` from crop-major crops of `images` images."""
    return crops.unflatten(0, (-1, images))[:, selected].flatten(0, 1) if len(crops) else crops
