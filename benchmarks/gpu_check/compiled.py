"""5: compiled steps have the same losses as eager steps, and nothing is compiled again after the first steps.

The number of masked patches changes with every step, and stochastic depth drops samples. After a limited number of
variants of a function torch runs it eagerly, which normally shows only in speed; here it is an error.
"""

import functools
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
import torch._dynamo
from torch._dynamo.utils import counters

from benchmarks.gpu_check.finding import Finding, at_most, holds
from benchmarks.gpu_check.images import make_store
from benchmarks.gpu_check.subject import mean_loss, tiny_params
from franca.data.store.prepared import Store
from franca.params import ResolvedParams
from franca.plan.random_step import RATES, make_step, random_microbatch
from franca.pretrain.microbatch import Microbatch
from franca.pretrain.online import OnlineEvaluation
from franca.pretrain.step import TrainStep
from franca.runtime import configure_torch

SETTLED = 3
LIMITS = {"fp32": (1e-4, 1e-3), "bf16": (1e-2, 2e-2)}
"""Limits of relative differences: of the first loss, and of the worst of all steps."""


def run(device: torch.device) -> Iterator[Finding]:
    """Compare compiled with eager steps and count compilations."""
    on_gpu = device.type == "cuda"
    params = tiny_params(
        {} if on_gpu else {"pretrain.batch_size": 8, "base.backbone.depth": 2, "pretrain.heads.nesting": "none"}
    )
    configure_torch(params.runtime)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), params, 48, (64, 64), "png")
        for precision in ("fp32", "bf16") if on_gpu else ("fp32",):
            torch._dynamo.reset()
            counters.clear()
            yield from _check(params, store, device, precision)


def _check(params: ResolvedParams, store: Store, device: torch.device, precision: str) -> Iterator[Finding]:
    steps = 20 if device.type == "cuda" else 6
    microbatches = _different_microbatches(params, steps + 1, device)
    eager = _train(make_step(params, device, precision), microbatches[:steps], 1)

    # Inductor takes minutes on a CPU, and is not used for training there.
    backend = functools.partial(torch.compile, backend="aot_eager")
    with mock.patch.object(torch, "compile", backend) if device.type == "cpu" else nullcontext():
        runtime = params.runtime.model_copy(update={"compile": True})
        step = make_step(params.model_copy(update={"runtime": runtime}), device, precision)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        compiled = _train(step, microbatches[:SETTLED], 1)
        settled = _graphs()
        compiled += _train(step, microbatches[SETTLED:steps], SETTLED + 1)
        after_steps = _graphs()
        OnlineEvaluation(store, params, device, precision).measure(step.teacher)
        _train(step, microbatches[steps:], steps + 1)
        after_evaluation = _graphs()

    differences = [abs(own / expected - 1) for own, expected in zip(compiled, eager, strict=True)]
    first, worst = LIMITS[precision]
    yield at_most(f"{precision}: first loss, compiled against eager", differences[0], first)
    yield at_most(f"{precision}: worst loss of {steps} steps, compiled against eager", max(differences), worst)
    masked = [len(microbatch.masked) for microbatch in microbatches]
    outcome = f"{settled} graphs after step {SETTLED}, {after_steps} after step {steps}"
    title = (
        f"{precision}: compiled again, {len(set(masked))} numbers of masked patches ({min(masked)} to {max(masked)})"
    )
    yield holds(title, settled == after_steps, outcome, "no")
    outcome = f"{after_evaluation - after_steps} graphs more"
    yield holds(
        f"{precision}: compiled again after an online evaluation", after_steps == after_evaluation, outcome, "no"
    )
    breaks = sum(counters["graph_break"].values())
    yield holds(f"{precision}: graph breaks", not breaks, str(breaks), "none")


def _different_microbatches(params: ResolvedParams, count: int, device: torch.device) -> list[Microbatch]:
    """Return microbatches with different numbers of masked patches.

    With equal parameters the numbers are nearly equal, so the largest share of masked patches rises from 0.3 to 0.9.
    """
    microbatches = []
    for number, share in enumerate(torch.linspace(0.3, 0.9, count).tolist()):
        masks = params.pretrain.masks.model_copy(update={"ratio": (0.1, share)})
        pretrain = params.pretrain.model_copy(update={"masks": masks})
        microbatches.append(random_microbatch(params.model_copy(update={"pretrain": pretrain}), number, device))
    return microbatches


def _train(step: TrainStep, microbatches: list[Microbatch], first: int) -> list[float]:
    """Return the loss of each step; the samples that stochastic depth keeps depend only on the step's number."""
    losses = []
    for number, microbatch in enumerate(microbatches, first):
        torch.manual_seed(number)
        step([microbatch], RATES, number)
        losses.append(mean_loss(step))
    return losses


def _graphs() -> int:
    return counters["stats"]["unique_graphs"]
