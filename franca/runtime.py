"""Where and how tensors are computed, as the `runtime` section asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from franca.errors import FrancaError
from franca.params import Runtime


def choose_device(runtime: Runtime) -> torch.device:
    return device_of(runtime.device, "runtime.device")


def device_of(choice: Literal["auto", "cpu", "cuda"], key: str) -> torch.device:
    """The device of a choice, `auto` a GPU if there is one; `key` is where it was made, for messages."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise FrancaError(f"{key}: 'cuda' is asked for, but torch sees no GPU; set 'auto' or 'cpu'")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def make_deterministic(runtime: Runtime) -> None:
    """Thread count and algorithms that give the same bytes again on the same machine."""
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Costs a pass over every new tensor; nothing reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may multiply float32 matrices as TF32: 11 bits of each factor, several times as fast."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, allowed
    try:
        yield
    finally:
        matmul.allow_tf32 = before
