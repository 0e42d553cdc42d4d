"""The Triton kernels by Triton's interpreter, and on a GPU the losses that use them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from franca.losses.cross_entropy import prototype_cross_entropy
from franca.losses.sinkhorn import sinkhorn


def test_kernels_compute_what_pytorch_does() -> None:
    script = Path(__file__).with_name("interpreted_kernels.py")
    root = Path(__file__).parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("tokens", "prototypes"), [(700, 8192), (3000, 131072), (128, 1000)])
def test_losses_are_the_same_on_both_devices(tokens: int, prototypes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, 96), (prototypes, 96))
    teacher, student = ([torch.randn(shape, generator=generator) / 5 for shape in shapes] for _ in range(2))
    weights = torch.rand(tokens, generator=generator) / tokens

    def losses(device: str) -> list[Tensor]:
        hidden, heads = (x.to(device) for x in teacher)
        own, own_heads = (x.to(device).requires_grad_() for x in student)
        assigned = sinkhorn(hidden / 0.06, heads, 3)
        loss, rows = prototype_cross_entropy(own, own_heads, assigned.rows, weights.to(device), 0.1)
        return [x.cpu() for x in (loss, *rows, assigned.prototype, *torch.autograd.grad(loss, (own, own_heads)))]

    for got, expected in zip(losses("cuda"), losses("cpu"), strict=True):
        if got.dtype == torch.int64:
            assert (got != expected).float().mean() < 1e-3
        else:
            torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-6)
