"""Blocks are compiled in the first steps only, without graph breaks, and compute what they compute eagerly.

The backend is aot_eager, which runs the compiled graphs by PyTorch's own operators. All that matters here happens
before a backend gets the graphs, and inductor takes minutes on a CPU.
"""

import functools
import json
import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from franca.data.store.prepared import Store
from franca.data.views.batch import part_masks
from franca.data.views.masks import batch_masks
from franca.params import Params
from franca.pretrain.microbatch import Part
from franca.pretrain.online import OnlineEvaluation
from franca.pretrain.parallel import Ranks, distribute, joined
from franca.pretrain.schedules import Rates
from franca.pretrain.setup import compile_blocks, make_networks
from franca.pretrain.step import TrainStep
from tests.conftest import MakeParams
from tests.pretrain.conftest import PATIENCE_SECONDS

RATES = Rates(lr=1e-4, last_layer_lr=1e-4, weight_decay=0.04, teacher_momentum=0.99, teacher_temperature=0.06)
CPU = torch.device("cpu")
STEPS, SETTLED, COMPARED = 20, 3, 6
PAPER = {
    "base.backbone.ffn": "swiglu",
    "pretrain.drop_path": 0.4,
    "pretrain.heads.nesting": "none",  # heads are not compiled
    "pretrain.losses.koleo_images": 4,
}


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with no_limit_hit():
        yield
    torch._dynamo.reset()


def no_limit_hit() -> AbstractContextManager[None]:
    """Raise an error if a function has more variants than torch compiles; by default further ones run eagerly."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
    return patched


def make_step(params: Params, compiled: bool, ranks: Ranks | None = None) -> TrainStep:
    student, teacher = make_networks(params, CPU)
    if compiled:
        with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend="aot_eager")):
            compile_blocks(student, teacher)
    run_student = distribute(student, teacher, params.runtime.parallel, "fp32", ranks or Ranks(), CPU)
    return TrainStep(params, student, teacher, run_student, CPU, "fp32")


def make_part(params: Params, step: int) -> Part:
    """Return random crops with masks that hide another number of patches at each step."""
    base, pretrain = params.base, params.pretrain
    images, grid = pretrain.batch_size, base.image_size // base.backbone.patch_size
    masks = batch_masks(images, pretrain.losses.koleo_images, grid, pretrain.masks, np.random.default_rng(step))
    masks[0, : step % grid] = True
    generator = torch.Generator().manual_seed(step)
    crops = torch.randn(2 * images, 3, base.image_size, base.image_size, generator=generator)
    size, count = pretrain.crops.local_size, pretrain.crops.local_count
    local = torch.randn(count * images, 3, size, size, generator=generator)
    return Part(crops, local, *part_masks(torch.from_numpy(masks), 1)[0])


def train(step: TrainStep, params: Params, numbers: range) -> list[float]:
    """Return the losses of the steps."""
    losses = []
    for number in numbers:
        torch.manual_seed(number)
        step([make_part(params, number)], RATES, number)
        losses.append(step.meter.read(Ranks())["train/loss"])
    return losses


def graphs() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def test_steps_and_online_evaluation_compile_nothing_again(tiny_params: MakeParams, prepared: Path) -> None:
    params = tiny_params(PAPER)
    assert len({len(make_part(params, number).masked) for number in range(1, STEPS + 1)}) > 5
    step = make_step(params, compiled=True)
    losses = train(step, params, range(1, SETTLED + 1))
    compiled = graphs()
    assert compiled > 0
    losses += train(step, params, range(SETTLED + 1, STEPS + 1))
    assert graphs() == compiled
    OnlineEvaluation(Store(prepared), params, CPU, "bf16").measure(step.teacher)
    assert graphs() == compiled
    train(step, params, range(STEPS + 1, STEPS + 3))
    assert graphs() == compiled

    expected = train(make_step(params, compiled=False), params, range(1, COMPARED + 1))
    assert losses[0] == pytest.approx(expected[0], rel=1e-6)
    assert losses[:COMPARED] == pytest.approx(expected, rel=1e-4)


def run_rank(rank: int, port: int, params: Params, result: Path) -> None:
    """Train in one of two processes, compiled and eagerly; write losses and the number of graphs."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined(CPU) as ranks, no_limit_hit():
        step = make_step(params, True, ranks)
        losses = train(step, params, range(1, SETTLED + 1))
        settled = graphs()
        losses += train(step, params, range(SETTLED + 1, STEPS + 1))
        compiled = graphs()
        expected = train(make_step(params, False, ranks), params, range(1, COMPARED + 1))
    result.write_text(json.dumps([losses, expected, settled, compiled]))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_compile_nothing_again(tiny_params: MakeParams, tmp_path: Path, parallel: str) -> None:
    params = tiny_params(PAPER | {"runtime.parallel": parallel})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = [tmp_path / str(rank) for rank in range(2)]
    ranks = [context.Process(target=run_rank, args=(rank, port, params, path)) for rank, path in enumerate(results)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    for path in results:
        losses, expected, settled, compiled = json.loads(path.read_text())
        assert 0 < settled == compiled
        assert losses[:COMPARED] == pytest.approx(expected, rel=1e-4)
