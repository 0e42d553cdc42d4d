"""Operators, bytes and FLOPs of a training step on a GPU, counted on fake tensors, without a GPU.

`python -m benchmarks.passes > benchmarks/PASSES.md` writes what this page and its two tables say.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import prod
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import heads
from benchmarks.fake_cuda import DEVICE, fake, fake_cuda, fake_networks
from benchmarks.step_setting import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Case, Setting
from benchmarks.tables import table
from franca.data.views.batch import PartMasks
from franca.losses import cross_entropy, sinkhorn
from franca.pretrain import objective
from franca.pretrain.microbatch import Part
from franca.pretrain.schedules import Rates
from franca.pretrain.step import TrainStep

PAGE = """# Work of a training step on a GPU

Written by `python -m benchmarks.passes`, which counts on fake CUDA tensors and needs no GPU. Nothing here is measured.

- Operators are those that PyTorch dispatches in eager mode, without views and allocations. Most start one kernel.
- Gigabytes are what operators read and write if each reads its inputs once and writes its outputs once. Of a gather
  only the rows that it takes count, of an expanded tensor its memory. `franca::cross_entropy` reads its inputs twice.
- Teraflops are those of matrix products, convolutions and attention. Samples that stochastic depth drops do not count.

Not counted: what an operator reads again because caches are small, fusion by torch.compile, communication between
GPUs, cutting and coloring the crops, PyTorch's bookkeeping between operators.
"""
CASE = Case("vitl14-in21k", 256, 64, 0.4, 14, 98)
BOTTLENECK = 256
PHASES = ("teacher", "student", "assignments", "losses", "backward", "optimizer", "moving average", "meter")
FREE = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::lift_fresh", "aten::_unsafe_view")
"""Operators that start no kernel, besides views."""
OVERWRITTEN = ("aten::copy_", "aten::fill_", "aten::zero_")
GATHERS = ("aten::index", "aten::gather", "aten::index_select")


class Counter(TorchDispatchMode):
    """Counts operators, bytes and FLOPs by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "meter"
        self.counts: dict[str, tuple[int, int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace in ("aten", "franca") and not func.is_view and func._schema.name not in FREE:
            flops = flop_registry.get(func._overloadpacket)
            operators, moved, done = self.counts.get(self.phase, (0, 0, 0))
            done += flops(*args, **kwargs, out_val=result) if flops else 0
            self.counts[self.phase] = (operators + 1, moved + _moved(func, args, kwargs, result), done)
        return result

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count under another name for a while."""
        before, self.phase = self.phase, phase
        yield
        self.phase = before

    def total(self) -> tuple[int, int, int]:
        operators, moved, flops = map(sum, zip(*self.counts.values(), strict=True))
        return operators, moved, flops


def _moved(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Return the bytes that an operator reads and writes."""
    name = func._schema.name
    written = _bytes(result)
    if not written:
        # Such operators return nothing. AdamW's could unscale gradients, which is not asked for.
        arguments = zip(func._schema.arguments, args, strict=False)
        written = sum(_bytes(x) for about, x in arguments if about.is_write and about.name != "grads")
    if name in OVERWRITTEN:
        return written + _bytes(args[1:])
    if name in GATHERS:
        return 2 * written + _bytes(args[1:])
    if name == "franca::cross_entropy":
        return written + _bytes(args) + (_bytes(args[:2]) if args[4] else 0)
    return written + _bytes((args, kwargs))


def _bytes(tree: Any) -> int:
    """Return the bytes of tensors' elements; those that lie in the same place count once."""
    return sum(
        x.element_size() * prod(size for size, stride in zip(x.size(), x.stride(), strict=True) if stride)
        for x in tree_leaves(tree)
        if isinstance(x, Tensor)
    )


class CountedStep(TrainStep):
    """A step that tells the counter its phases."""

    counter: Counter

    def phase(self, name: str) -> AbstractContextManager[object]:
        return self.counter.during("losses" if name == "assignments and losses" else name)


def rows() -> list[dict[str, Any]]:
    """Return the rows of both tables."""
    setting = Setting(CASE, "five")
    (masks,) = setting.masks()
    return [*step_rows(setting, masks), *loss_rows(len(masks.masked), setting.params.pretrain.heads.prototypes)]


def step_rows(setting: Setting, masks: PartMasks) -> list[dict[str, Any]]:
    """Return a row for each phase of a step."""
    base, pretrain = setting.params.base, setting.params.pretrain
    with fake_cuda() as mode:
        student, teacher = fake_networks(setting.params)
        step = CountedStep(setting.params, student, teacher, student, DEVICE, "bf16")
        step.state()  # makes the optimizer's
        local = pretrain.crops.local_count * setting.batch, 3, *[pretrain.crops.local_size] * 2
        part = Part(
            torch.empty(2 * setting.batch, 3, base.image_size, base.image_size, device=DEVICE),
            torch.empty(local, device=DEVICE),
            *(x.to(DEVICE) for x in fake(mode, masks)),
        )
        rates = Rates(LEARNING_RATE, LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, setting.temperature)
        with Counter() as counter:
            step.counter = counter
            # Within the losses, each level is assigned when its loss asks for it.
            with mock.patch.object(objective, "sinkhorn", counter.during("assignments")(objective.sinkhorn)):
                step([part], rates, 1)
    counts = {phase: counter.counts[phase] for phase in PHASES} | {"sum": counter.total()}
    return [
        {
            f"ViT-L/14, {setting.batch} images": phase,
            "operators": operators,
            "gigabytes": round(moved / 1e9, 1),
            "teraflops": round(flops / 1e12, 2),
        }
        for phase, (operators, moved, flops) in counts.items()
    ]


def loss_rows(tokens: int, prototypes: int) -> list[dict[str, Any]]:
    """Return a row for each form of one level's assignments, losses and gradients."""
    forms = {"textbook": ("plain", False), "PyTorch, in chunks": ("chunks", False), "kernels": ("chunks", True)}
    found = []
    for name, (form, kernels) in forms.items():
        with fake_cuda(), ExitStack() as patches:
            student, teacher = (torch.empty(tokens, BOTTLENECK, device=DEVICE) for _ in range(2))
            own, targets = (torch.empty(prototypes, BOTTLENECK, device=DEVICE) for _ in range(2))
            # Under autocast the student's bottleneck is bf16; a textbook takes its logits in float32.
            student = student if form == "plain" else student.bfloat16()
            level = (student.requires_grad_(), own.requires_grad_(), teacher, targets)
            if not kernels:
                patches.enter_context(mock.patch.object(sinkhorn, "_on_gpu", sinkhorn._on_cpu))
                patches.enter_context(mock.patch.object(cross_entropy, "_rows_on_gpu", cross_entropy._rows_on_cpu))
            with Counter() as counter:
                heads.FORMS[form]([level], torch.empty(tokens, device=DEVICE)).backward()
        operators, moved, _ = counter.total()
        found.append(
            {
                f"losses of {tokens} x {prototypes} logits": name,
                "operators": operators,
                "gigabytes": round(moved / 1e9, 1),
                "passes over the logits": round(moved / (4 * tokens * prototypes), 1),
            }
        )
    return found


if __name__ == "__main__":
    print(PAGE + table(rows()))
