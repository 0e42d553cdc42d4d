"""Where and how tensors are computed, as the `runtime` section asks for it."""

import torch

from franca.errors import FrancaError
from franca.params import Runtime


def choose_device(runtime: Runtime) -> torch.device:
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise FrancaError("runtime.device: 'cuda' is asked for, but torch sees no GPU; set 'auto' or 'cpu'")
    return torch.device("cuda" if runtime.device != "cpu" and torch.cuda.is_available() else "cpu")


def make_deterministic(runtime: Runtime) -> None:
    """Thread count and algorithms that give the same bytes again on the same machine."""
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
