"""A process's share of a batch on its device, cut into the parts that go through the networks one by one."""

from typing import NamedTuple

import torch
from torch import Tensor

from franca.data.batch import Batch, RawBatch
from franca.losses.ibot import mask_weights
from franca.models.model import normalize
from franca.params import Base, Params


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


def cut(batch: Batch | RawBatch, count: int, base: Base, device: torch.device) -> list[Part]:
    """`count` parts of equally many images."""
    images = len(batch.masks) // 2
    global_crops, local_crops, masks = batch.crops(device)
    parts = []
    for start in range(0, images, images // count):
        rows = slice(start, start + images // count)
        # Where patches are masked is found on the host: on a GPU the step would have to wait for the answer.
        chosen = batch.masks.unflatten(0, (2, images))[:, rows].flatten(0, 1)
        parts.append(
            Part(
                normalize(_images(global_crops, images, rows), base.mean, base.std),
                normalize(_images(local_crops, images, rows), base.mean, base.std),
                _images(masks, images, rows),
                chosen.flatten().nonzero()[:, 0].to(device, non_blocking=True),
                mask_weights(chosen).to(device, non_blocking=True),
            )
        )
    return parts


def _images(rows: Tensor, images: int, part: slice) -> Tensor:
    """The crops of some of the images, still crop-major."""
    return rows.unflatten(0, (-1, images))[:, part].flatten(0, 1) if len(rows) else rows
