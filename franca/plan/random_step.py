"""A training step on networks and crops that are random: what is timed or checked without prepared images."""

import numpy as np
import torch
from torch import Tensor

from franca.data.views.batch import part_masks
from franca.data.views.masks import batch_masks
from franca.params import Params
from franca.pretrain.microbatch import Part
from franca.pretrain.schedules import Rates
from franca.pretrain.setup import compile_blocks, make_networks
from franca.pretrain.step import TrainStep

RATES = Rates(lr=1e-4, last_layer_lr=1e-4, weight_decay=0.04, teacher_momentum=0.99, teacher_temperature=0.06)


def make_step(params: Params, device: torch.device, precision: str) -> TrainStep:
    """Return a training step on networks with random weights, compiled if `runtime.compile` says so."""
    student, teacher = make_networks(params, device)
    if params.runtime.compile:
        compile_blocks(student, teacher)
    return TrainStep(params, student, teacher, student, device, precision)


def random_part(params: Params, step: int, device: torch.device, images: int | None = None) -> Part:
    """Return random normalized crops with the masks of `step`; the number of masked patches varies.

    Args:
        params: sizes of the crops and the kind of masks.
        step: seed of crops and masks.
        device: where the crops go; they are drawn on the CPU, so they are the same on every device.
        images: number of images, whole KoLeo groups; None for a whole batch.
    """
    base, pretrain = params.base, params.pretrain
    images, grid = images or pretrain.batch_size, base.image_size // base.backbone.patch_size
    rng = np.random.default_rng(step)
    masks = torch.from_numpy(batch_masks(images, pretrain.losses.koleo_images, grid, pretrain.masks, rng))
    generator = torch.Generator().manual_seed(step)

    def noise(count: int, side: int) -> Tensor:
        return torch.randn(count, 3, side, side, generator=generator).to(device)

    return Part(
        noise(2 * images, base.image_size),
        noise(pretrain.crops.local_count * images, pretrain.crops.local_size),
        *(x.to(device) for x in part_masks(masks, 1)[0]),
    )
