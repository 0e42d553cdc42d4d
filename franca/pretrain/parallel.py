"""Several training processes, one a GPU: who they are, and how they share weights, gradients and numbers.

torchrun starts them (`runtime.processes` on this machine, or any launcher that sets its variables on many).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from franca.errors import FrancaError
from franca.params import Params
from franca.pretrain.network import Network

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all, with two groups over the CPU for what must not wait for a GPU.

    `control` is the training thread's, `writer` that of the thread that writes checkpoints: messages of two threads
    in one group would meet in another order on each process.
    """

    rank: int = 0
    count: int = 1
    control: Any = None
    writer: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.count == 1:
            return flag
        said = torch.tensor([float(flag)])
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.control)
        return bool(said)

    def gather(self, value: T) -> list[T]:
        """Every process's value, a small object."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.control)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes, elementwise."""
        if self.count > 1:
            dist.all_reduce(values)
            values = values / self.count
        return values

    def union(self, flags: Tensor) -> Tensor:
        """Where any process is true, elementwise."""
        if self.count > 1:
            seen = flags.to(torch.uint8)
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            flags = seen.bool()
        return flags


def launched() -> bool:
    """Whether torchrun, or a launcher like it, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int) -> None:
    """Become torchrun with `processes` copies of this very command; returns only where there is nothing to launch."""
    if processes == 1 or launched():
        return
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "franca", *sys.argv[1:]])


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of this run, for as long as it lasts; one alone where none were launched."""
    if not launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        control, writer = (dist.new_group(backend="gloo") for _ in range(2))
        yield Ranks(dist.get_rank(), dist.get_world_size(), control, writer)
    finally:
        dist.destroy_process_group()


def local_images(params: Params, ranks: Ranks) -> range:
    """Which of a batch's images are this process's; a FrancaError where the batch cannot be cut so."""
    share, rest = divmod(params.pretrain.batch_size, ranks.count)
    part, more = divmod(share, params.runtime.accumulation_steps)
    if rest or more or part % params.pretrain.losses.koleo_images:
        raise FrancaError(
            f"pretrain.batch_size {params.pretrain.batch_size} on {ranks.count} processes with"
            f" runtime.accumulation_steps {params.runtime.accumulation_steps}: each part must be a whole multiple of"
            f" pretrain.losses.koleo_images {params.pretrain.losses.koleo_images}"
        )
    return range(ranks.rank * share, (ranks.rank + 1) * share)


def distribute(student: Network, teacher: Network, how: str, ranks: Ranks, device: torch.device) -> nn.Module:
    """Have the networks shared among processes; returns what runs the student. Optimizers are made afterwards."""
    if ranks.count == 1:
        return student
    if how == "ddp":
        replica = DistributedDataParallel(student, device_ids=[device] if device.type == "cuda" else None)
        _settle_buckets(replica, student, device)
        return replica
    mesh = init_device_mesh(device.type, (ranks.count,))
    for network in (student, teacher):
        for unit in (*network.backbone.blocks, network.dino_head, network.ibot_head, network):
            # Also the outermost, which would else keep the teacher's weights whole, as no backward pass follows.
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    return student


def _settle_buckets(replica: DistributedDataParallel, student: Network, device: torch.device) -> None:
    """Have DDP sort the gradients into their final buckets before the first step.

    After its first backward pass, DDP sorts them anew, in the order in which they came. A gradient's place in its
    bucket decides in which order those of three or more processes are added up, so the first step of a resumed run
    would differ in the last bits from the same step of a run that was never stopped. (Measured: 4 processes, gloo.)
    """

    def total(start: Tensor) -> Tensor:
        # The gradients of a sum come in the reverse order of its terms: the heads first, as in a real backward pass.
        return sum((parameter.sum() for parameter in student.parameters()), start)

    student.forward = total  # type: ignore[method-assign, assignment]
    replica(torch.zeros((), device=device)).backward()
    del student.forward
    student.zero_grad(set_to_none=True)


def synchronized(student: nn.Module, last: bool) -> Any:
    """A context in which gradients are shared among processes only if it is the `last` part of a batch."""
    if isinstance(student, FSDPModule):
        student.set_requires_gradient_sync(last)
    elif isinstance(student, DistributedDataParallel) and not last:
        return student.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may hold a part, gathered."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's state, gathered on every process and moved to the CPU."""
    return {name: whole(value).cpu() for name, value in module.state_dict().items()}
