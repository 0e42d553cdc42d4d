"""Distributed training with one process per GPU: process groups, sharded or replicated weights, collectives.

torchrun starts the processes: `launch` runs it on this machine for `runtime.processes`. On several machines, other
launchers set the same environment variables.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from franca.errors import FrancaError
from franca.params import Params
from franca.pretrain.network import Network
from franca.runtime import count_gpus

# The student returns slices of its tokens, which nothing modifies in place.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

T = TypeVar("T")

NCCL_TIMEOUT = timedelta(minutes=10)
"""Time in a collective after which a process ends: torch's default for NCCL alone, but 30 minutes with gloo."""
MOST_PROCESSES = 1024
"""Largest number of processes that an error message suggests."""


@dataclass(frozen=True)
class Ranks:
    """This process's rank, and two process groups on the CPU for messages that must not wait for a GPU.

    Without a launcher there is no group, and every method returns this process's own value. A group of one process is
    a real group: its collectives run.
    """

    rank: int = 0
    count: int = 1
    control: Any = None
    """Process group of the training thread, or None."""
    writer: Any = None
    """Process group of the thread that writes checkpoints, or None. Collectives of two threads in one group could be
    matched in a different order on each rank."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes and logs."""
        return self.rank == 0

    @property
    def grouped(self) -> bool:
        """Whether there is a process group."""
        return self.control is not None

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on any rank."""
        return self.poll(lambda: flag)()

    def poll(self, question: Callable[[], bool]) -> Callable[[], bool]:
        """Start asking all ranks a question; the returned function waits and returns whether any rank answers yes.

        In a group the question is answered now and the all-reduce runs in a thread of gloo. Without a group the
        question is answered when the result is read.
        """
        # The latency of the all-reduce grows with the number of ranks, so the training loop polls at the start of a
        # step and reads the result at its end.
        if not self.grouped:
            return question
        answer = torch.tensor([question()], dtype=torch.uint8)
        # On the CPU, over gloo: the host would get the result of a collective over NCCL only after the GPU has done
        # all work that was queued before it.
        work = dist.all_reduce(answer, dist.ReduceOp.MAX, group=self.control, async_op=True)
        assert work is not None

        def result() -> bool:
            work.wait()
            return bool(answer)

        return result

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, small picklable objects, in the order of ranks."""
        if not self.grouped:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.control)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the elementwise mean over ranks; overwrites `values`."""
        if self.grouped:
            dist.all_reduce(values)
            values = values / self.count
        return values

    def union(self, flags: Tensor) -> Tensor:
        """Return the elementwise logical or of boolean tensors over ranks."""
        if self.grouped:
            seen = flags.to(torch.uint8)
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            flags = seen.bool()
        return flags


def launched() -> bool:
    """Return whether torchrun, or a launcher that sets the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int, device: torch.device) -> None:
    """Replace this process by torchrun with `processes` copies of the same command.

    Returns without doing anything for one process, or if a launcher has started this process already.

    Raises:
        FrancaError: This machine has fewer GPUs than processes. NCCL refuses two processes on one GPU.
    """
    if processes == 1 or launched():
        return
    if device.type == "cuda" and processes > (gpus := torch.cuda.device_count()):
        raise FrancaError(
            f"runtime.processes {processes}: this machine has {count_gpus(gpus)}; set runtime.processes to {gpus},"
            " or start the run on several machines with torchrun"
        )
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "franca", *sys.argv[1:]])


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Return a context that joins the launcher's process group and leaves it at the end; no group without a launcher.

    One process is a group as well if a launcher started it (`torchrun --nproc-per-node 1`), so that NCCL, DDP and
    FSDP2 can be checked on a single GPU.
    """
    if not launched():
        yield Ranks()
        return
    if device.type == "cuda":
        # NCCL creates its communicators on the current device, which is GPU 0 in every process unless it is set.
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device, timeout=NCCL_TIMEOUT)
    else:
        dist.init_process_group("gloo")
    try:
        # New groups over gloo: messages of a group over NCCL would be queued behind the GPU's work.
        control, writer = (dist.new_group(backend="gloo") for _ in range(2))
        yield Ranks(dist.get_rank(), dist.get_world_size(), control, writer)
    finally:
        dist.destroy_process_group()


def local_images(params: Params, ranks: Ranks) -> range:
    """Return the rows of each batch that this process trains on, an equal share in whole KoLeo groups.

    Raises:
        FrancaError: The batch cannot be shared like this; the message names the numbers of processes that can.
    """
    batch_size, koleo_images = params.pretrain.batch_size, params.pretrain.losses.koleo_images
    groups = batch_size // koleo_images
    if groups % ranks.count:
        fitting = [str(count) for count in range(1, min(groups, MOST_PROCESSES) + 1) if groups % count == 0]
        raise FrancaError(
            f"pretrain.batch_size: {batch_size} images on {ranks.count} processes are {batch_size / ranks.count:g}"
            f" each, which is no multiple of pretrain.losses.koleo_images {koleo_images}; use"
            f" {' or '.join(', '.join(fitting).rsplit(', ', 1))} processes"
        )
    share = batch_size // ranks.count
    return range(ranks.rank * share, (ranks.rank + 1) * share)


def distribute(
    student: Network, teacher: Network, how: str, precision: str, ranks: Ranks, device: torch.device
) -> nn.Module:
    """Replicate or shard the networks over ranks, in place; return the module that runs the student.

    Create optimizers afterwards: sharding replaces parameters.

    Args:
        student: The network whose gradients are averaged over ranks.
        teacher: The network without gradients. DDP does not wrap it: every rank updates its own copy from the same
            student.
        how: "ddp", "fsdp" (shards over all ranks) or "hsdp" (shards within a machine, replicas over machines).
        precision: "fp32" or "bf16", the dtype in which FSDP2 gathers the blocks' weights.
        ranks: The ranks; without a group the student is returned as it is.
        device: The device of this process.
    """
    if not ranks.grouped:
        return student
    if how == "ddp":
        # Not static_graph: it does not work with no_sync (https://github.com/pytorch/pytorch/issues/143580).
        # gradient_as_bucket_view saves a copy of all gradients.
        indices = [device.index] if device.type == "cuda" else None
        replica = DistributedDataParallel(student, device_ids=indices, gradient_as_bucket_view=True)
        _fix_bucket_order(replica, student, device)
        return replica
    mesh = _mesh(how, ranks, device)
    # Heads and the root (patch embedding, positions, tokens, final norm) are gathered as float32, because prototypes
    # are normalized and multiplied in float32.
    full = low = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    if precision == "bf16":
        # Blocks hold most of the backbone's weights, and autocast would make bf16 copies of them anyway: gathering
        # bf16 moves half the bytes. Norms and LayerScale are rounded too, and activations between blocks are bf16
        # (float32 under DDP). The official code does the same with fp16. Weights are stored and gradients reduced as
        # float32.
        low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for network in (student, teacher):
        blocks: list[Any] = list(network.backbone.blocks)
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=low, reshard_after_forward=True)
        # The student's heads and root are last in the forward and first in the backward pass, so they stay gathered in
        # between. The teacher has no backward pass, after which they would be sharded again.
        heads = [child for child in network.children() if child is not network.backbone]
        for unit in (*heads, network):
            fully_shard(unit, mesh=mesh, mp_policy=full, reshard_after_forward=network is teacher)
        for block, following in pairwise(blocks):
            # Start the next block's gather before this block's kernels are launched, not after.
            block.set_modules_to_forward_prefetch([following])
    return student


def _mesh(how: str, ranks: Ranks, device: torch.device) -> DeviceMesh:
    """Return the mesh of "fsdp", (ranks,), or of "hsdp", (machines, ranks of a machine)."""
    if how == "fsdp":
        return init_device_mesh(device.type, (ranks.count,))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not local or ranks.count % local:
        raise FrancaError(
            f"runtime.parallel 'hsdp': LOCAL_WORLD_SIZE is {local or 'not set'}, with {ranks.count} processes; start"
            " the same number of processes on every machine with torchrun, or set runtime.parallel to 'fsdp'"
        )
    # Weights are then gathered within a machine only; between machines only gradients are sent.
    return init_device_mesh(device.type, (ranks.count // local, local), mesh_dim_names=("machines", "local"))


def _fix_bucket_order(replica: DistributedDataParallel, student: Network, device: torch.device) -> None:
    """Make DDP sort the gradients into their final buckets before the first step.

    After its first backward pass, DDP sorts gradients into buckets again, in the order in which they became ready. The
    position of a gradient in its bucket decides in which order the gradients of three or more processes are added, so
    the first step of a resumed run would differ in the last bits from the same step of an uninterrupted run (measured
    with 4 processes and gloo).
    """

    def total(start: Tensor) -> Tensor:
        # The gradients of a sum become ready in the reverse order of its terms: the heads first, as in training.
        return sum((parameter.sum() for parameter in student.parameters()), start)

    student.forward = total  # type: ignore[method-assign, assignment]
    replica(torch.zeros((), device=device)).backward()
    del student.forward
    student.zero_grad(set_to_none=True)


def synchronized(student: nn.Module, last: bool) -> Any:
    """Return a context in which gradients are averaged over ranks only if this is the `last` microbatch of a batch."""
    if isinstance(student, FSDPModule):
        student.set_requires_gradient_sync(last)
    elif isinstance(student, DistributedDataParallel) and not last:
        return student.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor, gathered from all ranks if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state, gathered on every rank and moved to the CPU."""
    return {name: whole(value).cpu() for name, value in module.state_dict().items()}
