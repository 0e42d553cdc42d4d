"""8: Sinkhorn-Knopp and cross-entropy at the paper's size, compared with float64; their memory and time.

On a GPU the Triton kernels are compared with the PyTorch code that CPUs use.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu_check.finding import Finding, at_most
from benchmarks.gpu_check.subject import relative
from benchmarks.gpu_check.timing import best_seconds
from franca.losses import cross_entropy, sinkhorn
from franca.runtime import tf32

ITERATIONS = 3
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.06, 0.1
BOTTLENECK = 256
SIZES = {"cuda": (3072, 131072), "cpu": (256, 4096)}
"""Tokens and prototypes: masked patches of 64 images, and the paper's largest level."""
SAMPLED = 64
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Limits of relative differences by dtype of the products in the backward pass, bfloat16 under autocast."""


class _Inputs(NamedTuple):
    teacher: Tensor
    teacher_prototypes: Tensor
    student: Tensor
    student_prototypes: Tensor
    weights: Tensor


def run(device: torch.device) -> Iterator[Finding]:
    """Compare losses and gradients with float64, and measure time and memory."""
    tokens, prototypes = SIZES[device.type]
    inputs = _make_inputs(tokens, prototypes, device)
    rows = torch.randperm(tokens, generator=torch.Generator().manual_seed(1))[:SAMPLED].to(device)
    assigned, loss, *gradients = _reference(inputs, rows)
    yield Finding("size", f"{tokens} tokens x {prototypes} prototypes, bottleneck {BOTTLENECK}")
    for form in ("Triton", "PyTorch") if device.type == "cuda" else ("PyTorch",):
        with _pytorch_code() if form == "PyTorch" else ExitStack(), tf32(False):
            own = sinkhorn.sinkhorn(inputs.teacher, inputs.teacher_prototypes, ITERATIONS).rows()[rows]
            worst = max(relative(row, expected) for row, expected in zip(own, assigned, strict=True))
            yield at_most(f"{form}: worst of {SAMPLED} rows of assignments against float64", worst, 1e-4)
            del own
            for dtype in LIMITS if device.type == "cuda" else (torch.float32,):
                limit = LIMITS[dtype]
                name = f"{form}, {str(dtype).removeprefix('torch.')}"
                own_loss, *own_gradients = _losses(inputs, dtype)
                yield at_most(f"{name}: loss against float64", relative(own_loss, loss), limit)
                own_gradients[0] = own_gradients[0][rows]
                for of, value, expected in zip(("tokens", "prototypes"), own_gradients, gradients, strict=True):
                    yield at_most(f"{name}: gradient of {of} against float64", relative(value, expected), limit)
                del own_loss, own_gradients, value
                yield from _cost(name, inputs, dtype, device)


def _cost(name: str, inputs: _Inputs, dtype: torch.dtype, device: torch.device) -> Iterator[Finding]:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _losses(inputs, dtype)
        peak = torch.cuda.max_memory_allocated(device) - before
        logits = 4 * len(inputs.teacher) * len(inputs.teacher_prototypes)
        yield Finding(f"{name}: peak memory", f"{peak / 1e9:.2f} GB, {peak / logits:.2f} times the logits in float32")
    seconds = best_seconds(lambda: _losses(inputs, dtype), device, rounds=3, calls=2)
    yield Finding(f"{name}: assignments, loss and gradients", f"{1e3 * seconds:.1f} ms")


def _make_inputs(tokens: int, prototypes: int, device: torch.device) -> _Inputs:
    """Return bottlenecks and prototypes of unit length, like those of the heads; each token is near a prototype."""
    generator = torch.Generator().manual_seed(0)

    def unit(rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows, dim=1).to(device)

    def noise(rows: int) -> Tensor:
        return torch.randn(rows, BOTTLENECK, generator=generator)

    both = [unit(noise(prototypes)) for _ in range(2)]
    near = torch.randint(prototypes, (tokens,), generator=generator).to(device)
    hidden = [unit(16 * of[near].cpu() + noise(tokens)) for of in both]
    weights = torch.rand(tokens, generator=generator).to(device) / tokens
    return _Inputs(hidden[0] / TEACHER_TEMPERATURE, both[0], hidden[1], both[1], weights)


def _losses(inputs: _Inputs, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the product's loss and its gradients for tokens (N, b) and prototypes (K, b)."""
    assigned = sinkhorn.sinkhorn(inputs.teacher, inputs.teacher_prototypes, ITERATIONS)
    hidden = inputs.student.detach().to(dtype).requires_grad_()
    prototypes = inputs.student_prototypes.detach().requires_grad_()
    loss, _ = cross_entropy.prototype_cross_entropy(
        hidden, prototypes, assigned.rows, inputs.weights, STUDENT_TEMPERATURE
    )
    return loss.detach(), *torch.autograd.grad(loss, (hidden, prototypes))


def _reference(inputs: _Inputs, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rows of the assignments, the loss, rows of the tokens' gradient and the prototypes', in float64."""
    teacher, teacher_prototypes, student, prototypes, weights = (x.double() for x in inputs)
    targets = teacher @ teacher_prototypes.T
    for _ in range(ITERATIONS):
        targets -= targets.logsumexp(dim=0)
        targets -= targets.logsumexp(dim=1, keepdim=True)
    targets.exp_()
    logits = student @ prototypes.T / STUDENT_TEMPERATURE
    total = logits.logsumexp(dim=1)
    loss = weights @ (targets.sum(dim=1) * total - (targets * logits).sum(dim=1))
    # Gradient with respect to the logits: v (m softmax(s) - t).
    slope = logits.sub_(total[:, None]).exp_().mul_(targets.sum(dim=1, keepdim=True)).sub_(targets)
    slope *= weights[:, None] / STUDENT_TEMPERATURE
    return targets[rows], loss, (slope @ prototypes)[rows], slope.T @ student


def _pytorch_code() -> AbstractContextManager[Any]:
    """Return a context in which the losses use the PyTorch code for CPUs on a GPU too."""
    stack = ExitStack()
    stack.enter_context(mock.patch.object(sinkhorn, "_on_gpu", sinkhorn._on_cpu))
    stack.enter_context(mock.patch.object(cross_entropy, "_rows_on_gpu", cross_entropy._rows_on_cpu))
    return stack
