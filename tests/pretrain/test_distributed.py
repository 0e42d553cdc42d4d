"""Process groups, DDP and FSDP2: how they are set up, what they send, and that they change no result."""

import os
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from franca.errors import FrancaError
from franca.files import read_json
from franca.pretrain import loop, parallel
from franca.pretrain.network import Network
from franca.pretrain.parallel import Ranks, distribute, joined
from franca.pretrain.setup import make_networks
from tests.conftest import MakeParams
from tests.pretrain.conftest import MakeProject, Project
from tests.pretrain.test_parallel import SHARED, assert_alike, train

Pretrain = Callable[[Project], None]
CPU = torch.device("cpu")
GROUP = object()
"""Placeholder for the control group of ranks that send no messages."""


def make_pair(make: MakeParams) -> tuple[Network, Network]:
    return make_networks(make({"base.backbone.depth": 3}), CPU)


@pytest.fixture
def ranks_of_96() -> Iterator[Ranks]:
    """Rank 13 of 12 machines with 8 processes each, by torch's backend that sends nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=13, world_size=96)
    yield Ranks(13, 96, control=GROUP, writer=GROUP)
    dist.destroy_process_group()


class Sent(TorchDispatchMode):
    """Counts collectives by name, dtype and number of ranks in the group."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, torch.dtype, int]] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            group = next(leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.ScriptObject))
            name = operator._schema.name.removeprefix("c10d::").strip("_")
            self.counts[name, tensors[0].dtype, dist.ProcessGroup.unbox(group).size()] += 1
        return operator(*args, **kwargs or {})


def forward_and_backward(student: nn.Module, teacher: nn.Module, precision: str) -> None:
    """Run what a step runs of the networks, on two images with two local crops each."""
    globals_, locals_ = torch.zeros(4, 3, 32, 32), torch.zeros(4, 3, 16, 16)
    masks = torch.zeros(4, 16, dtype=torch.bool)
    masks[0, :5] = True
    masked = masks.flatten().nonzero()[:, 0]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            teacher(globals_, masked)
        seen = student(globals_, masked, masks, locals_)
    levels = [tensor for level in seen.dino + seen.ibot for tensor in level]
    assert {level.prototypes.dtype for level in seen.dino + seen.ibot} == {torch.float32}
    torch.stack([tensor.float().sum() for tensor in levels]).sum().backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("how", "sharded", "replicas"), [("fsdp", 96, 1), ("hsdp", 8, 12)])
def test_what_fsdp_sends(
    ranks_of_96: Ranks,
    tiny_params: MakeParams,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    sharded: int,
    replicas: int,
    precision: str,
) -> None:
    """Blocks are gathered in the precision of the run, all else and all gradients are sent as float32."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    student, teacher = make_pair(tiny_params)
    depth = len(student.backbone.blocks)
    run_student = distribute(student, teacher, how, precision, ranks_of_96, CPU)
    placements = (Shard(0),) if replicas == 1 else (Replicate(), Shard(0))
    for parameter in [*student.parameters(), *teacher.parameters()]:
        assert isinstance(parameter, DTensor) and parameter.placements == placements
        assert parameter.dtype == torch.float32
    with Sent() as sent:
        forward_and_backward(run_student, teacher, precision)

    low = torch.bfloat16 if precision == "bf16" else torch.float32
    gathered = Counter({key: n for key, n in sent.counts.items() if key[0] == "allgather_base"})
    # Heads and root: once by the teacher, once by the student, where they stay gathered for the backward pass. Blocks:
    # once by the teacher, once by the student for global and local crops together, and again in the backward pass.
    expected = Counter({("allgather_base", torch.float32, sharded): 3 * 2})
    expected["allgather_base", low, sharded] += depth * (1 + 1 + 1)
    assert gathered == expected
    expected = Counter({("reduce_scatter_base", torch.float32, sharded): depth + 3})
    if replicas > 1:
        expected["allreduce", torch.float32, replicas] = depth + 3
    assert sent.counts - gathered == expected
    for parameter in student.parameters():
        assert isinstance(parameter.grad, DTensor) and parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("local", [None, "7"])
def test_hsdp_needs_equal_machines(
    ranks_of_96: Ranks, tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch, local: str | None
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    with pytest.raises(FrancaError) as caught:
        distribute(*make_pair(tiny_params), "hsdp", "fp32", ranks_of_96, CPU)
    assert str(caught.value).startswith(f"runtime.parallel 'hsdp': LOCAL_WORLD_SIZE is {local or 'not set'}, with 96")


def test_a_process_on_cuda_binds_its_own_gpu(monkeypatch: pytest.MonkeyPatch, tiny_params: MakeParams) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: calls.append(("init_process_group", *a, k)))
    monkeypatch.setattr(dist, "new_group", lambda backend: backend)
    monkeypatch.setattr(dist, "get_rank", lambda: 11)
    monkeypatch.setattr(dist, "get_world_size", lambda: 16)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(parallel, "_fix_bucket_order", lambda *arguments: None)
    monkeypatch.setattr(parallel, "DistributedDataParallel", lambda module, **k: calls.append(("ddp", k)))
    monkeypatch.setenv("RANK", "11")
    monkeypatch.setenv("WORLD_SIZE", "16")
    device = torch.device("cuda", 3)
    with joined(device) as ranks:
        assert (ranks.rank, ranks.count, ranks.control) == (11, 16, "gloo")
        distribute(*make_pair(tiny_params), "ddp", "fp32", ranks, device)
    assert calls == [
        ("set_device", device),
        ("init_process_group", "cpu:gloo,cuda:nccl", {"device_id": device, "timeout": parallel.NCCL_TIMEOUT}),
        ("ddp", {"device_ids": [3], "gradient_as_bucket_view": True}),
    ]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of `torchrun --nproc-per-node 1`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def group_of_one(launcher: None) -> Iterator[Ranks]:
    with joined(CPU) as ranks:
        yield ranks


def test_a_single_launched_process_is_a_group(group_of_one: Ranks) -> None:
    flags, values = torch.tensor([True, False]), torch.tensor([1.0, 2.0])
    with Sent() as sent:
        assert torch.equal(group_of_one.mean(values), values) and torch.equal(group_of_one.union(flags), flags)
        assert group_of_one.any(True) and not group_of_one.any(False)
    assert sum(sent.counts.values()) == 4
    assert group_of_one.gather("value") == ["value"]


def test_when_a_poll_is_answered(group_of_one: Ranks) -> None:
    """In a group before the step, so that all ranks get the same answer; without one when the answer is read."""
    for ranks, expected in ((group_of_one, False), (Ranks(), True)):
        stop = False
        answer = ranks.poll(lambda: stop)  # noqa: B023
        stop = True
        assert answer() == expected


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_group_of_one_trains_the_plain_model(
    launcher: None, make_project: MakeProject, pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    wrapped: list[type] = []

    def spy(*arguments: Any) -> nn.Module:
        module = distribute(*arguments)
        wrapped.append(type(module))
        return module

    monkeypatch.setattr(loop, "distribute", spy)
    changes = SHARED | {"pretrain.epochs": 1, "runtime.checkpoint_steps": 1, "runtime.parallel": how}
    plain, project = (make_project(changes, name) for name in ("plain", "project"))
    pretrain(project)
    for path in project.checkpoints()[1:]:
        shutil.rmtree(path)
    monkeypatch.delenv("RANK")
    grouped = project.outs()
    pretrain(project)  # from a checkpoint of the group, without a group
    pretrain(plain)
    assert [issubclass(kind, DistributedDataParallel | FSDPModule) for kind in wrapped] == [True, False, False]
    assert_alike(project.weights(), plain.weights())
    assert grouped["models/pretrained/model.safetensors"] == plain.outs()["models/pretrained/model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_compiled_blocks_give_the_same_gradients(group_of_one: Ranks, tiny_params: MakeParams, how: str) -> None:
    """Also with FSDP2's hooks and stochastic depth, and without a graph break."""
    norms = []
    for compiled in (False, True):
        torch._dynamo.reset()
        student, teacher = make_networks(tiny_params({"pretrain.drop_path": 0.4}), CPU)
        for block in chain(student.backbone.blocks, teacher.backbone.blocks) if compiled else ():
            block.compile(backend="aot_eager")
        run_student = distribute(student, teacher, how, "fp32", group_of_one, CPU)
        torch.manual_seed(0)
        forward_and_backward(run_student, teacher, "fp32")
        gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
        norms.append([float(parallel.whole(gradient).norm()) for gradient in gradients])
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]


def test_determinism_changes_nothing_on_a_cpu(make_project: MakeProject, pretrain: Pretrain) -> None:
    short = {"pretrain.epochs": 1, "pretrain.drop_path": 0.5, "runtime.threads": 2}
    strict, off = (make_project(short | {"runtime.deterministic": mode}, mode) for mode in ("strict", "off"))
    pretrain(strict)
    pretrain(off)
    assert strict.outs() == off.outs()


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_the_same_step(make_project: MakeProject) -> None:
    project = make_project(SHARED | {"pretrain.epochs": 18, "runtime.checkpoint_steps": 100})
    runs = project.together(2)
    runs[0].reach(3)
    os.kill(runs[1].pid, signal.SIGTERM)
    assert [run.end() for run in runs] == [75, 75]
    (checkpoint,) = project.checkpoints()
    step = int(checkpoint.name.split("-")[1])
    assert {run.err for run in runs} == {f"franca: stopped at step {step} of 36; run again to resume\n"}
    assert read_json(project.folder / "runs/requeue.json")["step"] == step


@pytest.mark.slow
def test_shards_within_a_machine_and_replicas_over_machines(
    make_project: MakeProject, pretrain: Pretrain, tmp_path_factory: pytest.TempPathFactory
) -> None:
    changes = SHARED | {"pretrain.batch_size": 16, "runtime.parallel": "hsdp"}
    alone, project = (make_project(changes, name) for name in ("alone", "hsdp"))
    pretrain(alone)
    runs = project.together(4, machines=2)
    assert [run.end() for run in runs] == [0] * 4, runs[-1].err
    assert_alike(project.weights(), alone.weights())
    for path in project.checkpoints()[1:]:
        for file in path.iterdir():
            file.write_bytes(b"")
    pretrain(project)
    assert_alike(project.weights(), alone.weights())


@pytest.mark.slow
def test_bf16_shards_train_like_bf16_replicas(make_project: MakeProject) -> None:
    losses: dict[str, list[float]] = {}
    for how in ("ddp", "fsdp"):
        project = make_project(SHARED | {"pretrain.precision": "bf16", "runtime.parallel": how}, how)
        train(project, 2)
        losses[how] = [reading["train/loss"] for reading in project.metrics()]
    assert losses["fsdp"] == pytest.approx(losses["ddp"], rel=1e-2)
