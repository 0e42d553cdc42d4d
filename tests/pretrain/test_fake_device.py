"""A training step on fake CUDA tensors: mixing devices or waiting for the GPU raises an error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import passes
from benchmarks.fake_cuda import DEVICE, HostWaitError, NoHostWaits, backward, fake, fake_cuda, fake_networks
from franca.data.store.prepared import Store
from franca.data.views.batch import Batch, RawBatch
from franca.data.views.loader import StepDataset
from franca.params import ResolvedParams
from franca.plan.random_step import RATES
from franca.pretrain import objective, step
from franca.pretrain.finite_check import FiniteCheck
from franca.pretrain.microbatch import MicrobatchSplitter, count_microbatches
from franca.pretrain.network import Network, Outputs
from franca.pretrain.objective import StudentLoss
from franca.pretrain.step import TrainStep
from tests.conftest import MakeParams, MakeStore

PAPER = {"base.backbone.ffn": "swiglu", "pretrain.drop_path": 0.4, "pretrain.losses.koleo_images": 4}
"""The structure of the paper's presets, which have five levels as well."""
SMALL = PAPER | {"base.backbone.depth": 1, "pretrain.crops.local_count": 0, "pretrain.heads.nesting": "none"}


class Operators(TorchDispatchMode):
    """Records the names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: MakeStore) -> Path:
    """Images of several sizes, whose crops a GPU cuts by plans made on the host."""
    rng = np.random.default_rng(0)
    sizes = [(40, 48), (64, 36), (33, 33)] * 4
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return make_store(tmp_path_factory.mktemp("store"), train=9, images=images)


MakeBatch = Callable[[ResolvedParams, bool], Batch | RawBatch]


@pytest.fixture(scope="module")
def make_batch(store: Path) -> MakeBatch:
    """Returns the first batch of the loader, whose crops are still to be cut if it is for a GPU."""

    def make(params: ResolvedParams, for_gpu: bool) -> Batch | RawBatch:
        images = Store(store).images("train")
        count = count_microbatches(params.pretrain.batch_size, params)
        return StepDataset(images, None, params.base, params.pretrain, microbatches=count).load(0, {}, for_gpu)

    return make


def train(
    mode: FakeTensorMode, params: ResolvedParams, batch: Batch | RawBatch, device: torch.device = DEVICE
) -> TrainStep:
    """Take one step, from the loader's batch to the updated teacher, within a fake mode."""
    student, teacher = fake_networks(params, device)
    split = MicrobatchSplitter(params.base, device)
    train_step = TrainStep(params, student, teacher, student, device, "bf16")
    batch = fake(mode, batch)
    with NoHostWaits():
        train_step(split(batch), RATES, 1)
    return train_step


@pytest.mark.parametrize(
    ("size", "assignment", "parts"),
    [(PAPER, "sinkhorn", 1), (SMALL, "sinkhorn", 2), (SMALL, "centering", 1), (SMALL, "centering", 2)],
    ids=["sinkhorn, five levels", "sinkhorn, two parts", "centering", "centering, two parts"],
)
def test_the_host_never_waits_in_a_step(
    tiny_params: MakeParams, make_batch: MakeBatch, size: dict[str, Any], assignment: str, parts: int
) -> None:
    changes = {"pretrain.losses.assignment": assignment, "runtime.microbatch": 8 // parts}
    params = tiny_params(size | changes | {"pretrain.losses.contrastive_weight": 1.0})
    batch = make_batch(params, True)
    assert isinstance(batch, RawBatch)
    with fake_cuda() as mode, Operators() as operators:
        state = train(mode, params, batch).state()
    assert all(tensor.device == DEVICE for tensor in tree_leaves(state))
    # These are the operators of a GPU, with autocast on.
    kernels = {"aten._scaled_dot_product_flash_attention_backward.default", "aten._fused_adamw_.default"}
    kernels |= {"aten.mm.dtype", "franca.cross_entropy.default"}
    kernels |= {"franca.row_logsumexp.default"} if assignment == "sinkhorn" else set()
    assert kernels <= operators.names


def test_a_step_on_the_cpu_reads_no_value(tiny_params: MakeParams, make_batch: MakeBatch) -> None:
    """The backward pass uses the engine of autograd."""
    params = tiny_params(SMALL)
    batch = make_batch(params, False)
    with FakeTensorMode() as mode:
        train(mode, params, batch, torch.device("cpu"))


def read_loss(student: Outputs, *args: Any) -> StudentLoss:
    loss = objective.student_loss(student, *args)
    assert loss.total.item() < 100
    return loss


def mix_devices(student: Outputs, *args: Any) -> StudentLoss:
    scale = torch.ones(len(student.classes), 1)
    return objective.student_loss(student._replace(classes=student.classes * scale), *args)


def upload_number(student: Outputs, *args: Any) -> StudentLoss:
    scale = student.classes.new_tensor(2)
    return objective.student_loss(student._replace(classes=student.classes * scale), *args)


def upload_order(student: Outputs, *args: Any) -> StudentLoss:
    order = torch.arange(len(student.classes))
    return objective.student_loss(student._replace(classes=student.classes[order]), *args)


def choose_rows(student: Outputs, *args: Any) -> StudentLoss:
    chosen = student.classes[student.classes.mean(dim=1) > 0]
    return objective.student_loss(student._replace(classes=chosen), *args)


def read_in_backward(student: Outputs, *args: Any) -> StudentLoss:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 2 if bool(gradient.isfinite().all()) else gradient

    classes: Tensor = Scaled.apply(student.classes)
    return objective.student_loss(student._replace(classes=classes), *args)


@pytest.mark.parametrize(
    ("student_loss", "error"),
    [
        (read_loss, DataDependentOutputException),
        (mix_devices, RuntimeError),
        (upload_number, HostWaitError),
        (upload_order, HostWaitError),
        (choose_rows, DynamicOutputShapeException),
        (read_in_backward, DataDependentOutputException),
    ],
)
def test_operations_that_make_the_host_wait_raise(
    monkeypatch: pytest.MonkeyPatch,
    tiny_params: MakeParams,
    make_batch: MakeBatch,
    student_loss: Callable[..., StudentLoss],
    error: type[Exception],
) -> None:
    params = tiny_params(SMALL)
    batch = make_batch(params, True)
    monkeypatch.setattr(step, "student_loss", student_loss)
    with fake_cuda() as mode, pytest.raises(error):
        train(mode, params, batch)


def test_reading_the_norms_raises(
    monkeypatch: pytest.MonkeyPatch, tiny_params: MakeParams, make_batch: MakeBatch
) -> None:
    params = tiny_params(SMALL)
    batch = make_batch(params, True)
    guard = FiniteCheck.guard

    def read(self: FiniteCheck, optimizer: Any, norms: dict[str, Tensor], number: int) -> None:
        assert all(map(float, norms.values()))
        guard(self, optimizer, norms, number)

    monkeypatch.setattr(FiniteCheck, "guard", read)
    with fake_cuda() as mode, pytest.raises(DataDependentOutputException):
        train(mode, params, batch)


def test_blocking_uploads_raise() -> None:
    with fake_cuda():
        host, device = torch.zeros(3), torch.zeros(3, device=DEVICE)
        with NoHostWaits():
            host.to(DEVICE, non_blocking=True)
            device.copy_(host, non_blocking=True)
            device[1:].add_(torch.tensor(2.0))  # a scalar is an argument of the kernel
            for wait in (
                lambda: host.to(DEVICE),
                lambda: device.copy_(host),
                lambda: device.to("cpu", non_blocking=True),
                lambda: torch.tensor([1.0, 2.0], device=DEVICE),
            ):
                with pytest.raises(HostWaitError, match="makes the host wait"):
                    wait()


def test_gradients_without_the_engine_are_the_same(tiny_params: MakeParams) -> None:
    params = tiny_params({"base.backbone.ffn": "swiglu", "pretrain.losses.contrastive_weight": 1.0})
    network = Network(params.base, params.pretrain)
    generator = torch.Generator().manual_seed(0)
    crops, local = (torch.randn(4, 3, side, side, generator=generator) for side in (32, 16))
    masks = torch.rand(4, 16, generator=generator) < 0.5

    def loss() -> Tensor:
        seen = network(crops, masks.flatten().nonzero()[:, 0], masks, local)
        return sum((x.float().square().mean() for x in tree_leaves(seen)), torch.zeros(()))

    loss().backward()
    expected = [p.grad for p in network.parameters()]
    network.zero_grad(set_to_none=True)
    backward(loss())
    backward(loss())
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None and gradient is not None
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_bytes_and_flops_of_a_gpu_are_counted() -> None:
    with fake_cuda():
        x, y = torch.empty(50, 20, device=DEVICE), torch.empty(20, 30, device=DEVICE, dtype=torch.bfloat16)
        scale, places = torch.empty(20, device=DEVICE), torch.empty(8, device=DEVICE, dtype=torch.int64)
        with passes.Counter() as counter:
            for phase, function in (
                ("product", lambda: x.bfloat16() @ y),
                ("in place", lambda: x[:10].add_(scale.expand(10, 20))),
                ("gather", lambda: x[places]),
                ("copy", lambda: x[:10].copy_(x[10:20])),
                ("views", lambda: x.T[2:].unbind(1)),
            ):
                with counter.during(phase):
                    function()
    assert counter.counts == {
        "product": (2, 50 * 20 * (4 + 2) + (50 * 20 + 20 * 30 + 50 * 30) * 2, 2 * 50 * 20 * 30),
        "in place": (1, 2 * 10 * 20 * 4 + 20 * 4, 0),
        "gather": (1, 2 * 8 * 20 * 4 + 8 * 8, 0),
        "copy": (1, 2 * 10 * 20 * 4, 0),
    }
    textbook, _, kernels = passes.loss_rows(16384, 16384)
    assert kernels["passes over the logits"] < textbook["passes over the logits"] / 2
