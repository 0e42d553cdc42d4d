"""Device, precision and determinism of PyTorch, as set by the `runtime` section of params.yaml."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from franca.errors import FrancaError
from franca.params import Runtime

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables that configure the CUDA caching allocator; torch still reads the second, older name."""


def choose_device(runtime: Runtime) -> torch.device:
    """Return the device of this process: the CPU, or on CUDA the GPU that its launcher assigned.

    torchrun sets LOCAL_RANK to the number of a process on its machine. A process that no launcher started uses GPU 0.

    Raises:
        FrancaError: `runtime.device` is "cuda" without a GPU, LOCAL_RANK names a GPU that the machine does not have,
            or a launcher started several processes without setting LOCAL_RANK.
    """
    device = device_of(runtime.device, "runtime.device")
    return torch.device("cuda", _local_rank()) if device.type == "cuda" else device


def _local_rank() -> int:
    """Return LOCAL_RANK, checked against the number of GPUs."""
    if "LOCAL_RANK" not in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Without this check all processes of a machine would share GPU 0.
        raise FrancaError(
            "LOCAL_RANK: not set, although WORLD_SIZE is above 1; start the processes with torchrun, or have the"
            " launcher set LOCAL_RANK to the number of each process on its machine"
        )
    rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= gpus:
        raise FrancaError(
            f"LOCAL_RANK {rank}: this machine has {count_gpus(gpus)}; start at most {gpus} processes on it"
        )
    return rank


def count_gpus(number: int) -> str:
    """Return a number of GPUs in words, "1 GPU" or "4 GPUs"."""
    return f"{number} GPU" if number == 1 else f"{number} GPUs"


def device_of(choice: Literal["auto", "cpu", "cuda"], key: str) -> torch.device:
    """Return the device of an option; "auto" is a GPU if there is one.

    Args:
        choice: Value of the option.
        key: Name of the option, for the error message.

    Raises:
        FrancaError: `choice` is "cuda" and torch sees no GPU.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise FrancaError(f"{key}: 'cuda' is asked for, but torch sees no GPU; set 'auto' or 'cpu'")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def configure_torch(runtime: Runtime) -> None:
    """Set threads, determinism, float32 precision and the CUDA allocator for this process.

    Call this before the first CUDA tensor is created: cuBLAS and the caching allocator read their environment
    variables at first use. `runtime.deterministic` changes nothing on a CPU, where results depend on the number of
    threads alone.
    """
    torch.set_num_threads(runtime.threads)
    strict = runtime.deterministic == "strict"
    # Without warn_only: with it, the backward passes of flash and memory-efficient attention stay nondeterministic.
    torch.use_deterministic_algorithms(strict)
    torch.backends.cudnn.deterministic = strict
    if strict:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # In strict mode torch fills every new tensor by default. This code reads no memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # On by default, unlike TF32 for matrix products: the patch embedding, a float32 convolution, would use TF32.
    torch.backends.cudnn.allow_tf32 = False
    if not any(name in os.environ for name in _ALLOCATOR):
        # The number of masked patches changes from step to step; fixed segments would fragment.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Return a context that allows or forbids TF32 for float32 matrix products on a GPU.

    TF32 rounds factors to 11 bits and is several times as fast.
    """
    # torch's older names: once the newer `fp32_precision` is set, torch.compile fails, because inductor still reads
    # the older ones (https://github.com/pytorch/pytorch/issues/166387).
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, allowed
    try:
        yield
    finally:
        matmul.allow_tf32 = before
