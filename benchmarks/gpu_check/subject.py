"""Parameters of the checks, and functions to read and compare the results of a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from franca import presets
from franca.models import backbone
from franca.models.stochastic_depth import Kept, draw_kept
from franca.params import Params, ResolvedParams, resolve
from franca.pretrain.parallel import Ranks
from franca.pretrain.step import TrainStep


def make_params(preset: str, changes: dict[str, Any]) -> ResolvedParams:
    """Return the parameters of a preset with some changes, given by dotted path."""
    values = presets.values(preset)
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[key] = value
    return resolve(Params.model_validate(values))


def tiny_params(changes: dict[str, Any] | None = None) -> ResolvedParams:
    """Return a small ViT with the structure of the paper's presets: SwiGLU, stochastic depth, five levels.

    LayerScale starts at 1: with the presets' 1e-5, an error in a block would not change the loss.
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


def mean_loss(step: TrainStep) -> float:
    """Return the mean loss since the last call; waits for the device."""
    return step.meter.read(Ranks())["train/loss"]


def relative(value: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of `expected`, in float64 on the CPU."""
    value, expected = value.detach().double().cpu(), expected.detach().double().cpu()
    return float((value - expected).norm() / expected.norm().clamp(min=1e-30))


@contextmanager
def draws_on_cpu() -> Iterator[None]:
    """Return a context in which stochastic depth is drawn on the CPU, the same for a seed on every device."""

    def draw(branches: int, batch: int, rate: float, device: torch.device) -> list[Kept]:
        kept = draw_kept(branches, batch, rate, torch.device("cpu"))
        return [Kept(samples.to(device), place.to(device)) for samples, place in kept]

    with mock.patch.object(backbone, "draw_kept", draw):
        yield
