"""Networks and random batches that the checks run on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from franca import presets
from franca.data.batch import part_masks
from franca.data.masks import batch_masks
from franca.models import backbone
from franca.models.stochastic_depth import Kept, draw_kept
from franca.params import Params
from franca.pretrain.parallel import Ranks
from franca.pretrain.parts import Part
from franca.pretrain.schedules import Rates
from franca.pretrain.setup import compile_blocks, make_networks
from franca.pretrain.step import TrainStep

RATES = Rates(lr=1e-4, last_layer_lr=1e-4, weight_decay=0.04, teacher_momentum=0.99, teacher_temperature=0.06)


def make_params(preset: str, changes: dict[str, Any]) -> Params:
    """Return a preset's parameters with some of them changed, by dotted path."""
    values = presets.values(preset)
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[key] = value
    return Params.model_validate(values)


def tiny_params(changes: dict[str, Any] | None = None) -> Params:
    """Return a small ViT with the structure of the paper's presets: SwiGLU, stochastic depth, five levels.

    LayerScale starts at 1: from the presets' 1e-5 an error in a block would not show in the loss.
    """
    small = {
        "base.image_size": 56,
        "base.backbone.embed_dim": 128,
        "base.backbone.depth": 4,
        "base.backbone.num_heads": 2,
        "base.backbone.layer_scale": 1.0,
        "pretrain.crops.local_count": 4,
        "pretrain.crops.local_size": 28,
        "pretrain.heads.prototypes": 1024,
        "pretrain.heads.hidden_dim": 256,
        "pretrain.heads.bottleneck_dim": 64,
        "pretrain.batch_size": 16,
        "pretrain.losses.koleo_images": 8,
        "pretrain.drop_path": 0.4,
        "evaluate.dense_size": 56,
        "runtime.processes": 1,
        "runtime.parallel": "ddp",
        "runtime.compile": False,
        "runtime.threads": 2,
        "runtime.workers": 1,
    }
    return make_params("vitl14-in21k", small | (changes or {}))


def random_part(params: Params, step: int, device: torch.device) -> Part:
    """Return random normalized crops of one batch with the masks of `step`; the number of masked patches varies."""
    base, pretrain = params.base, params.pretrain
    images, grid = pretrain.batch_size, base.image_size // base.backbone.patch_size
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


def make_step(params: Params, device: torch.device, precision: str) -> TrainStep:
    """Return a training step on networks with random weights, compiled if `runtime.compile` says so."""
    student, teacher = make_networks(params, device)
    if params.runtime.compile:
        compile_blocks(student, teacher)
    return TrainStep(params, student, teacher, student, device, precision)


def mean_loss(step: TrainStep) -> float:
    """Return the mean loss since the last call; waits for the device."""
    return step.meter.read(Ranks())["train/loss"]


def relative(value: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of `expected`, in float64 on the CPU."""
    value, expected = value.detach().double().cpu(), expected.detach().double().cpu()
    return float((value - expected).norm() / expected.norm().clamp(min=1e-30))


@contextmanager
def draws_on_cpu() -> Iterator[None]:
    """Draw stochastic depth on the CPU, so that a seed keeps the same samples on every device."""

    def draw(branches: int, batch: int, rate: float, device: torch.device) -> list[Kept]:
        kept = draw_kept(branches, batch, rate, torch.device("cpu"))
        return [Kept(samples.to(device), place.to(device)) for samples, place in kept]

    with mock.patch.object(backbone, "draw_kept", draw):
        yield
