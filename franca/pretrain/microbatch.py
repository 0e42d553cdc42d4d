"""A process's share of a batch on its device, split into the parts that go through the networks one by one."""

from typing import NamedTuple

import torch
from torch import Tensor

from franca.data.views.batch import Batch, RawBatch
from franca.params import Params, ResolvedBase


class Part(NamedTuple):
    """Crops of b images, crop-major: rows i b … (i + 1) b - 1 are crop i."""

    global_crops: Tensor
    """(2 b, 3, S, S), normalized"""
    local_crops: Tensor
    """(n b, 3, s, s), normalized"""
    masks: Tensor
    """bool (2 b, patches of a global crop)"""
    masked: Tensor
    """int64 (M,): where `masks`, row by row, is true"""
    mask_weights: Tensor
    """(M,): 1 / (masked patches of its crop)"""


def count_parts(images: int, params: Params) -> int:
    """Return into how many equal parts a process cuts its share of a batch: as few as the memory limit allows.

    Args:
        images: size of the share, a whole multiple of `pretrain.losses.koleo_images`.
        params: a part has at most `runtime.microbatch` images and is a whole multiple of
            `pretrain.losses.koleo_images`.
    """
    groups = images // params.pretrain.losses.koleo_images
    most = (params.runtime.microbatch or images) // params.pretrain.losses.koleo_images
    return next(parts for parts in range(1, groups + 1) if groups % parts == 0 and groups // parts <= most)


class Splitter:
    """Moves batches to a device, normalizes their crops and splits them into parts.

    Make one for a run: the constants of the normalization then stay on the device. Made in every step, they would be
    copied from pageable memory, and the host would wait until the device has done all earlier work.
    """

    def __init__(self, base: ResolvedBase, device: torch.device) -> None:
        self._device = device
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (base.mean, base.std))

    def __call__(self, batch: Batch | RawBatch) -> list[Part]:
        """Return the parts that the batch's masks are split into, on the device; the host does not wait for it."""
        global_crops, local_crops, masks = batch.crops(self._device)
        global_crops, local_crops = self._normalize(global_crops), self._normalize(local_crops)
        images = len(global_crops) // 2
        size = images // len(masks)
        rows = [slice(start, start + size) for start in range(0, images, size)]
        return [
            Part(_images(global_crops, images, own), _images(local_crops, images, own), *part)
            for own, part in zip(rows, masks, strict=True)
        ]

    def _normalize(self, crops: Tensor) -> Tensor:
        # In place, since the crops are of this step alone. Subtract and divide as `models.model.normalize` does: a
        # product with 1 / std would give other last bits than evaluation sees.
        return crops.sub_(self._mean).div_(self._std)


def _images(rows: Tensor, images: int, part: slice) -> Tensor:
    """Return the crops of the images `part`, of crop-major crops of `images` images."""
    return rows.unflatten(0, (-1, images))[:, part].flatten(0, 1) if len(rows) else rows
