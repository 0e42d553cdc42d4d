"""The heads' losses in chunks against the plain form, on a grid of tokens x prototypes: time and peak memory.

`python -m benchmarks.heads` assigns a teacher's tokens by Sinkhorn-Knopp, takes the student's cross-entropy and goes
back to bottleneck and prototypes, once as the product does and once as a textbook writes it: all logits of all levels
at once, as losses of all levels are summed before one backward pass. On a CPU each form runs in a process of its own,
whose peak over its inputs is told.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.tables import table
from franca.losses.assignments import Assignments
from franca.losses.ibot import ibot_loss
from franca.losses.sinkhorn import sinkhorn_potentials
from franca.models.heads import Level

GRID = ((512, 4096), (1024, 8192), (2048, 16384), (2048, 32768))
BOTTLENECK, TEMPERATURES, ITERATIONS, ROUNDS = 384, (0.04, 0.1), 3, 2
LEVELS = (16, 8, 4, 2, 1)


def rows() -> list[dict[str, Any]]:
    """One dict for each size: seconds and MiB of both forms, and their ratios."""
    found = []
    for tokens, prototypes in GRID:
        plain, lean = (_measure(form, tokens, prototypes) for form in ("plain", "chunks"))
        found.append(
            {
                "tokens": tokens,
                "prototypes": prototypes,
                "plain_seconds": plain["seconds"],
                "seconds": lean["seconds"],
                "time_ratio": round(lean["seconds"] / plain["seconds"], 2),
                "plain_mib": plain["mib"],
                "mib": lean["mib"],
                "memory_ratio": round(lean["mib"] / plain["mib"], 3),
            }
        )
    return found


def _measure(form: str, tokens: int, prototypes: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.heads", form, str(tokens), str(prototypes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _run(form: str, tokens: int, prototypes: int) -> dict[str, Any]:
    """Seconds and peak MiB of one form in this process."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    levels: list[tuple[Tensor, ...]] = []
    for divisor in LEVELS:
        shapes = ((tokens, BOTTLENECK), (prototypes // divisor, BOTTLENECK)) * 2
        student, heads, teacher, targets = (torch.randn(shape, generator=generator) for shape in shapes)
        heads, targets = F.normalize(heads, dim=1), F.normalize(targets, dim=1)
        levels.append((student.requires_grad_(), heads.requires_grad_(), teacher, targets))
    weights = torch.full((tokens,), 1 / tokens)
    before, best = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        (_plain if form == "plain" else _chunks)(levels, weights).backward()
        best = min(best, time.perf_counter() - start)
        for student, heads, *_ in levels:
            student.grad = heads.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(best, 2), "mib": round((peak - before) / 1024)}


def _chunks(levels: list[tuple[Tensor, ...]], weights: Tensor) -> Tensor:
    losses = []
    for student, heads, teacher, targets in levels:
        hidden = teacher / TEMPERATURES[0]
        assigned = Assignments(hidden, targets, *sinkhorn_potentials(hidden, targets, ITERATIONS))
        losses.append(ibot_loss(Level(student, heads), assigned, weights, 1, TEMPERATURES[1])[0])
    return torch.stack(losses).sum()


def _plain(levels: list[tuple[Tensor, ...]], weights: Tensor) -> Tensor:
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


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(_run(sys.argv[1], *map(int, sys.argv[2:]))))
    else:
        print(table(rows()))
