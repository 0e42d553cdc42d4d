"""Time and peak memory of the heads' losses in chunks and in a plain form, for several sizes.

`python -m benchmarks.heads` assigns a teacher's tokens with Sinkhorn-Knopp, computes the student's cross-entropy and
its gradients for bottleneck and prototypes: once as the product does, and once in the textbook form with all logits
of all levels at once, because losses of all levels are summed before one backward pass. Each form runs in two
processes on a single core: one measures time, the other, whose allocator returns freed memory at once, the peak above
the inputs.
"""

import os
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.memory import resident
from benchmarks.tables import table
from franca.losses.ibot import ibot_loss
from franca.losses.sinkhorn import sinkhorn
from franca.models.heads import Level

GRID = ((512, 4096), (1024, 8192), (2048, 16384), (2048, 32768), (3072, 65536))
BOTTLENECK, TEMPERATURES, ITERATIONS, ROUNDS = 384, (0.04, 0.1), 3, 2
LEVELS = (16, 8, 4, 2, 1)
SCALE = 0.2
"""Scale of the bottleneck. Teacher logits over the temperature vary by 5, so the plain form does not underflow."""

Level4 = tuple[Tensor, Tensor, Tensor, Tensor]


def rows() -> list[dict[str, Any]]:
    """Return a row for each size: seconds and MiB of both forms, and their ratios."""
    return [_row(*size) for size in GRID]


def _row(tokens: int, prototypes: int) -> dict[str, Any]:
    seconds, mib = ([_measure(what, form, tokens, prototypes) for form in FORMS] for what in ("seconds", "mib"))
    return {
        "tokens": tokens,
        "prototypes": prototypes,
        "plain_seconds": round(seconds[0], 2),
        "seconds": round(seconds[1], 2),
        "time_ratio": round(seconds[1] / seconds[0], 2),
        "plain_mib": round(mib[0]),
        "mib": round(mib[1]),
        "memory_ratio": round(mib[1] / mib[0], 3),
    }


def _measure(what: str, form: str, tokens: int, prototypes: int) -> float:
    command = [sys.executable, "-m", "benchmarks.heads", what, form, str(tokens), str(prototypes)]
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if what == "mib" else {})
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def _run(what: str, form: str, tokens: int, prototypes: int) -> float:
    """Return processor seconds or peak MiB of one form in this process."""
    torch.set_num_threads(1)
    loss, levels = FORMS[form], _levels(tokens, prototypes)
    weights = torch.full((tokens,), 1 / tokens)
    few = [(student[:2], heads[:2], teacher[:2], targets[:2]) for student, heads, teacher, targets in levels]
    loss(few, weights[:2]).backward()  # torch itself allocates memory the first time
    before, best = resident(peak=True), float("inf")
    for _ in range(ROUNDS if what == "seconds" else 1):
        for student, heads, *_ in levels:
            student.grad = heads.grad = None
        start = time.process_time()
        loss(levels, weights).backward()
        best = min(best, time.process_time() - start)
    return best if what == "seconds" else (resident(peak=True) - before) / 2**20


def _levels(tokens: int, prototypes: int) -> list[Level4]:
    """Return the student's bottleneck and prototypes and the teacher's for each level."""
    generator = torch.Generator().manual_seed(0)
    levels = []
    for divisor in LEVELS:
        shapes = ((tokens, BOTTLENECK), (prototypes // divisor, BOTTLENECK)) * 2
        student, heads, teacher, targets = (torch.randn(shape, generator=generator) for shape in shapes)
        heads, targets = F.normalize(heads, dim=1), F.normalize(targets, dim=1)
        levels.append(((SCALE * student).requires_grad_(), heads.requires_grad_(), SCALE * teacher, targets))
    return levels


def _chunks(levels: list[Level4], weights: Tensor) -> Tensor:
    return torch.stack([_chunks_of_level(level, weights) for level in reversed(levels)]).sum()


def _chunks_of_level(level: Level4, weights: Tensor) -> Tensor:
    student, heads, teacher, targets = level
    assigned = sinkhorn(teacher / TEMPERATURES[0], targets, ITERATIONS)
    return ibot_loss(Level(student, heads), assigned, weights, 1, TEMPERATURES[1])[0]


def _plain(levels: list[Level4], weights: Tensor) -> Tensor:
    logits = [student @ heads.T for student, heads, *_ in levels]
    assigned = [_sinkhorn(teacher @ targets.T) for *_, teacher, targets in levels]
    losses = [
        -((shares * F.log_softmax(level / TEMPERATURES[1], dim=1)).sum(dim=1) * weights).sum()
        for level, shares in zip(logits, assigned, strict=True)
    ]
    return torch.stack(losses).sum()


def _sinkhorn(logits: Tensor) -> Tensor:
    shares = torch.exp((logits - logits.max()) / TEMPERATURES[0])
    for _ in range(ITERATIONS):
        shares /= shares.sum(dim=0, keepdim=True)
        shares /= shares.sum(dim=1, keepdim=True)
    return shares


FORMS = {"plain": _plain, "chunks": _chunks}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(_run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        print(table(rows()))
